"""Agreement of masks: Dice."""

from cnnres_infer.slices import BoolArray


def dice(a: BoolArray, b: BoolArray) -> float:
    """Dice coefficient of two masks of one shape; 1.0 where both are empty.

    References
    ----------
    L. R. Dice, "Measures of the amount of ecologic association between
    species", Ecology 26 (1945) 297-302.
    """
    total = int(a.sum()) + int(b.sum())
    return 2 * int((a & b).sum()) / total if total else 1.0
