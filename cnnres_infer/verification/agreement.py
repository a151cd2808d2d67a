"""Agreement of an engine with the trained network, slice by slice.

The reference is PyTorch's output in float32, either for the slices included in
every bundle or for a whole volume (`cnnres_infer.verification.reference`).
"""

from dataclasses import dataclass
from functools import cached_property
from typing import Any, Self

import numpy as np

from cnnres_infer.bundle.bundle import REFERENCE, Bundle
from cnnres_infer.bundle.reference_slices import read_slices
from cnnres_infer.core.arrays import BoolArray, FloatArray
from cnnres_infer.core.mask import MaskSpec
from cnnres_infer.core.precision import Precision
from cnnres_infer.engines.base import Engine, run_all
from cnnres_infer.errors import BundleError

# Reference slices are stored as uint8; this value is an intensity of 1.0.
LEVELS = 255
_LARGE_LESION_PIXELS = 50


@dataclass(frozen=True)
class Gate:
    """Acceptance thresholds for the figures of an `Agreement`.

    Attributes
    ----------
    mean
        Minimum mean Dice over the slices in which either mask has lesion.
    tail
        Minimum 5th percentile of Dice over the slices with more than 50 lesion
        pixels.
    pooled
        Minimum Dice over the pixels of all slices.
    off
        Maximum `Agreement.lesion_difference`. Masks do not reveal such
        differences, but probability maps and the fusion of modalities depend on
        them. The name is a key of the verification's JSON.
    """

    mean: float
    tail: float
    pooled: float
    off: float


GATES = {
    Precision.FP32: Gate(0.9995, 0.995, 0.9995, 0.001),
    Precision.FP16: Gate(0.999, 0.99, 0.999, 0.01),
    Precision.BF16: Gate(0.98, 0.93, 0.99, 0.05),
    Precision.INT8: Gate(0.98, 0.93, 0.99, 0.05),
}


@dataclass(frozen=True)
class Agreement:
    """How well masks and probabilities agree with their reference.

    Attributes
    ----------
    slices
        Dice of each slice; None if both masks are empty, 0 if only one is.
    large
        Whether the reference mask of each slice has more than 50 lesion pixels.
    pooled
        Dice over the pixels of all slices.
    largest_difference, mean_difference
        Maximum and mean absolute difference of probabilities.
    lesion_difference
        Mean absolute difference of probabilities over the pixels that are
        lesion in either mask; 0.0 if there are none.
    flipped_pixels
        Number of pixels that are lesion in only one of the masks.
    one_empty
        Number of slices in which only one of the masks is empty.
    """

    slices: tuple[float | None, ...]
    large: tuple[bool, ...]
    pooled: float
    largest_difference: float
    mean_difference: float
    lesion_difference: float
    flipped_pixels: int
    one_empty: int

    @classmethod
    def of(cls, output: FloatArray, reference: FloatArray, spec: MaskSpec) -> Self:
        """Compare probabilities, and the masks derived from them, with their reference.

        Probabilities that are not finite count as maximally wrong.

        Parameters
        ----------
        output, reference
            float32 (N, 1, H, W): probabilities of the engine and of PyTorch.
        spec
            How probabilities are turned into masks.
        """
        expected = spec.apply(reference)
        output = np.where(np.isfinite(output), output, np.where(expected, 0, 1).astype(np.float32))
        masks = spec.apply(output)
        pairs = list(zip(masks, expected, strict=True))
        difference = np.abs(output - reference)
        lesion = masks | expected
        return cls(
            slices=tuple(dice(a, b) if a.any() or b.any() else None for a, b in pairs),
            large=tuple(bool(b.sum() > _LARGE_LESION_PIXELS) for _, b in pairs),
            pooled=dice(masks, expected),
            largest_difference=float(difference.max()),
            mean_difference=float(difference.mean()),
            lesion_difference=float(difference[lesion].mean()) if lesion.any() else 0.0,
            flipped_pixels=int((masks ^ expected).sum()),
            one_empty=sum(bool(a.any()) != bool(b.any()) for a, b in pairs),
        )

    @property
    def both_empty(self) -> int:
        """Number of slices in which both masks are empty; all Dice figures ignore them."""
        return sum(value is None for value in self.slices)

    @property
    def counted(self) -> list[float]:
        """Dice of the slices in which either mask has lesion."""
        return [value for value in self.slices if value is not None]

    @property
    def mean(self) -> float:
        """Mean of `counted`; 1.0 if it is empty."""
        return float(np.mean(self.counted)) if self.counted else 1.0

    @property
    def tail(self) -> float:
        """5th percentile of Dice over the slices that are `large`; 1.0 if there are none."""
        pairs = zip(self.slices, self.large, strict=True)
        large = [value for value, is_large in pairs if is_large and value is not None]
        return float(np.percentile(large, 5)) if large else 1.0

    def passes(self, gate: Gate) -> bool:
        """Whether all figures meet the acceptance thresholds."""
        return (
            self.mean >= gate.mean
            and self.tail >= gate.tail
            and self.pooled >= gate.pooled
            and self.lesion_difference <= gate.off
        )

    def to_json(self) -> dict[str, Any]:
        """Convert the figures to JSON."""
        return {
            "slices": len(self.slices),
            "both_empty": self.both_empty,
            "one_empty": self.one_empty,
            "dice_min": min(self.counted, default=1.0),
            "dice_p1": float(np.percentile(self.counted, 1)) if self.counted else 1.0,
            "dice_mean": self.mean,
            "dice_p5_large": self.tail,
            "dice_pooled": self.pooled,
            "largest_difference": self.largest_difference,
            "mean_difference": self.mean_difference,
            "lesion_difference": self.lesion_difference,
            "flipped_pixels": self.flipped_pixels,
            "dice_by_slice": list(self.slices),
        }


@dataclass(frozen=True, eq=False)
class Comparison:
    """Outputs of an engine and of PyTorch for the same images.

    Attributes
    ----------
    subject
        Description of what was compared.
    names
        Name of each image.
    images
        float32 (N, C, H, W) in [0, 1].
    output, reference
        float32 (N, 1, H, W): probabilities of the engine and of PyTorch.
    mask
        How probabilities are turned into masks.
    mask_dice
        Dice of the final masks on the volume's own grid; None if the images are
        not those of a volume.
    """

    subject: str
    names: tuple[str, ...]
    images: FloatArray
    output: FloatArray
    reference: FloatArray
    mask: MaskSpec
    mask_dice: float | None = None

    @cached_property
    def agreement(self) -> Agreement:
        """The agreement over all images."""
        return Agreement.of(self.output, self.reference, self.mask)

    def passes(self, gate: Gate) -> bool:
        """Whether the images, and the volume's mask by `Gate.pooled`, meet the thresholds."""
        mask_passes = self.mask_dice is None or self.mask_dice >= gate.pooled
        return self.agreement.passes(gate) and mask_passes

    def to_json(self) -> dict[str, Any]:
        """Convert the figures to JSON."""
        volume = {} if self.mask_dice is None else {"dice_volume_mask": self.mask_dice}
        return {**self.agreement.to_json(), **volume, "slice_names": list(self.names)}


def dice(a: BoolArray, b: BoolArray) -> float:
    """Dice coefficient of two masks of the same shape; 1.0 if both are empty.

    References
    ----------
    L. R. Dice, "Measures of the amount of ecologic association between
    species", Ecology 26 (1945) 297-302.
    """
    total = int(a.sum()) + int(b.sum())
    return 2 * int((a & b).sum()) / total if total else 1.0


def load_reference(bundle: Bundle) -> tuple[FloatArray, FloatArray]:
    """Load a bundle's reference slices and PyTorch's probabilities for them.

    Returns
    -------
    images
        float32 (N, C, H, W) in [0, 1].
    probabilities
        float32 (N, 1, H, W).

    Raises
    ------
    BundleError
        If the file is missing, was modified, contains something else, or cannot
        tell a right engine from a wrong one.
    """
    content = bundle.read(REFERENCE)
    try:
        images, probabilities = read_slices(content, bundle.spec)
    except ValueError as error:
        raise BundleError(
            f"{bundle.folder / REFERENCE}: no reference slices ({error}); export the bundle again"
        ) from error
    return images.astype(np.float32) / np.float32(LEVELS), probabilities


def compare(engine: Engine, bundle: Bundle) -> Comparison:
    """Compare an engine with PyTorch on a bundle's reference slices.

    Raises
    ------
    BundleError
        If the reference slices cannot be trusted.
    EngineRunError
        If the engine fails.
    """
    images, probabilities = load_reference(bundle)
    return Comparison(
        f"the bundle's {len(images)} reference slices",
        tuple(f"reference slice {i}" for i in range(len(images))),
        images,
        run_all(engine, images),
        probabilities,
        bundle.spec.mask,
    )
