"""The exceptions that this package raises on purpose.

```text
CnnresError                          1  base class of all of them
├── UsageError                       2  contradictory options or arguments
├── InputError                       3  an input that must not be segmented
│   ├── VolumeError                     not a valid 3-D volume
│   ├── GeometryError                   position in patient space unknown
│   ├── BundleError                     a model bundle that cannot be trusted
│   ├── ReferenceFileError              stored outputs of another volume or model
│   ├── LimitError                      more bytes, voxels, memory or time than allowed
│   └── ProcessLostError                a case that ended every process which segmented it
├── OutputError                      3  an output that cannot be written
│   └── OutputExistsError               an output that already exists
├── CancelledError                   1  work that its caller has cancelled
├── VerificationError                4  an engine that disagrees with the network
└── EngineError                      5  a backend that cannot be used
    ├── BackendUnavailableError         not installed, or unusable on this machine
    │   └── PrecisionUnavailableError   not supported by this machine's processor
    └── EngineRunError                  failed while running
```

The numbers are the exit statuses of the command line. Every exception carries
one of the stable codes of `cnnres_infer.codes`.
"""

from typing import Any, ClassVar, TypeVar

from cnnres_infer.codes import ErrorCode


class CnnresError(Exception):
    """Base class of the exceptions that this package raises on purpose.

    Parameters
    ----------
    message
        What is wrong, where, and how to fix it. Arguments are named in
        backticks; the command line shows its options instead.
    code
        A member of `cnnres_infer.codes.ErrorCode`; defaults to the class's own.
    """

    exit_status: ClassVar[int] = 1
    default_code: ClassVar[ErrorCode] = ErrorCode.INTERNAL

    def __init__(self, message: str = "", *, code: ErrorCode | None = None) -> None:
        super().__init__(message)
        self.code = code or self.default_code

    def __reduce__(self) -> tuple[Any, ...]:
        return _restored, (type(self), self.args, vars(self))


_Error = TypeVar("_Error", bound=CnnresError)


def _restored(kind: type[_Error], args: tuple[Any, ...], state: dict[str, Any]) -> _Error:
    """Make an error again; constructors of subclasses differ, so none is called."""
    error = kind.__new__(kind)
    error.args = args
    vars(error).update(state)
    return error


class UsageError(CnnresError, ValueError):
    """Options or arguments that contradict each other or the model."""

    exit_status = 2
    default_code = ErrorCode.USAGE


class InputError(CnnresError, ValueError):
    """An input that must not be segmented; no mask was written."""

    exit_status = 3


class VolumeError(InputError):
    """A file or array that is not a valid 3-D volume."""

    default_code = ErrorCode.ARRAY


class GeometryError(InputError):
    """A grid whose position in patient space is unknown or contradictory."""

    default_code = ErrorCode.GRID_AFFINE


class BundleError(InputError):
    """A model bundle that is incomplete, modified or of an unknown format."""

    default_code = ErrorCode.BUNDLE


class LimitError(InputError):
    """An input that needs more bytes, voxels, memory or time than is allowed."""

    default_code = ErrorCode.LIMIT_BYTES


class ProcessLostError(InputError):
    """A case that ended every process which segmented it."""

    default_code = ErrorCode.PROCESS_LOST


class ReferenceFileError(InputError):
    """A file of PyTorch outputs that is damaged or belongs to another volume or model."""

    default_code = ErrorCode.REFERENCE


class OutputError(CnnresError, OSError):
    """An output that cannot be written; nothing was written."""

    exit_status = 3
    default_code = ErrorCode.OUTPUT_WRITE


class OutputExistsError(OutputError, FileExistsError):
    """An output that already exists and may not be overwritten.

    Parameters
    ----------
    path
        The existing file or folder.
    origin
        Where it comes from, if that is why it cannot be kept, such as "made from other inputs".
    """

    default_code = ErrorCode.OUTPUT_EXISTS

    def __init__(self, path: object, origin: str = "") -> None:
        what = f"{path} already exists{origin and f', {origin}'}"
        super().__init__(f"{what}; choose another path, or add `overwrite=True`")


class CancelledError(CnnresError, RuntimeError):
    """Work that its caller has cancelled; nothing was written."""

    default_code = ErrorCode.CANCELLED


class VerificationError(CnnresError, ArithmeticError):
    """An engine whose output differs too much from the network's."""

    exit_status = 4
    default_code = ErrorCode.VERIFY


class EngineError(CnnresError, RuntimeError):
    """A backend that cannot do what was requested."""

    exit_status = 5
    default_code = ErrorCode.BACKEND


class BackendUnavailableError(EngineError):
    """A backend that is not installed, or cannot run as requested on this machine.

    Parameters
    ----------
    reason
        Why it is unavailable.
    remedy
        The command or step that fixes it, if known.
    """

    def __init__(self, reason: str, remedy: str = "") -> None:
        super().__init__(f"{reason}; to fix it: {remedy}" if remedy else reason)
        self.reason = reason
        self.remedy = remedy


class NotInstalledError(BackendUnavailableError):
    """A backend that is not installed, or lacks a part that is installed separately."""


class DeviceUnsupportedError(BackendUnavailableError):
    """A backend that does not exist for the device in this machine."""


class PrecisionUnavailableError(BackendUnavailableError):
    """A precision that this machine's processor does not support."""


class EngineRunError(EngineError):
    """A backend that failed while running."""

    default_code = ErrorCode.ENGINE_RUN
