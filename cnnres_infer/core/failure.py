"""An error, as reports give it."""

import traceback
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Self

from cnnres_infer.codes import ErrorCode
from cnnres_infer.errors import CnnresError, InputError


def _denied(error: Exception) -> str:
    """What the operating system did not provide; empty if it is not to blame."""
    if isinstance(error, MemoryError):
        return f"not enough memory ({str(error) or 'none left'}); raise its limit, or free some"
    if isinstance(error, RuntimeError) and str(error) == "can't start new thread":
        return "no further thread; raise the limit of memory or processes"
    if isinstance(error, ImportError):
        return f"a library cannot be loaded ({error}); raise the limit of memory, or reinstall it"
    if isinstance(error, OSError):
        return f"{error.strerror or error}" + (f" ({error.filename})" if error.filename else "")
    return ""


def _traceback(error: Exception) -> str:
    """Where an error was raised; empty if there is no memory left to say so."""
    try:
        return "".join(traceback.format_exception(error))
    except MemoryError:
        return ""


@dataclass(frozen=True)
class Failure:
    """What went wrong.

    Attributes
    ----------
    type
        Name of the exception's class.
    code
        Stable code.
    message
        What is wrong, where, and how to fix it.
    exit_status
        What the command line exits with.
    traceback
        Where it was raised, for whoever looks for a bug; not in reports. A text
        and not the exception, which would keep a case's arrays in memory.
    """

    type: str
    code: ErrorCode
    message: str
    exit_status: int
    traceback: str = field(repr=False)

    @classmethod
    def of(cls, error: Exception, wording: Callable[[str], str] = str) -> Self:
        """Describe an exception; one that is neither ours nor the system's is a bug.

        Parameters
        ----------
        wording
            Rewords the message, which names arguments as in Python.
        """
        if isinstance(error, CnnresError):
            code, message, status = error.code, wording(str(error)), error.exit_status
        elif reason := _denied(error):
            code, status = ErrorCode.SYSTEM, InputError.exit_status
            message = f"the system does not allow what is needed: {reason}"
        else:
            message = f"internal error: {error!r}; please report it with its traceback"
            code, status = ErrorCode.INTERNAL, CnnresError.exit_status
        return cls(type(error).__name__, code, message, status, _traceback(error))

    def to_json(self) -> dict[str, Any]:
        """The error of a report."""
        return {
            "type": self.type,
            "code": self.code,
            "message": self.message,
            "exit_status": self.exit_status,
        }
