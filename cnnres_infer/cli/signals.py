"""Ending within a second when the system asks for it, with all outputs or none."""

import os
import signal
import sys
import threading

from cnnres_infer.host.atomic import WRITING

# A write in progress may finish; a disk that takes longer is as good as stuck.
_GRACE_S = 0.6
STATUS = 128 + signal.SIGTERM


def end_on_sigterm() -> None:
    """Make SIGTERM end the process, but not amid the writing of outputs.

    A thread waits for the signal, since a library may compute for long without
    letting Python's own handlers in, and others swallow what these raise.
    Windows has no such signal.
    """
    if sys.platform == "win32":
        return
    reader, writer = os.pipe()
    os.set_blocking(writer, False)
    signal.set_wakeup_fd(writer, warn_on_full_buffer=False)
    signal.signal(signal.SIGTERM, lambda _number, _frame: None)
    threading.Thread(target=_watch, args=(reader,), daemon=True).start()


def _watch(reader: int) -> None:
    while signal.SIGTERM not in os.read(reader, 64):
        pass
    WRITING.acquire(timeout=_GRACE_S)
    os._exit(STATUS)
