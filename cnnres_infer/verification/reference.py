"""PyTorch's outputs for a whole volume, stored for machines without PyTorch.

The file contains probabilities and the mask, and hashes that bind them to the
network and the volumes that they belong to. It contains no images and no names.
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
from cnnres_infer.host.arrays import read_arrays
from cnnres_infer.host.files import read_regular
from cnnres_infer.readers.case import read_case
from cnnres_infer.verification.agreement import Comparison, dice
from cnnres_infer.verification.recording import Recording, record_case

FORMAT = 1
_WEIGHTS_VARIANT = "fp32"
_SPEC_PARTS = ("input", "fusion", "mask")
_MAX_BYTES, _MAX_ARRAY_BYTES = 1 << 30, 1 << 32
_CREATE = "create one with: python -m export reference VOLUME --out REF.npz"


@dataclass(frozen=True, eq=False)
class VolumeReference:
    """PyTorch's float32 outputs for a case.

    Attributes
    ----------
    network
        The SHA-256 of the bundle's fp32 variant, and the parts of
        ``model.json`` that define images and masks. The reference stays valid
        if other variants of the bundle or its model card change.
    modality
        Modality of the segmented volume.
    volumes
        Shape, affine and SHA-256 of the voxels (`voxel_hash`) of each volume of
        the case, so that the file format and its compression do not matter.
    made_by
        Versions of the libraries that computed the outputs.
    probabilities
        float32 (N, 1, H, W), one for each of the network's images.
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
        """Create a reference from a recording of PyTorch, bound to its bundle and case."""
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
        """Load a file with the content returned by `to_bytes`.

        Raises
        ------
        ReferenceFileError
            If the file cannot be read, is damaged, or contains something else.
        """
        try:
            content = read_regular(path, _MAX_BYTES)
            arrays = read_arrays(content, ("about", "probabilities", "mask"), _MAX_ARRAY_BYTES)
            about = json.loads(str(arrays["about"]))
            probabilities, mask = arrays["probabilities"], arrays["mask"]
            if about["format"] != FORMAT:
                raise ValueError(f"format {about['format']!r}, but this version reads {FORMAT}")
            if probabilities.ndim != 4 or probabilities.dtype != np.float32 or mask.ndim != 3:
                raise ValueError("unexpected shapes or types of arrays")
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
            # NumPy takes what is no archive for pickled objects, and tells how to load those.
            reason = "not an .npz file" if "pickle" in str(error) else error
            raise ReferenceFileError(
                f"{path}: not a file of PyTorch outputs for a volume ({reason}); {_CREATE}"
            ) from error

    def to_bytes(self) -> bytes:
        """Return the content of an ``.npz`` file, without pickled objects."""
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
        """Check that the outputs belong to a bundle and a case.

        Raises
        ------
        ReferenceFileError
            If the network, the modality, or the voxels or grid of a volume
            differ.
        """
        network = _network(bundle)
        different = [part for part in network if network[part] != self.network.get(part)]
        if different:
            raise ReferenceFileError(
                f"the reference was made with a model other than {bundle.folder} (different: "
                f"{', '.join(different)}); give its bundle with `bundle`, or {_CREATE}"
            )
        if case.modality != self.modality:
            raise ReferenceFileError(
                f"the reference was made for a {self.modality} volume, not for {case.modality}; "
                f"give the same volume, or {_CREATE}"
            )
        given = case.volumes
        if set(given) != set(self.volumes):
            raise ReferenceFileError(
                f"the reference was made for {_join(self.volumes)}, not for {_join(given)}; "
                f"give the same volumes, or {_CREATE}"
            )
        for role, volume in given.items():
            if difference := _difference(volume, self.volumes[role]):
                raise ReferenceFileError(
                    f"{volume.name} is not the {role} that the reference was made for "
                    f"({difference}); give that volume, or {_CREATE}"
                )


def load_case(
    volume: Path | None, reference: Path | None, flair: Path | None, brain_mask: Path | None
) -> "tuple[Case, VolumeReference] | None":
    """Load a case and PyTorch's outputs for it.

    Parameters
    ----------
    volume, flair, brain_mask
        Files of the case.
    reference
        File with PyTorch's outputs.

    Returns
    -------
    tuple or None
        The case and the outputs; None if no file is given.

    Raises
    ------
    UsageError
        If only one of `volume` and `reference` is given.
    InputError
        If a file cannot be used.
    """
    if volume is None or reference is None:
        if any((volume, reference, flair, brain_mask)):
            raise UsageError(
                "a volume is verified against the outputs stored for it; give both `volume` and "
                "`reference`"
            )
        return None
    stored = VolumeReference.load(reference)
    return read_case(volume, flair=flair, modality=stored.modality, brain_mask=brain_mask), stored


def compare_volume(
    engine: Engine, bundle: Bundle, case: Case, stored: VolumeReference
) -> Comparison:
    """Segment a case, and compare the result with PyTorch's.

    Probabilities are compared on the network's images, masks on the volume's
    own grid. This covers everything that is computed on this machine, including
    the brain mask and the extraction of slices.

    Parameters
    ----------
    engine
        The engine.
    bundle
        The bundle that the engine has loaded.
    case
        The case.
    stored
        PyTorch's outputs for the case.

    Raises
    ------
    ReferenceFileError
        If the stored outputs belong to another volume or model.
    VerificationError
        If other slices are extracted from the volume on this machine.
    EngineRunError
        If the engine fails.
    """
    stored.check(bundle, case)
    recording = record_case(bundle, engine, case)
    if recording.output.shape != stored.probabilities.shape:
        raise VerificationError(
            f"{case.volume.name}: {len(recording.output)} slices contain brain, but "
            f"{len(stored.probabilities)} in the reference; the brain mask differs on this machine"
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
    """Compare a recording with PyTorch's outputs.

    Parameters
    ----------
    name
        Name of the volume.
    recording
        The engine's outputs.
    probabilities
        float32 (N, 1, H, W): PyTorch's probabilities for the network's images.
    mask
        uint8 (X, Y, Z): PyTorch's mask.
    bundle
        The bundle.
    """
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
    """SHA-256 of the voxels as little-endian float32 in C order."""
    return hashlib.sha256(np.ascontiguousarray(volume.data, "<f4").tobytes()).hexdigest()


def _network(bundle: Bundle) -> dict[str, Any]:
    """What identifies a network: its weights, and how images and masks are made."""
    if _WEIGHTS_VARIANT not in bundle.variants:
        raise BundleError(
            f"{bundle.folder}: no variant {_WEIGHTS_VARIANT}, which identifies the network; "
            "export the bundle again"
        )
    spec = spec_to_json(bundle.spec)
    parts: dict[str, Any] = {part: spec[part] for part in _SPEC_PARTS}
    return {"weights": bundle.sha256.get(bundle.variants[_WEIGHTS_VARIANT]), **parts}


def _identity(volume: Volume) -> dict[str, Any]:
    return {
        "shape": list(volume.grid.shape),
        "affine": volume.grid.affine.tolist(),
        "voxels_sha256": voxel_hash(volume),
    }


def _difference(volume: Volume, identity: dict[str, Any]) -> str:
    """How a volume differs from a stored one; empty if it does not."""
    try:
        x, y, z = identity["shape"]
        grid = Grid((x, y, z), np.array(identity["affine"], np.float64))
    except (KeyError, TypeError, ValueError) as error:
        raise ReferenceFileError(
            f"the grid stored in the reference is malformed ({error!r}); {_CREATE}"
        ) from error
    if not grid.matches(volume.grid):
        return "its grid differs"
    return "" if voxel_hash(volume) == identity.get("voxels_sha256") else "its voxels differ"


def _join(names: dict[str, Any]) -> str:
    return " and ".join(sorted(names))
