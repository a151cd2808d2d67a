import subprocess
import sys
from pathlib import Path

import pytest

from tests import commands

ONCE = ("-n", "1", "-r", "1")
on_linux = pytest.mark.skipif(sys.platform != "linux", reason="forks on Linux only")


def test_a_command_that_takes_too_long_is_killed(tmp_path: Path) -> None:
    late = tmp_path / "late"
    sleep = f"print('begun', flush=True); time.sleep(3); open({str(late)!r}, 'w')"
    with pytest.raises(subprocess.TimeoutExpired):
        commands.run("timeit", *ONCE, "-s", "import time", sleep, timeout=0.5)
    done = commands.run("timeit", *ONCE, "-s", "import time", "time.sleep(3)")
    assert done.returncode == 0
    assert not late.exists()


def test_threads_end_before_their_command() -> None:
    start = "threading.Timer(0.3, print, ['late']).start()"
    done = commands.run("timeit", *ONCE, "-s", "import threading", start)
    assert done.returncode == 0, done.stderr
    assert done.stdout.endswith("late\n")


@on_linux
def test_a_server_starts_in_the_first_environment_and_its_death_is_told(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("OF_ONE_TEST", "1")
    server = commands._Server(tools=False)
    # Its environment can be read once it has become another program than this one's fork.
    server.run(["timeit", *ONCE, "pass"], Path.cwd(), {}, None)
    environment = Path(f"/proc/{server._process.pid}/environ").read_bytes()
    assert environment
    assert b"OF_ONE_TEST" not in environment
    server._errors.write_text("out of memory")
    server._process.kill()
    with pytest.raises(RuntimeError, match="status -9:\nout of memory"):
        server.run(["timeit"], Path.cwd(), {}, None)


def test_only_missing_dependencies_are_passed_over(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(tmp_path)
    for name, line in {
        "needs_other": "import no_such_dependency",
        "needs_own": "import cnnres_infer.no_such_module",
        "needs_name": "from cnnres_infer.errors import no_such_name",
    }.items():
        (tmp_path / f"{name}.py").write_text(line)
    commands._import("needs_other")
    for name in ("needs_own", "needs_name"):
        with pytest.raises(ImportError, match="no_such"):
            commands._import(name)
