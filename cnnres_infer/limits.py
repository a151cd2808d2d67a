"""What one volume may cost: bytes, voxels, memory and time."""

from dataclasses import dataclass
from typing import NoReturn

from cnnres_infer.codes import ErrorCode
from cnnres_infer.errors import LimitError, UsageError

_FACTORS = {"K": 1 << 10, "M": 1 << 20, "G": 1 << 30}

# Measured: the most that one voxel costs between reading and writing, which is
# with a FLAIR that is resampled to it, and one pixel inside the network with
# ONNX Runtime; what a limit leaves is compared with them.
_BYTES_PER_VOXEL = 32
_BYTES_PER_PIXEL = 1100


@dataclass(frozen=True)
class Limits:
    """What one volume may cost; where it would cost more, it is refused.

    Attributes
    ----------
    max_voxels
        Voxels of one volume.
    max_bytes
        Bytes of a file, and of what it inflates to.
    max_memory
        Bytes of memory that the process may hold, that of a GPU not counted;
        None for no limit. Batches shrink to keep to it.
    timeout
        Seconds for one volume; None for no limit. Looked at before each stage
        and each batch.
    """

    max_voxels: int = 1 << 27
    max_bytes: int = 1 << 30
    max_memory: int | None = None
    timeout: float | None = None

    def __post_init__(self) -> None:
        for name, value in vars(self).items():
            if value is not None and not value > 0:
                raise UsageError(f"{name} is {value}; give more than 0")

    def check_header(self, name: str, voxels: int, end: int, resident: int) -> None:
        """Refuse what a header claims, before anything is allocated for it.

        Parameters
        ----------
        name
            What to call the file.
        voxels
            Voxels of one volume.
        end
            Bytes of the whole file, inflated.
        resident
            Bytes of memory that the process holds already.

        Raises
        ------
        LimitError
            If it is more than is allowed.
        """
        for what, claimed, limit, code in (
            ("voxels", voxels, self.max_voxels, ErrorCode.LIMIT_VOXELS),
            ("bytes", end, self.max_bytes, ErrorCode.LIMIT_BYTES),
        ):
            if claimed > limit:
                raise LimitError(
                    f"{name}: {claimed} {what}, more than `max_{what}={limit}`", code=code
                )
        total = resident + end + voxels * _BYTES_PER_VOXEL
        if self.max_memory is not None and total > self.max_memory:
            self._refuse(name, total)

    def batch_size(
        self, name: str, sizes: tuple[int, int], voxels: int, pixels: int, resident: int
    ) -> int:
        """Slices to run at once: those that the engine prefers, or as many as memory allows.

        Parameters
        ----------
        name
            What to call the volume.
        sizes
            The least that the engine needs memory for, and what it likes best.
        voxels
            Voxels of the volume, which is in memory already.
        pixels
            Pixels of one slice inside the network, all channels.
        resident
            Bytes of memory that the process holds already.

        Raises
        ------
        LimitError
            If there is not enough for the least.
        """
        least, preferred = sizes
        slice_bytes, rest = pixels * _BYTES_PER_PIXEL, voxels * _BYTES_PER_VOXEL // 2
        if self.max_memory is None:
            return preferred
        free = self.max_memory - resident - rest
        if free < least * slice_bytes:
            fewer = f', or use `backend="ort"`, which need not compute {least} slices at once'
            needed = resident + rest + least * slice_bytes
            self._refuse(name, needed, fewer if free >= slice_bytes else "")
        return max(least, min(preferred, free // slice_bytes))

    def _refuse(self, name: str, total: int, remedy: str = "") -> NoReturn:
        raise LimitError(
            f"{name}: about {total} bytes of memory are needed, more than "
            f"`max_memory={self.max_memory}`: raise it{remedy}",
            code=ErrorCode.LIMIT_MEMORY,
        )


DEFAULT_LIMITS = Limits()


def parse_size(text: str) -> int:
    """Bytes of a size like ``"1500000"``, ``"512M"`` or ``"2G"`` (powers of 1024).

    Raises
    ------
    UsageError
        If it is none.
    """
    number, factor = text.strip(), 1
    if number[-1:].upper() in _FACTORS:
        number, factor = number[:-1], _FACTORS[number[-1:].upper()]
    if not number.isascii() or not number.isdigit():
        raise UsageError(f"{text!r} is no size; give bytes, or a number with K, M or G")
    return int(number) * factor
