"""What the DICOM outputs of a result are derived from, and the UIDs that follow from that."""

import hashlib
from dataclasses import dataclass
from functools import cached_property
from uuid import UUID, uuid5

from cnnres_infer import __version__
from cnnres_infer.core.jsonable import dumps
from cnnres_infer.core.result import Result
from cnnres_infer.host.machine import versions
from cnnres_infer.readers.dicom.source import DicomSource

# What else decides on the bytes.
_LIBRARIES = ("highdicom", "pydicom", "pillow")
# The root of UIDs that are made of UUIDs, and the namespace of ours.
_ROOT = "2.25"
_NAMESPACE = UUID("6f0a3c52-7c1e-5b0b-9d53-1b6f5a7a2d11")


@dataclass(frozen=True, eq=False)
class Origin:
    """What the DICOM outputs of a result are derived from.

    Attributes
    ----------
    result
        The result.
    source
        The series that was segmented.
    sources
        This, and the other series that the result was computed from.
    """

    result: Result
    source: DicomSource
    sources: tuple[DicomSource, ...]

    @classmethod
    def of(cls, result: Result) -> "Origin":
        """The origin of a result that has DICOM outputs; see `omission`."""
        source = result.volume.source
        assert isinstance(source, DicomSource)
        others = [each for each in result.sources if isinstance(each, DicomSource)]
        return cls(result, source, tuple(dict.fromkeys((source, *others))))

    @cached_property
    def warnings(self) -> tuple[str, ...]:
        """The warnings, without the name of the case, which may be that of a patient."""
        name = self.result.volume.name
        return tuple(
            f"{notice.code}: "
            + notice.text.removeprefix(f"{name}: ").replace(f"grid of {name}", "grid of the DWI")
            for notice in self.result.warnings
        )

    @cached_property
    def digest(self) -> str:
        """Hash of all that the outputs depend on.

        That is what was given, what computed it, and what came out: what differs
        in anything has other UIDs, and the same again has the same. When, how
        fast and by how many threads it was computed does not matter.
        """
        result = self.result
        made, checked = result.provenance, result.provenance.verification
        given = [
            (each.study, each.series, [(frame.sop_instance, frame.frame) for frame in frames])
            for each in self.sources
            for frames in each.slices
        ]
        computed = (
            *(__version__, [versions(each).get(each) for each in _LIBRARIES]),
            *(made.model, made.version, made.bundle_sha256, made.brain, sorted(made.inputs)),
            *(made.engine.backend, made.engine.provider, made.engine.precision),
            *(made.engine.variant, made.engine.versions),
            checked and (checked.passed, checked.slices, *figures(self)),
        )
        masks = [each for each in (result.mask, result.rejected_mask) if each is not None]
        came_out = (
            [hashlib.sha256(mask.data.tobytes(order="C")).hexdigest() for mask in masks],
            *(result.lesions, result.rejected, result.diffusion, self.warnings),
        )
        return hashlib.sha256(dumps((given, computed, came_out)).encode()).hexdigest()

    def uid(self, *parts: str) -> str:
        """A UID that is the same whenever the same is made of the same."""
        return _uid(self.digest, *parts)

    @property
    def device_uid(self) -> str:
        """A UID of the bundle, as the device that made all its results."""
        return _uid(self.result.provenance.bundle_sha256)


def _uid(*parts: str) -> str:
    return f"{_ROOT}.{uuid5(_NAMESPACE, '/'.join(parts)).int}"


def figures(origin: Origin) -> tuple[float, ...]:
    """Figures of the comparison with PyTorch: Dice mean, worst and pooled; largest difference."""
    checked = origin.result.provenance.verification
    if checked is None:
        return ()
    return checked.dice_mean, checked.dice_min, checked.dice_pooled, checked.largest_difference


def omission(result: Result) -> str:
    """Why a result has no DICOM outputs; empty if it has."""
    source = result.volume.source
    if not isinstance(source, DicomSource):
        return "the volume was not read from DICOM"
    if not source.frame_of_reference:
        return "the series has no frame of reference, and none is invented"
    frames = (frame for layer in source.slices for frame in layer)
    if not source.study or not source.series or not all(frame.sop_instance for frame in frames):
        return "the series has images without UIDs to refer to"
    return ""
