"""Describing the model of a bundle and the backends of this machine."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cnnres_infer import __version__
from cnnres_infer.bundle.bundle import Bundle
from cnnres_infer.bundle.manifest import spec_to_json
from cnnres_infer.core.jsonable import to_json
from cnnres_infer.core.precision import Precision
from cnnres_infer.core.provenance import Verification
from cnnres_infer.core.spec import ModelSpec
from cnnres_infer.engines import BACKENDS, probe
from cnnres_infer.engines.base import Probe
from cnnres_infer.host.machine import usable_cores
from cnnres_infer.selection.offers import offers
from cnnres_infer.verification.self_check import last_verifications


@dataclass(frozen=True)
class BundleInfo:
    """A model bundle.

    Attributes
    ----------
    folder
        Its location.
    sha256
        Hash of its ``model.json``.
    spec
        The model's specification.
    variants
        Names of its ONNX variants, in alphabetical order.
    failed
        Precisions and variants that missed its accuracy gate, so they are not run.
    training, accuracy
        The sections of these names in ``model.json``.
    """

    folder: Path
    sha256: str
    spec: ModelSpec
    variants: tuple[str, ...]
    failed: tuple[str, ...]
    training: dict[str, Any]
    accuracy: dict[str, Any]

    @classmethod
    def of(cls, bundle: Bundle) -> "BundleInfo":
        """Describe a bundle."""
        return cls(
            bundle.folder,
            bundle.digest,
            bundle.spec,
            tuple(sorted(bundle.variants)),
            tuple(sorted(bundle.failed)),
            bundle.manifest.get("training", {}),
            bundle.manifest.get("accuracy", {}),
        )

    def to_json(self) -> dict[str, Any]:
        """Return the bundle as JSON, with the specification as in ``model.json``."""
        return {
            "folder": self.folder,
            "sha256": self.sha256,
            **spec_to_json(self.spec),
            "variants": self.variants,
            "failed": self.failed,
            "training": self.training,
            "accuracy": self.accuracy,
        }


@dataclass(frozen=True)
class BackendInfo:
    """A backend.

    Attributes
    ----------
    probe
        Whether it can be used here.
    precisions
        The precisions that it offers with the bundle, in order of preference.
    verifications
        The last verification of each precision with the installed versions.
    """

    probe: Probe
    precisions: tuple[Precision, ...]
    verifications: dict[str, Verification]

    def to_json(self) -> dict[str, Any]:
        """Return the fields of the probe as JSON, together with the other attributes."""
        return {
            **to_json(self.probe),
            "precisions": self.precisions,
            "verifications": self.verifications,
        }


@dataclass(frozen=True)
class InfoReport:
    """A bundle and the backends of this machine.

    Attributes
    ----------
    version
        Version of this package.
    cores
        Number of usable cores.
    bundle
        The bundle.
    backends
        All backends by name, in order of preference.
    """

    version: str
    cores: int
    bundle: BundleInfo
    backends: dict[str, BackendInfo]


def describe(folder: Path | None, trusted_key: Path | None = None) -> InfoReport:
    """Describe a bundle, probe every backend, and look up its last verifications.

    Parameters
    ----------
    folder
        The bundle; None for the built-in one.
    trusted_key
        File of the public key that must have signed it; None to require no signature.

    Returns
    -------
    InfoReport
        The bundle and the backends.

    Raises
    ------
    BundleError
        If the bundle cannot be opened, or is not signed as required.
    """
    bundle = Bundle.open(folder, trusted_key)
    return InfoReport(
        __version__,
        usable_cores(),
        BundleInfo.of(bundle),
        {name: _backend(bundle, name) for name in BACKENDS},
    )


def _backend(bundle: Bundle, name: str) -> BackendInfo:
    found = probe(name)
    verifications = {
        engine["precision"]: verification
        for engine, verification in last_verifications(bundle)
        if engine["backend"] == name
        and all(engine["versions"].get(k, v) == v for k, v in found.versions.items())
    }
    return BackendInfo(found, tuple(offers(bundle, name)), verifications)
