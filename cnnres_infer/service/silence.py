"""pynetdicom, loaded so that nothing about a patient is printed."""

import logging
import threading
import warnings
from collections.abc import Callable

from cnnres_infer.codes import ErrorCode
from cnnres_infer.errors import UsageError

_Hook = Callable[[threading.ExceptHookArgs], object]


def require_pynetdicom() -> None:
    """Raise `UsageError` if pynetdicom is not installed; keep what it prints free of patients."""
    try:
        import pydicom  # noqa: F401
        from pynetdicom import _config
    except ImportError as error:
        raise UsageError(
            f"speaking DICOM needs pynetdicom ({error}); run pip install "
            "'cnnres-infer[dicom,service]'",
            code=ErrorCode.SERVICE_EXTRA,
        ) from error
    # Both log the content of messages, or the values that they stumble over.
    _config.LOG_HANDLER_LEVEL = "none"
    for name in ("pynetdicom", "pydicom"):
        logging.getLogger(name).setLevel(logging.CRITICAL + 1)
    warnings.filterwarnings("ignore", module="pydicom")
    warnings.filterwarnings("ignore", module="pynetdicom")
    if not isinstance(threading.excepthook, _SilentThreads):
        threading.excepthook = _SilentThreads(threading.excepthook)


class _SilentThreads:
    """Prints the errors of all threads but those of pynetdicom's connections.

    Theirs end if a connection breaks at the wrong moment, and the traceback would have
    the values that were received. The association is closed then, and counted by that.
    """

    def __init__(self, others: _Hook) -> None:
        self._others = others

    def __call__(self, failed: threading.ExceptHookArgs) -> None:
        if not type(failed.thread).__module__.startswith("pynetdicom."):
            self._others(failed)
