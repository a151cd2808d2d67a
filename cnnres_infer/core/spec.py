"""What a model expects of its input, and how its output is to be read."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from cnnres_infer.codes import ErrorCode
from cnnres_infer.core.arrays import FloatArray
from cnnres_infer.core.case import Modality
from cnnres_infer.core.mask import MaskSpec
from cnnres_infer.errors import BundleError, UsageError

FUSION_RULES: dict[str, Callable[[FloatArray, FloatArray, np.float32], FloatArray]] = {
    "dwi": lambda dwi, _flair, _weight: dwi,
    "mean": lambda dwi, flair, weight: weight * dwi + (1 - weight) * flair,
    "geometric": lambda dwi, flair, weight: dwi**weight * flair ** (1 - weight),
    "max": lambda dwi, flair, _weight: np.maximum(dwi, flair),
}

SHADINGS = ("none", "removed")


@dataclass(frozen=True)
class SliceSpec:
    """What the network expects of its images.

    Attributes
    ----------
    size
        Height and width in pixels.
    spacing
        Pixel size in mm, the same for rows and columns.
    ceiling
        The intensity that becomes 1.0, in multiples of the tissue median (see
        `cnnres_infer.pipeline.slices.normalisation`); what is brighter is cut
        off there.
    shading
        ``"removed"`` if the network expects volumes without the coil's shading,
        ``"none"`` for volumes as they are; see `cnnres_infer.pipeline.shading`.
    """

    size: int
    spacing: float
    ceiling: float
    shading: str = "none"


@dataclass(frozen=True)
class FusionSpec:
    """How the probabilities for DWI and for FLAIR become one.

    Attributes
    ----------
    rule
        ``"dwi"`` (FLAIR has no say), ``"mean"`` or ``"geometric"`` (weighted
        means), or ``"max"``.
    dwi_weight
        Share of DWI in the weighted means, 0 to 1.
    """

    rule: str
    dwi_weight: float = 0.5

    def __post_init__(self) -> None:
        if self.rule not in FUSION_RULES:
            raise BundleError(
                f"fusion rule {self.rule!r} is none of {', '.join(FUSION_RULES)}",
                code=ErrorCode.BUNDLE_MANIFEST,
            )
        if not 0 <= self.dwi_weight <= 1:
            raise BundleError(
                f"fusion weight {self.dwi_weight} is not between 0 and 1",
                code=ErrorCode.BUNDLE_MANIFEST,
            )

    def merge(self, dwi: FloatArray, flair: FloatArray) -> FloatArray:
        """Merge probabilities of one shape."""
        return FUSION_RULES[self.rule](dwi, flair, np.float32(self.dwi_weight))


@dataclass(frozen=True)
class ModelSpec:
    """What a model expects and how its output is to be read.

    Attributes
    ----------
    name, version
        What to call the model.
    channels
        1: the network sees one modality at a time; 2: DWI and FLAIR stacked.
    modalities
        Which modalities it was trained on.
    slices
        The images that it expects, cut from a skull-stripped volume.
    fusion
        How its answers for DWI and FLAIR are merged (one channel only).
    mask
        How its probabilities become a mask.

    Raises
    ------
    BundleError
        If a value is outside what any model can have.
    """

    name: str
    version: str
    channels: int
    modalities: tuple[Modality, ...]
    slices: SliceSpec
    fusion: FusionSpec
    mask: MaskSpec

    def __post_init__(self) -> None:
        texts = (self.name, self.version)
        for holds, message in (
            (
                all(0 < len(text) <= 200 and text.isprintable() for text in texts),
                "name or version is empty, longer than 200 characters or not printable",
            ),
            (self.channels in (1, 2), f"channels is {self.channels}, not 1 or 2"),
            (bool(self.modalities), f"modalities are not among {', '.join(Modality)}"),
            (
                0 < self.slices.size <= 1024 and self.slices.size % 32 == 0,
                f"size is {self.slices.size}, not a multiple of 32 up to 1024",
            ),
            (0.1 <= self.slices.spacing <= 10, f"spacing is {self.slices.spacing} mm"),
            (0 < self.slices.ceiling < 100, f"ceiling is {self.slices.ceiling}"),
            (
                self.slices.shading in SHADINGS,
                f"shading is {self.slices.shading!r}, none of {', '.join(SHADINGS)}",
            ),
            (0 < self.mask.threshold < 1, f"threshold is {self.mask.threshold}"),
            (0 <= self.mask.smallest_ml < 100, f"smallest lesion is {self.mask.smallest_ml} ml"),
        ):
            if not holds:
                raise BundleError(message, code=ErrorCode.BUNDLE_MANIFEST)

    def check_suits(self, modality: Modality, with_flair: bool) -> None:
        """Refuse volumes that the model does not know.

        Parameters
        ----------
        modality
            What the volume is that is to be segmented.
        with_flair
            Whether a FLAIR belongs to it.

        Raises
        ------
        UsageError
            If the model cannot take these, or needs more.
        """
        if with_flair and modality is Modality.FLAIR:
            raise UsageError("give the DWI first: two FLAIR volumes cannot be merged")
        needed = {modality, Modality.FLAIR} if with_flair else {modality}
        if not needed <= set(self.modalities):
            raise UsageError(f"the model {self.name} knows {' and '.join(self.modalities)} only")
        if self.channels == 2 and not with_flair:
            raise UsageError(f"the model {self.name} needs DWI and FLAIR: add --flair FILE")
