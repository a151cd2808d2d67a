"""An error, as reports give it."""

import traceback
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Self

from cnnres_infer.codes import ErrorCode
from cnnres_infer.errors import CnnresError


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
        """Describe an exception; one that is not ours is a bug.

        Parameters
        ----------
        wording
            Rewords the message, which names arguments as in Python.
        """
        if isinstance(error, CnnresError):
            code, message, status = error.code, wording(str(error)), error.exit_status
        else:
            message = f"internal error: {error!r}; please report it with its traceback"
            code, status = ErrorCode.INTERNAL, CnnresError.exit_status
        lines = traceback.format_exception(error)
        return cls(type(error).__name__, code, message, status, "".join(lines))

    def to_json(self) -> dict[str, Any]:
        """The error of a report."""
        return {
            "type": self.type,
            "code": self.code,
            "message": self.message,
            "exit_status": self.exit_status,
        }
