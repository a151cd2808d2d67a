"""Agreement of an engine with the trained network, slice by slice.

The reference is what PyTorch computed in float32: for the slices that come with
every bundle, or for a whole volume (`cnnres_infer.verification.reference`).
"""

import io
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Self

import numpy as np

from cnnres_infer.bundle.bundle import REFERENCE, Bundle
from cnnres_infer.core.arrays import BoolArray, FloatArray
from cnnres_infer.core.mask import MaskSpec
from cnnres_infer.engines.base import Engine, run_all
from cnnres_infer.errors import BundleError

LEVELS = 255
_LARGE_PIXELS = 50


@dataclass(frozen=True)
class Gate:
    """What an engine must reach to be trusted.

    Attributes
    ----------
    mean
        Mean Dice over the slices where either mask has lesion.
    tail
        5th percentile of Dice over the slices with more than 50 lesion pixels.
    pooled
        Dice over the pixels of all slices.
    off
        Most that the probabilities of lesion pixels may be off, on average:
        masks alone would not show it, but maps and merged modalities need them.
    """

    mean: float
    tail: float
    pooled: float
    off: float


GATES = {
    "fp32": Gate(0.9995, 0.995, 0.9995, 0.001),
    "fp16": Gate(0.999, 0.99, 0.999, 0.01),
    "bf16": Gate(0.98, 0.93, 0.99, 0.05),
    "int8": Gate(0.98, 0.93, 0.99, 0.05),
}


@dataclass(frozen=True)
class Agreement:
    """How well masks and probabilities agree with their reference.

    Attributes
    ----------
    slices
        Dice of each slice; None where both masks are empty, 0 where one is.
    large
        Whether the reference mask of each slice has more than 50 pixels.
    pooled
        Dice over the pixels of all slices.
    largest_difference, mean_difference
        Absolute differences of probabilities.
    lesion_difference
        Mean absolute difference of probabilities over the pixels that are
        lesion in either mask; 0.0 if there are none.
    flipped_pixels
        Pixels that are lesion in one mask and not in the other.
    one_empty
        Slices in which one mask is empty and the other is not.
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
        """Compare probabilities (N, 1, H, W) with their reference, as masks too.

        A pixel whose probability is no finite number counts as wrong as can be.
        """
        expected = spec.apply(reference)
        output = np.where(np.isfinite(output), output, np.where(expected, 0, 1).astype(np.float32))
        masks = spec.apply(output)
        pairs = list(zip(masks, expected, strict=True))
        difference = np.abs(output - reference)
        lesion = masks | expected
        return cls(
            slices=tuple(dice(a, b) if a.any() or b.any() else None for a, b in pairs),
            large=tuple(bool(b.sum() > _LARGE_PIXELS) for _, b in pairs),
            pooled=dice(masks, expected),
            largest_difference=float(difference.max()),
            mean_difference=float(difference.mean()),
            lesion_difference=float(difference[lesion].mean()) if lesion.any() else 0.0,
            flipped_pixels=int((masks ^ expected).sum()),
            one_empty=sum(bool(a.any()) != bool(b.any()) for a, b in pairs),
        )

    @property
    def both_empty(self) -> int:
        """Slices in which both masks are empty; they count nowhere else."""
        return sum(value is None for value in self.slices)

    @property
    def counted(self) -> list[float]:
        """Dice of the slices where either mask has lesion."""
        return [value for value in self.slices if value is not None]

    @property
    def mean(self) -> float:
        """Mean Dice over `counted`; 1.0 if there are none."""
        return float(np.mean(self.counted)) if self.counted else 1.0

    @property
    def tail(self) -> float:
        """5th percentile of Dice over the large slices; 1.0 if there are none."""
        pairs = zip(self.slices, self.large, strict=True)
        large = [value for value, is_large in pairs if is_large and value is not None]
        return float(np.percentile(large, 5)) if large else 1.0

    def passes(self, gate: Gate) -> bool:
        """Tell whether all figures of the gate are reached."""
        alike = self.mean >= gate.mean and self.tail >= gate.tail and self.pooled >= gate.pooled
        return alike and self.lesion_difference <= gate.off

    def to_json(self) -> dict[str, Any]:
        """The figures, ready for JSON."""
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
    """What an engine made of images, beside what PyTorch made of them.

    Attributes
    ----------
    subject
        What was compared, in words.
    names
        What to call each image.
    images
        float32 (N, C, H, W) in [0, 1].
    output, reference
        float32 (N, 1, H, W): probabilities of the engine and of PyTorch.
    mask
        How probabilities become masks.
    mask_dice
        Dice of the two final masks on the volume's own grid; None where the
        images are of no one volume.
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
        """The figures over the images."""
        return Agreement.of(self.output, self.reference, self.mask)

    def passes(self, gate: Gate) -> bool:
        """Tell whether the gate is reached, by the volume's mask too (as `Gate.pooled`)."""
        whole = self.mask_dice is None or self.mask_dice >= gate.pooled
        return self.agreement.passes(gate) and whole

    def to_json(self) -> dict[str, Any]:
        """The figures, ready for JSON."""
        volume = {} if self.mask_dice is None else {"dice_volume_mask": self.mask_dice}
        return {**self.agreement.to_json(), **volume, "slice_names": list(self.names)}


def dice(a: BoolArray, b: BoolArray) -> float:
    """Dice coefficient of two masks of one shape; 1.0 where both are empty.

    References
    ----------
    L. R. Dice, "Measures of the amount of ecologic association between
    species", Ecology 26 (1945) 297-302.
    """
    total = int(a.sum()) + int(b.sum())
    return 2 * int((a & b).sum()) / total if total else 1.0


def load_reference(bundle: Bundle) -> tuple[FloatArray, FloatArray]:
    """Reference slices of a bundle and PyTorch's probabilities for them.

    Returns
    -------
    images
        float32 (N, C, H, W) in [0, 1].
    probabilities
        float32 (N, 1, H, W).

    Raises
    ------
    BundleError
        If the file was altered, or holds something else.
    """
    content = bundle.read(REFERENCE)
    try:
        with np.load(io.BytesIO(content), allow_pickle=False) as archive:
            images, probabilities = archive["images"], archive["probabilities"]
    except (KeyError, ValueError, OSError) as error:
        raise BundleError(f"{bundle.folder / REFERENCE}: no reference slices ({error})") from error
    return images.astype(np.float32) / np.float32(LEVELS), probabilities


def compare(engine: Engine, bundle: Bundle) -> Comparison:
    """Run a bundle's reference slices through an engine.

    Raises
    ------
    BundleError
        If the bundle's reference cannot be trusted.
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
