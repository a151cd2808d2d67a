"""The one error tree of the package.

::

    CnnresError                    1  an error of ours: the base of all below
    ├── UsageError                 2  options that contradict each other
    ├── InputError                 3  an input that must not be segmented
    │   ├── VolumeError               a file that is no sound 3-D volume
    │   ├── GeometryError             a grid whose place in space is unknown
    │   ├── BundleError               a model bundle that cannot be trusted
    │   ├── ReferenceFileError        stored outputs that belong to something else
    │   └── LimitError                more bytes, voxels, memory or time than allowed
    ├── OutputError                3  an output that cannot be written
    │   └── OutputExistsError         ... because something already exists there
    ├── VerificationError          4  an engine that disagrees with the network
    └── EngineError                5  a backend that cannot be used
        ├── BackendUnavailableError   not installed, or refused by its check
        │   └── PrecisionUnavailableError ... for lack of hardware
        └── EngineRunError            failed while it ran

The numbers are the exit statuses of the command line. Every error carries one
of the stable codes of codes.py.
"""

from typing import ClassVar

from cnnres_infer.codes import ErrorCode


class CnnresError(Exception):
    """Base of all errors that this package raises on purpose.

    Parameters
    ----------
    message
        What is wrong, where, and how to fix it. Arguments are named in backticks, as in Python;
        the command line gives its own flags for them.
    code
        One of `cnnres_infer.codes.ErrorCode`; by default that of the class.
    """

    exit_status: ClassVar[int] = 1
    default_code: ClassVar[ErrorCode] = ErrorCode.INTERNAL

    def __init__(self, message: str = "", *, code: ErrorCode | None = None) -> None:
        super().__init__(message)
        self.code = code or self.default_code


class UsageError(CnnresError, ValueError):
    """Options or arguments that contradict each other."""

    exit_status = 2
    default_code = ErrorCode.USAGE


class InputError(CnnresError, ValueError):
    """An input that must not be segmented; nothing was written."""

    exit_status = 3


class VolumeError(InputError):
    """A file or array that is no sound 3-D image."""

    default_code = ErrorCode.ARRAY


class GeometryError(InputError):
    """A grid whose place in the patient's space is unknown or contradictory."""

    default_code = ErrorCode.GRID_AFFINE


class BundleError(InputError):
    """A model bundle that is incomplete, altered or not understood."""

    default_code = ErrorCode.BUNDLE


class LimitError(InputError):
    """An input that needs more bytes, voxels, memory or time than is allowed."""

    default_code = ErrorCode.LIMIT_BYTES


class ReferenceFileError(InputError):
    """A file of PyTorch's outputs that is damaged, or belongs to something else."""

    default_code = ErrorCode.REFERENCE


class OutputError(CnnresError, OSError):
    """An output that cannot be written; nothing was."""

    exit_status = 3
    default_code = ErrorCode.OUTPUT_WRITE


class OutputExistsError(OutputError, FileExistsError):
    """An output that already exists and may not be overwritten.

    Parameters
    ----------
    path
        What exists.
    """

    default_code = ErrorCode.OUTPUT_EXISTS

    def __init__(self, path: object) -> None:
        super().__init__(f"{path} already exists: choose another location, or add `overwrite=True`")


class VerificationError(CnnresError, ArithmeticError):
    """An engine's output that differs too much from the network's."""

    exit_status = 4
    default_code = ErrorCode.VERIFY


class EngineError(CnnresError, RuntimeError):
    """A backend that cannot do what was asked of it."""

    exit_status = 5
    default_code = ErrorCode.BACKEND


class BackendUnavailableError(EngineError):
    """A backend that is not installed, not usable here, or not the one asked for.

    Parameters
    ----------
    reason
        Why not.
    remedy
        The command or step that fixes it, where one is known.
    """

    def __init__(self, reason: str, remedy: str = "") -> None:
        super().__init__(f"{reason}; to fix it: {remedy}" if remedy else reason)
        self.reason = reason
        self.remedy = remedy


class PrecisionUnavailableError(BackendUnavailableError):
    """A precision that this machine's processor does not have."""


class EngineRunError(EngineError):
    """A backend that failed in the middle of its work."""

    default_code = ErrorCode.ENGINE_RUN
