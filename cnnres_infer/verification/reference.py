"""What PyTorch makes of a whole volume, stored for machines without torch.

The file holds probabilities and the mask, and hashes that bind them to the
network and the volumes they belong to; no image is in it, and no name.
"""

import hashlib
import io
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from cnnres_infer.bundle.bundle import Bundle
from cnnres_infer.bundle.manifest import spec_to_json
from cnnres_infer.core.arrays import FloatArray
from cnnres_infer.core.case import Case, Modality
from cnnres_infer.core.grid import Grid
from cnnres_infer.core.volume import Volume
from cnnres_infer.engines.base import Engine
from cnnres_infer.errors import BundleError, ReferenceFileError, UsageError, VerificationError
from cnnres_infer.readers.case import read_case
from cnnres_infer.verification.agreement import Comparison, dice
from cnnres_infer.verification.recording import Recording, record_case

FORMAT = 1
_EXACT = "fp32"
_SPEC_PARTS = ("input", "fusion", "mask")
_AGAIN = "store one for it with: python -m export reference VOLUME --out REF.npz"


@dataclass(frozen=True, eq=False)
class VolumeReference:
    """PyTorch's float32 outputs for a case.

    Attributes
    ----------
    network
        What computed: the SHA-256 of the bundle's fp32 file, and the parts of
        ``model.json`` that say how images and masks are made. Other variants
        of the bundle and its card may change without harm.
    modality
        What the segmented volume is.
    volumes
        For each volume of the case: its shape, its affine, and the SHA-256 of
        its voxels (`voxel_hash`). How the file was compressed does not matter.
    made_by
        Versions of what computed.
    probabilities
        float32 (N, 1, H, W) for each of the network's images.
    mask
        uint8 (X, Y, Z).
    """

    network: dict[str, Any]
    modality: Modality
    volumes: dict[str, dict[str, Any]]
    made_by: dict[str, str]
    probabilities: FloatArray
    mask: NDArray[np.uint8]

    @classmethod
    def of(cls, recording: Recording, bundle: Bundle, engine: Engine, case: Case) -> Self:
        """Bind a recording of PyTorch's work to its bundle and case."""
        return cls(
            _network(bundle),
            case.modality,
            {role: _identity(volume) for role, volume in case.volumes.items()},
            engine.describe().versions,
            recording.output,
            recording.mask.data,
        )

    @classmethod
    def load(cls, path: Path) -> Self:
        """Read what `to_bytes` made.

        Raises
        ------
        ReferenceFileError
            If the file cannot be read or holds something else.
        """
        try:
            with np.load(io.BytesIO(path.read_bytes()), allow_pickle=False) as archive:
                about = json.loads(str(archive["about"]))
                probabilities, mask = archive["probabilities"], archive["mask"]
            if about["format"] != FORMAT:
                raise ValueError(f"its format is {about['format']!r}, this version reads {FORMAT}")
            if probabilities.ndim != 4 or probabilities.dtype != np.float32 or mask.ndim != 3:
                raise ValueError("its arrays have other shapes or types")
            return cls(
                dict(about["network"]),
                Modality.parse(str(about["modality"])),
                {role: dict(identity) for role, identity in about["volumes"].items()},
                dict(about["made_by"]),
                probabilities,
                mask,
            )
        except OSError as error:
            raise ReferenceFileError(f"{path}: {error.strerror or error}") from error
        except Exception as error:
            raise ReferenceFileError(
                f"{path}: no PyTorch outputs of a volume ({error}); {_AGAIN}"
            ) from error

    def to_bytes(self) -> bytes:
        """Content of an ``.npz`` file, without pickled objects."""
        about = {
            "format": FORMAT,
            "network": self.network,
            "modality": self.modality,
            "volumes": self.volumes,
            "made_by": self.made_by,
        }
        buffer = io.BytesIO()
        np.savez_compressed(
            buffer,
            about=np.array(json.dumps(about)),
            probabilities=self.probabilities,
            mask=self.mask,
        )
        return buffer.getvalue()

    def check(self, bundle: Bundle, case: Case) -> None:
        """Refuse a bundle or a case that the outputs do not belong to.

        Raises
        ------
        ReferenceFileError
            If network, modality, or a volume's voxels or grid differ.
        """
        here = _network(bundle)
        different = [part for part in here if here[part] != self.network.get(part)]
        if different:
            raise ReferenceFileError(
                f"the reference was made with another model than {bundle.folder} (what differs: "
                f"{', '.join(different)}): give that one as `bundle`, or {_AGAIN}"
            )
        if case.modality != self.modality:
            raise ReferenceFileError(
                f"the reference is of a volume read as {self.modality}, not as {case.modality}"
            )
        given = case.volumes
        if set(given) != set(self.volumes):
            raise ReferenceFileError(
                f"the reference was made of {_list(self.volumes)}, not of {_list(given)}: "
                "give the same volumes, or make it again"
            )
        for role, volume in given.items():
            if fault := _difference(volume, self.volumes[role]):
                raise ReferenceFileError(
                    f"{volume.name} is not the {role} that the reference was made of "
                    f"({fault}): give that one, or {_AGAIN}"
                )


def load_case(
    volume: Path | None, reference: Path | None, flair: Path | None, brain_mask: Path | None
) -> "tuple[Case, VolumeReference] | None":
    """Read a case and PyTorch's outputs for it; None where no volume is given.

    Raises
    ------
    UsageError
        If a volume or its reference is missing.
    InputError
        If a file cannot be taken for what it should be.
    """
    if volume is None or reference is None:
        if any((volume, reference, flair, brain_mask)):
            raise UsageError(
                "a volume and the outputs stored for it belong together: "
                "give `volume` and `reference`"
            )
        return None
    stored = VolumeReference.load(reference)
    return read_case(volume, flair=flair, modality=stored.modality, brain_mask=brain_mask), stored


def compare_volume(
    engine: Engine, bundle: Bundle, case: Case, stored: VolumeReference
) -> Comparison:
    """Segment a case, and compare all with what PyTorch made of it.

    The probabilities are compared on the network's images, before they are put
    back onto the volume's grid; the masks as they come out in the end. So
    everything is compared that this machine computed, brain and slices too.

    Raises
    ------
    ReferenceFileError
        If the stored outputs belong to something else.
    VerificationError
        If this machine cuts other slices from the volume.
    EngineRunError
        If the engine fails.
    """
    stored.check(bundle, case)
    recording = record_case(bundle, engine, case)
    if recording.output.shape != stored.probabilities.shape:
        raise VerificationError(
            f"{case.volume.name}: {len(recording.output)} slices were cut here, and "
            f"{len(stored.probabilities)} for the reference: this machine finds another brain"
        )
    return compare_recordings(
        case.volume.name, recording, stored.probabilities, stored.mask, bundle
    )


def compare_recordings(
    name: str,
    recording: Recording,
    probabilities: FloatArray,
    mask: NDArray[np.uint8],
    bundle: Bundle,
) -> Comparison:
    """Compare a recording with PyTorch's probabilities (N, 1, H, W) and mask (X, Y, Z)."""
    return Comparison(
        f"the {len(recording.names)} network slices of {name}",
        recording.names,
        recording.images,
        recording.output,
        probabilities,
        bundle.spec.mask,
        dice(recording.mask.data > 0, mask > 0),
    )


def voxel_hash(volume: Volume) -> str:
    """SHA-256 of the voxels as float32, little-endian, the last axis fastest."""
    return hashlib.sha256(np.ascontiguousarray(volume.data, "<f4").tobytes()).hexdigest()


def _network(bundle: Bundle) -> dict[str, Any]:
    if _EXACT not in bundle.variants:
        raise BundleError(f"{bundle.folder}: no variant {_EXACT}, which names the network")
    spec = spec_to_json(bundle.spec)
    parts: dict[str, Any] = {part: spec[part] for part in _SPEC_PARTS}
    return {"weights": bundle.sha256.get(bundle.variants[_EXACT]), **parts}


def _identity(volume: Volume) -> dict[str, Any]:
    return {
        "shape": list(volume.grid.shape),
        "affine": volume.grid.affine.tolist(),
        "voxels_sha256": voxel_hash(volume),
    }


def _difference(volume: Volume, identity: dict[str, Any]) -> str:
    """What of a volume is not as stored; empty if nothing."""
    try:
        x, y, z = identity["shape"]
        grid = Grid((x, y, z), np.array(identity["affine"], np.float64))
    except (KeyError, TypeError, ValueError) as error:
        raise ReferenceFileError(f"the reference's grid is malformed ({error!r})") from error
    if not grid.matches(volume.grid):
        return "its grid differs"
    return "" if voxel_hash(volume) == identity.get("voxels_sha256") else "its voxels differ"


def _list(names: dict[str, Any]) -> str:
    return " and ".join(sorted(names))
