"""What the caller wants read, where a file or study holds several images."""

import math
from dataclasses import dataclass

from cnnres_infer.errors import UsageError


@dataclass(frozen=True)
class Pick:
    """What to read of several images.

    Attributes
    ----------
    series
        Numbers or UIDs of the series of a study that the volume and its FLAIR are
        taken from; empty for all.
    b_value
        The b-value to segment in s/mm2; None for the one nearest to 1000. Of an
        image that is the only one and says nothing of its b-value, what that is.
    flair
        Whether the FLAIR of a study is wanted with its DWI.

    Raises
    ------
    UsageError
        If the b-value is not positive.
    """

    series: tuple[str, ...] = ()
    b_value: float | None = None
    flair: bool = True

    def __post_init__(self) -> None:
        if self.b_value is not None and not 0 < self.b_value < math.inf:
            raise UsageError(f"`bvalue` is {self.b_value}; it must be greater than 0")


EVERYTHING = Pick()
