"""What the DICOM outputs of a result are derived from, and the UIDs that follow from that."""

import hashlib
from dataclasses import dataclass
from functools import cached_property
from typing import Any
from uuid import UUID, uuid5

from cnnres_infer import __version__
from cnnres_infer.core.jsonable import dumps
from cnnres_infer.core.mask import Mask
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
        This, and the other series that the result was computed from, as far as their
        images can be referred to.
    """

    result: Result
    source: DicomSource
    sources: tuple[DicomSource, ...]

    @classmethod
    def of(cls, result: Result) -> "Origin":
        """The origin of a result that has DICOM outputs; see `omission`."""
        source = result.volume.source
        assert isinstance(source, DicomSource)
        known = (each for each in result.sources if isinstance(each, DicomSource))
        others = [each for each in known if _has_uids(each)]
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
        """Hash of what was given, what computed it, and the mask that came out.

        When, how fast and by how many threads it was computed does not matter.
        """
        made = self.result.provenance
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
        )
        return fingerprint(given, computed, digest_of(self.result.mask))

    def uid(self, *parts: str) -> str:
        """A UID that is the same whenever the same is made of the same."""
        return _uid(self.digest, *parts)

    @property
    def device_uid(self) -> str:
        """A UID of the bundle, as the device that made all its results."""
        return _uid(self.result.provenance.bundle_sha256)


def _uid(*parts: str) -> str:
    return f"{_ROOT}.{uuid5(_NAMESPACE, '/'.join(parts)).int}"


def fingerprint(*values: Any) -> str:
    """Hash of values that JSON can hold."""
    return hashlib.sha256(dumps(values).encode()).hexdigest()


def digest_of(mask: Mask | None) -> str:
    """Hash of the voxels of a mask; empty if there is none."""
    return "" if mask is None else hashlib.sha256(mask.data.tobytes(order="C")).hexdigest()


def omission(result: Result) -> str:
    """Why a result has no DICOM outputs; empty if it has."""
    source = result.volume.source
    if not isinstance(source, DicomSource):
        return "the volume was not read from DICOM"
    if not source.frame_of_reference:
        return "the series has no frame of reference, and none is invented"
    return "" if _has_uids(source) else "the series has images without UIDs to refer to"


def _has_uids(source: DicomSource) -> bool:
    frames = (frame for layer in source.slices for frame in layer)
    return all((source.study, source.series, *(frame.sop_instance for frame in frames)))
