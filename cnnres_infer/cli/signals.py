"""Ending within a second of SIGTERM, with all outputs of a volume or none."""

import os
import signal
import sys
import threading

from cnnres_infer.host.atomic import WRITING

# A write in progress may finish; a disk that takes longer is considered stuck.
_GRACE_S = 0.6
STATUS = 128 + signal.SIGTERM


def end_on_sigterm() -> None:
    """Make SIGTERM end the process, but not while outputs are being written.

    A thread waits for the signal, since some libraries compute for a long time
    without letting Python run its signal handlers, and others swallow the
    exceptions that these raise. On Windows, which has no SIGTERM, this does
    nothing.
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
