"""Kills a service at each of its steps in turn, starts it again, and tells what is left.

Run as a program, since it forks: ``killing.py watch CASE BUNDLE FOLDER`` for a hot folder,
and with ``listen`` for what is received. A step is whatever changes a file or folder:
an audit hook counts them, and the process is killed at the one that it is told to be.
"""

import json
import os
import shutil
import signal
import sys
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from pathlib import Path

from pydicom import dcmread

from cnnres_infer.batch import Job
from cnnres_infer.limits import DEFAULT_LIMITS
from cnnres_infer.predictor import Predictor
from cnnres_infer.service import build
from cnnres_infer.service.build import Settings, hot_folder
from cnnres_infer.service.run import Service
from cnnres_infer.service.state import open_area
from cnnres_infer.service.store import SUCCESS, Store
from tests.service.studies import instance

_CHANGES = ("os.rename", "os.mkdir", "os.link", "os.remove", "os.rmdir")
_NEVER = 1 << 30


def main(mode: str, case: Path, bundle: Path, folder: Path) -> None:
    outcomes = []
    serve = {"watch": watch, "listen": listen}[mode]
    # Each object is received in the same steps.
    steps = range(1, 1000) if mode == "watch" else (*range(1, 9), *range(9, 1000, 26))
    for step in steps:
        root = folder / str(step)
        root.mkdir(parents=True)
        was_killed = forked(partial(serve, root, case, bundle, step))
        forked(partial(serve, root, case, bundle, _NEVER))
        outcomes.append({"killed": was_killed, **left(root / "in")})
        if not was_killed:
            break
    json.dump(outcomes, sys.stdout)


def forked(work: Callable[[], None]) -> bool:
    """Do work in another process; returns whether it was killed."""
    child = os.fork()
    if child == 0:
        try:
            work()
        except BaseException:
            import traceback

            traceback.print_exc()
            os._exit(1)
        os._exit(0)
    _, status = os.waitpid(child, 0)
    assert os.WIFSIGNALED(status) or os.waitstatus_to_exitcode(status) == 0
    return os.WIFSIGNALED(status)


def watch(root: Path, case: Path, bundle: Path, step: int) -> None:
    if not (root / "in").exists():
        (root / "in").mkdir()
        shutil.copy(case, root / "in" / case.name)
    with hot_folder(settings(root), partial(load, bundle, step)) as running:
        run_once(running.service)


def listen(root: Path, case: Path, bundle: Path, step: int) -> None:
    """What a sender sends that does not get all answers, and then sends all again."""
    area_of = open_area(root / "in", root / "in" / "incoming")
    with area_of as area, load(bundle, step) as predictor:
        store = Store(area, 0)
        store.recover()
        service = build._service(area, settings(root), predictor, no_watch, store)
        service.recover()
        for path in sorted(case.rglob("I*")):
            status, _ = store.put(instance(dcmread(path)))
            assert status == SUCCESS
        store.end(None, released=True)
        run_once(service)


def settings(root: Path) -> Settings:
    return Settings(root / "in", Job(out=root / "out", formats=("report", "mask")), 0.0, True)


def load(bundle: Path, step: int) -> Predictor:
    predictor = Predictor.load(bundle, "ort", threads=1, self_check=False, limits=DEFAULT_LIMITS)
    kill_at(step)
    return predictor


def no_watch(_: Path) -> AbstractContextManager[None]:
    return nullcontext()


def run_once(service: Service) -> None:
    service.recover()
    for arrival in service.folder.complete():
        service._handle(arrival)


def kill_at(step: int) -> None:
    """Kill this process at a step from now on."""
    count = 0

    def hook(event: str, arguments: tuple[object, ...]) -> None:
        nonlocal count
        writes = event == "open" and isinstance(arguments[2], int) and arguments[2] & os.O_ACCMODE
        if event in _CHANGES or writes:
            count += 1
            if count == step:
                os.kill(os.getpid(), signal.SIGKILL)

    sys.addaudithook(hook)


def left(root: Path) -> dict[str, object]:
    log = root / "log.jsonl"
    lines = [json.loads(each) for each in log.read_text().splitlines()] if log.exists() else []
    return {
        "log": [line["status"] for line in lines],
        "done": sorted(path.name for path in (root / "done").iterdir()),
        "failed": sorted(path.name for path in (root / "failed").iterdir()),
        "working": sorted(path.name for path in (root / "working").iterdir()),
        "originals": sorted(
            str(path.relative_to(root))
            for path in root.rglob("*")
            if path.is_file() and "originals" in path.parts
        ),
        "out": sorted(path.name for path in (root.parent / "out").iterdir()),
    }


if __name__ == "__main__":
    main(sys.argv[1], *map(Path, sys.argv[2:]))
