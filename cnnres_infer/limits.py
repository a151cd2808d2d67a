"""Limits on the bytes, voxels, memory and time that one volume may take."""

from dataclasses import dataclass
from typing import NoReturn

from cnnres_infer.codes import ErrorCode
from cnnres_infer.errors import LimitError, UsageError

_FACTORS = {"K": 1 << 10, "M": 1 << 20, "G": 1 << 30}

# Measured upper bounds, used to check a volume against the memory limit: for each voxel
# from reading to writing, with FLAIR and ADC resampled to the DWI, and for each pixel inside
# the network.
_BYTES_PER_VOXEL = 40
_BYTES_PER_PIXEL = 1100


@dataclass(frozen=True)
class Limits:
    """Limits for one volume; a volume that would exceed one is refused.

    Attributes
    ----------
    max_voxels
        Largest number of voxels.
    max_bytes
        Largest size of a file in bytes, compressed and decompressed.
    max_memory
        Memory in bytes that the process may use, GPU memory not included; None
        for no limit. Batches shrink to fit.
    timeout
        Longest time in seconds; None for no limit. Checked before each stage
        and each batch.

    Raises
    ------
    UsageError
        If a limit is not positive.
    """

    max_voxels: int = 1 << 27
    max_bytes: int = 1 << 30
    max_memory: int | None = None
    timeout: float | None = None

    def __post_init__(self) -> None:
        for name, value in vars(self).items():
            if value is not None and not value > 0:
                raise UsageError(f"`{name}` is {value}; it must be greater than 0")

    def check_header(self, name: str, voxels: int, end: int, resident: int) -> None:
        """Check the sizes declared in a header, before any memory is allocated for them.

        Parameters
        ----------
        name
            Name of the file in messages.
        voxels
            Number of voxels.
        end
            Size of the whole file in bytes, decompressed.
        resident
            Memory in bytes that the process is using already.

        Raises
        ------
        LimitError
            If a size exceeds its limit.
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
        """Choose the batch size: what the engine prefers, or as much as memory allows.

        Parameters
        ----------
        name
            Name of the volume in messages.
        sizes
            The smallest batch size that the engine reserves memory for, and the
            one that it prefers.
        voxels
            Number of voxels of the volume, which is in memory already.
        pixels
            Number of pixels of one slice inside the network, over all channels.
        resident
            Memory in bytes that the process is using already.

        Returns
        -------
        int
            Number of slices to run at once.

        Raises
        ------
        LimitError
            If there is not enough memory for the smallest batch size.
        """
        least, preferred = sizes
        slice_bytes, rest = pixels * _BYTES_PER_PIXEL, voxels * _BYTES_PER_VOXEL // 2
        if self.max_memory is None:
            return preferred
        free = self.max_memory - resident - rest
        if free < least * slice_bytes:
            fewer = f", or choose a `backend` that needs fewer than {least} slices at once"
            needed = resident + rest + least * slice_bytes
            self._refuse(name, needed, fewer if free >= slice_bytes else "")
        return max(least, min(preferred, free // slice_bytes))

    def _refuse(self, name: str, total: int, remedy: str = "") -> NoReturn:
        raise LimitError(
            f"{name}: needs about {total} bytes of memory, more than "
            f"`max_memory={self.max_memory}`: raise the limit{remedy}",
            code=ErrorCode.LIMIT_MEMORY,
        )


DEFAULT_LIMITS = Limits()


def parse_size(text: str) -> int:
    """Parse a size such as ``"1500000"``, ``"512M"`` or ``"2G"`` (powers of 1024).

    Parameters
    ----------
    text
        The size.

    Returns
    -------
    int
        The size in bytes.

    Raises
    ------
    UsageError
        If it is not a size.
    """
    number, factor = text.strip(), 1
    if number[-1:].upper() in _FACTORS:
        number, factor = number[:-1], _FACTORS[number[-1:].upper()]
    if not number.isascii() or not number.isdigit():
        raise UsageError(f"{text!r} is not a size; give bytes, or a number followed by K, M or G")
    return int(number) * factor
