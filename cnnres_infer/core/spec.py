"""What a model expects as input, and how its output is interpreted."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Self

import numpy as np

from cnnres_infer.codes import ErrorCode
from cnnres_infer.core.arrays import FloatArray
from cnnres_infer.core.case import Modality
from cnnres_infer.core.diffusion import RestrictionSpec
from cnnres_infer.core.mask import MaskSpec
from cnnres_infer.errors import BundleError, UsageError

FUSION_RULES: dict[str, Callable[[FloatArray, FloatArray, np.float32], FloatArray]] = {
    "dwi": lambda dwi, _flair, _weight: dwi,
    "mean": lambda dwi, flair, weight: weight * dwi + (1 - weight) * flair,
    "geometric": lambda dwi, flair, weight: dwi**weight * flair ** (1 - weight),
    "max": lambda dwi, flair, _weight: np.maximum(dwi, flair),
}

# From the volumes of which modalities the coil's shading is removed.
SHADINGS: dict[str, tuple[Modality, ...]] = {
    "none": (),
    "removed": (Modality.DWI, Modality.FLAIR),
    "removed from dwi": (Modality.DWI,),
}
FRAMES = ("whole", "brain")
# Heights and widths are multiples of it: the network halves them five times.
_STEP = 32
_SMALLEST_SIDE = 96


@dataclass(frozen=True)
class SliceSpec:
    """Size, spacing and normalisation of the network's input images.

    Attributes
    ----------
    size
        Height and width in pixels, of images that are not cut.
    spacing
        Pixel spacing in mm, the same for rows and columns.
    ceiling
        Intensity that is mapped to 1.0, as a multiple of the tissue median (see
        `cnnres_infer.pipeline.slices.normalisation`); brighter voxels are
        clipped.
    shading
        ``"removed"`` if the network expects volumes without the coil's shading
        (see `cnnres_infer.pipeline.shading`), ``"removed from dwi"`` if only DWIs
        are without it, ``"none"`` for volumes as they are.
    frame
        ``"brain"`` if images are cut to the brain (see `cnnres_infer.core.crops`),
        ``"whole"`` if all are of the same size.
    """

    size: int
    spacing: float
    ceiling: float
    shading: str = "none"
    frame: str = "whole"

    @property
    def sides(self) -> tuple[int, ...]:
        """Heights and widths that images may have, in ascending order."""
        if self.frame == "whole":
            return (self.size,)
        return tuple(range(min(_SMALLEST_SIDE, self.size), self.size + 1, _STEP))

    def of(self, modality: Modality) -> Self:
        """The spec for images of one modality: `shading` is then ``removed`` or ``none``."""
        removed = modality in SHADINGS.get(self.shading, ())
        return replace(self, shading="removed" if removed else "none")


@dataclass(frozen=True)
class FusionSpec:
    """How the probabilities for DWI and FLAIR are combined.

    Attributes
    ----------
    rule
        ``"dwi"`` (the FLAIR is ignored), ``"mean"`` or ``"geometric"``
        (weighted arithmetic or geometric mean), or ``"max"``.
    dwi_weight
        Weight of the DWI in the weighted means, 0 to 1.

    Raises
    ------
    BundleError
        If the rule is unknown or the weight out of range.
    """

    rule: str
    dwi_weight: float = 0.5

    def __post_init__(self) -> None:
        if self.rule not in FUSION_RULES:
            raise BundleError(
                f"unknown fusion rule {self.rule!r}; choose from {', '.join(FUSION_RULES)}",
                code=ErrorCode.BUNDLE_MANIFEST,
            )
        if not 0 <= self.dwi_weight <= 1:
            raise BundleError(
                f"fusion weight {self.dwi_weight} is not between 0 and 1",
                code=ErrorCode.BUNDLE_MANIFEST,
            )

    def merge(self, dwi: FloatArray, flair: FloatArray) -> FloatArray:
        """Combine two probability arrays of the same shape."""
        return FUSION_RULES[self.rule](dwi, flair, np.float32(self.dwi_weight))


@dataclass(frozen=True)
class ModelSpec:
    """What a model expects as input, and how its output is interpreted.

    Attributes
    ----------
    name, version
        Name and version of the model.
    channels
        Input channels of the network. 1: one modality at a time; 2: DWI and
        FLAIR stacked.
    modalities
        Modalities that the model was trained on.
    slices
        The network's input images, extracted from a skull-stripped volume.
    fusion
        How the probabilities for DWI and FLAIR are combined (one channel only).
    mask
        How probabilities are turned into a mask.
    restriction
        By which ADC lesions are rejected, where it is known; None to keep all.

    Raises
    ------
    BundleError
        If a value is out of range.
    """

    name: str
    version: str
    channels: int
    modalities: tuple[Modality, ...]
    slices: SliceSpec
    fusion: FusionSpec
    mask: MaskSpec
    restriction: RestrictionSpec | None = None

    def __post_init__(self) -> None:
        texts = (self.name, self.version)
        for holds, message in (
            (
                all(0 < len(text) <= 200 and text.isprintable() for text in texts),
                "name or version is empty, longer than 200 characters or not printable",
            ),
            (self.channels in (1, 2), f"channels is {self.channels}, not 1 or 2"),
            (bool(self.modalities), f"no modality is given; choose from {', '.join(Modality)}"),
            (
                0 < self.slices.size <= 1024 and self.slices.size % _STEP == 0,
                f"size is {self.slices.size}, not a multiple of 32 up to 1024",
            ),
            (
                0.1 <= self.slices.spacing <= 10,
                f"spacing is {self.slices.spacing} mm, not 0.1 to 10 mm",
            ),
            (
                0 < self.slices.ceiling < 100,
                f"ceiling is {self.slices.ceiling}, not between 0 and 100",
            ),
            (
                self.slices.shading in SHADINGS,
                f"shading is {self.slices.shading!r}, none of {', '.join(SHADINGS)}",
            ),
            (
                self.channels == 1 or self.slices.shading in ("none", "removed"),
                "a network of two channels needs shading 'none' or 'removed'",
            ),
            (
                self.slices.frame in FRAMES,
                f"frame is {self.slices.frame!r}, none of {', '.join(FRAMES)}",
            ),
            (
                0 < self.mask.threshold < 1,
                f"threshold is {self.mask.threshold}, not between 0 and 1",
            ),
            (
                0 <= self.mask.smallest_ml < 100,
                f"smallest lesion is {self.mask.smallest_ml} ml, not 0 to below 100 ml",
            ),
        ):
            if not holds:
                raise BundleError(message, code=ErrorCode.BUNDLE_MANIFEST)

    def check_modalities(self, modality: Modality, with_flair: bool) -> None:
        """Check that the model can segment the given modalities.

        Parameters
        ----------
        modality
            Modality of the volume to segment.
        with_flair
            Whether it is combined with a FLAIR.

        Raises
        ------
        UsageError
            If the model does not support these modalities, or needs more.
        """
        needed = {modality, Modality.FLAIR} if with_flair else {modality}
        if not needed <= set(self.modalities):
            supported = " and ".join(self.modalities)
            raise UsageError(f"the model {self.name} supports only {supported}")
        if self.channels == 2 and not with_flair:
            raise UsageError(f"the model {self.name} needs DWI and FLAIR; give `flair` as well")
