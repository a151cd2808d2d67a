"""Commands of the package and of the checkout's tools, each run in a process of its own.

Most of the time that a command takes is that of its imports. So a server imports beforehand what
the commands need, and forks for each of them. Started anew instead are those whose imports,
memory or start is what a test looks at.

Unlike with ``python -m``, the repository's root is on the path of a fork whatever its working
folder is: that a command needs the checkout is for the tests of the wheel to find.
"""

import atexit
import gc
import json
import os
import runpy
import select
import signal
import subprocess
import sys
import tempfile
import threading
import traceback
import warnings
from collections.abc import Mapping
from contextlib import suppress
from functools import cache
from importlib import import_module
from pathlib import Path
from pkgutil import walk_packages
from typing import IO, Any, NoReturn

ROOT = Path(__file__).resolve().parents[1]
TOOLS = ("export", "calibration", "benchmarks")
LIBRARIES = ("nibabel", "numpy", "onnxruntime", "openvino", "PIL.Image", "PIL.ImageDraw", "cc3d")
# Before a test changes it: servers outlive the test that starts them.
_ENVIRONMENT = dict(os.environ)


def run(
    module: str,
    *arguments: object,
    cwd: Path | None = None,
    env: Mapping[str, str] | None = None,
    timeout: float | None = 900,
) -> subprocess.CompletedProcess[str]:
    """Run ``python -m module`` with arguments; returns its status and what it printed.

    Raises
    ------
    subprocess.TimeoutExpired
        After ``timeout`` seconds, when the command has been killed.
    """
    words = [*map(str, arguments)]
    if sys.platform != "linux":  # elsewhere, libraries do not bear a fork
        command = [sys.executable, "-m", module, *words]
        return subprocess.run(
            command,
            capture_output=True,
            text=True,
            check=False,
            cwd=cwd,
            env=env,
            timeout=timeout,
        )
    server = _server(module in TOOLS)
    return server.run([module, *words], cwd or Path.cwd(), env or os.environ, timeout)


class _Server:
    def __init__(self, tools: bool) -> None:
        command = [sys.executable, "-m", "tests.commands", *(TOOLS if tools else ())]
        self._folder = tempfile.TemporaryDirectory()
        self._errors = Path(self._folder.name) / "server"
        with self._errors.open("w") as errors:
            self._process = subprocess.Popen(
                command,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=errors,
                text=True,
                cwd=ROOT,
                env=_ENVIRONMENT,
            )
        atexit.register(self.close)

    def run(
        self, argv: list[str], cwd: Path, env: Mapping[str, str], timeout: float | None
    ) -> subprocess.CompletedProcess[str]:
        printed = [Path(self._folder.name) / name for name in ("stdout", "stderr")]
        call = {
            "argv": argv,
            "cwd": str(cwd),
            "env": dict(env),
            "printed": [*map(str, printed)],
            "timeout": timeout,
        }
        status = json.loads(self._answer(json.dumps(call)))
        stdout, stderr = (path.read_text() for path in printed)
        if status is None:
            raise subprocess.TimeoutExpired(argv, timeout or 0, stdout, stderr)
        return subprocess.CompletedProcess(argv, status, stdout, stderr)

    def _answer(self, call: str) -> str:
        answer = ""
        with suppress(BrokenPipeError):
            print(call, file=self._pipe("stdin"), flush=True)
            answer = self._pipe("stdout").readline()
        if not answer:
            status = self._process.wait()
            raise RuntimeError(
                f"the server of commands ended with status {status}:\n{self._errors.read_text()}"
            )
        return answer

    def _pipe(self, name: str) -> IO[str]:
        pipe: IO[str] = getattr(self._process, name)
        return pipe

    def close(self) -> None:
        with suppress(BrokenPipeError):  # of a call that a dead server did not read
            self._pipe("stdin").close()
        self._process.wait()
        self._pipe("stdout").close()
        self._folder.cleanup()


@cache
def _server(tools: bool) -> _Server:
    return _Server(tools)


def _serve() -> list[str]:
    """Fork for each line of the standard input; returns, in the fork, what it has to run."""
    while line := sys.stdin.readline():
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)  # NumPy's threads survive a fork
            child = os.fork()
        call = json.loads(line)
        if child == 0:
            return _become(call)
        sys.stdout.write(f"{json.dumps(_status(child, call['timeout']))}\n")
        sys.stdout.flush()
    sys.exit()


def _status(child: int, timeout: float | None) -> int | None:
    """Wait for a fork; kills it after so many seconds, and returns None then."""
    descriptor = os.pidfd_open(child)
    ended, _, _ = select.select([descriptor], [], [], timeout)
    os.close(descriptor)
    if not ended:
        os.kill(child, signal.SIGKILL)
    _, status = os.waitpid(child, 0)
    return os.waitstatus_to_exitcode(status) if ended else None


def _become(call: dict[str, Any]) -> list[str]:
    """Give this process the folder, environment and streams of a call."""
    os.chdir(call["cwd"])
    os.environ.clear()
    os.environ.update(call["env"])
    for number, path in enumerate((os.devnull, *call["printed"])):
        opened = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC if number else os.O_RDONLY)
        os.dup2(opened, number)
        os.close(opened)
    return list(call["argv"])


def _import_all(tools: list[str]) -> None:
    for name in LIBRARIES:
        _import(name)
    for package in ("cnnres_infer", *tools):
        folder = str(ROOT / package)
        for found in walk_packages([folder], f"{package}."):
            if not found.name.endswith("__main__"):  # which would run it
                _import(found.name)


def _import(name: str) -> None:
    try:
        import_module(name)
    except ModuleNotFoundError as error:
        missing = (error.name or "").partition(".")[0]
        if (ROOT / missing).is_dir():
            raise
        # An optional dependency is missing; the command says so, if it needs it.


def _end(status: object) -> NoReturn:
    """End a fork as Python would, but without taking apart what it shares with the server."""
    if isinstance(status, str):
        sys.stderr.write(f"{status}\n")
    threading._shutdown()  # type: ignore[attr-defined]
    atexit._run_exitfuncs()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status if isinstance(status, int) else 0 if status is None else 1)


if __name__ == "__main__":
    _import_all(sys.argv[1:])
    gc.collect()
    gc.freeze()
    module, *sys.argv[1:] = _serve()
    try:
        runpy.run_module(module, run_name="__main__", alter_sys=True)
    except SystemExit as ended:
        _end(ended.code)
    except BaseException:
        traceback.print_exc()
        _end(1)
    _end(None)
