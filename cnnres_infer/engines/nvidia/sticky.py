"""CUDA errors after which a process can neither use a GPU any more nor release what is on it."""

import ctypes
import re
import threading
from weakref import WeakSet

from cnnres_infer.errors import BackendUnavailableError

# CUDA's numbers for them, as ONNX Runtime, TensorRT and our own calls write them, CUDA's own
# words, and what its libraries make of them. Of all but 214, CUDA's documentation of cudaError_t
# says that "the process must be terminated and relaunched".
_STICKY = re.compile(
    r"cuda ?(failure|error) (214|226|700|702|710|71[4-9]|721|810|911)\b"
    r"|illegal memory access|illegal instruction|misaligned address|invalid program counter"
    r"|hardware stack error|unspecified launch failure|launch timed out"
    r"|device-side assert|uncorrectable ecc error|global/shared address space"
    r"|peer gpu memory over nvlink|tensor memory not completely freed"
    r"|mps client has been terminated|external entity outside of cuda"
    r"|(cudnn|cublas)_status_execution_failed",
    re.IGNORECASE,
)
_seen: list[str] = []
_watched: WeakSet[object] = WeakSet()
_watching = threading.Lock()


def note(error: Exception) -> None:
    """Remember an error of a runtime if it is the first that is sticky."""
    if _STICKY.search(str(error)):
        with _watching:
            if not _seen:
                _seen.append(str(error))
                keep(*_watched)


def seen() -> bool:
    """Whether there was a sticky error in this process."""
    return bool(_seen)


def watch(engine: object) -> None:
    """Keep an engine once there is a sticky error, although it may be neither run nor closed."""
    with _watching:
        _watched.add(engine)
        keep(engine)


def require_none() -> None:
    """Refuse to open anything on a GPU after a sticky error.

    Raises
    ------
    BackendUnavailableError
        If there was one in this process.
    """
    if _seen:
        raise BackendUnavailableError(
            f"a GPU failed in this process, and CUDA cannot be used in it any more: {_seen[0]}",
            "start the program again",
        )


def keep(*things: object) -> None:
    """Never destroy objects, if there was a sticky error.

    Destructors of ONNX Runtime throw when CUDA refuses to free memory, which aborts the
    process, also at exit. An object with one reference too many outlives the interpreter.
    """
    if _seen:
        for thing in things:
            ctypes.pythonapi.Py_IncRef(ctypes.py_object(thing))
