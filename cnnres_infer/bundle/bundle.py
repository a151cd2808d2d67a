"""Bundles: a model with everything needed to run and verify it.

A bundle is a folder with ``model.json``, the ONNX variants, ``reference.npz``
and ``MODEL_CARD.md``. Every file is read once, and checked against the SHA-256
in ``model.json`` before it is parsed. A variant may be made from another one
instead of being stored; it is checked in the same way.
"""

import hashlib
import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

from cnnres_infer.bundle.derived import Derivation, derivations, keep, kept
from cnnres_infer.bundle.manifest import MANIFEST, spec_from_json
from cnnres_infer.bundle.onnx_check import check_model
from cnnres_infer.bundle.recipe import build
from cnnres_infer.bundle.signature import check_signature
from cnnres_infer.codes import ErrorCode
from cnnres_infer.core.spec import ModelSpec
from cnnres_infer.errors import BundleError
from cnnres_infer.host.deadline import check_time
from cnnres_infer.host.files import read_regular

FORMAT = 1
REFERENCE = "reference.npz"
_MAX_MANIFEST_BYTES = 1 << 22
_MAX_FILE_BYTES = 1 << 30
DEFAULT_BUNDLE = Path(__file__).parents[1] / "models" / "cnnres"


@dataclass(frozen=True)
class Bundle:
    """A model bundle.

    Attributes
    ----------
    folder
        The folder with its files.
    spec
        What the model expects as input, and how its output is interpreted.
    variants
        File name of each variant (``"fp32"``, ``"fp16"``, ...).
    sha256
        Expected SHA-256 of each file, in hex.
    manifest
        Content of ``model.json``.
    digest
        SHA-256 of ``model.json``, which pins all other files.
    must_be_signed
        Whether it was opened with a key that must have signed it.
    failed
        Precisions and variants that missed the calibration's accuracy gate and must not be run.
    derived
        How each file is made that is not in the folder, by its name.
    """

    folder: Path
    spec: ModelSpec
    variants: dict[str, str]
    sha256: dict[str, str]
    manifest: dict[str, Any]
    digest: str
    must_be_signed: bool = False
    failed: frozenset[str] = frozenset()
    derived: dict[str, Derivation] = field(default_factory=dict)

    @classmethod
    def open(cls, folder: Path | str | None = None, trusted_key: Path | str | None = None) -> Self:
        """Open a bundle; by default, the one included in the package.

        Parameters
        ----------
        folder
            The bundle's folder.
        trusted_key
            File of the public key that the bundle must be signed with; by
            default, no signature is required.

        Raises
        ------
        BundleError
            If ``model.json`` is missing, malformed or of another format, names
            files outside the folder, or lacks the required signature.
        """
        folder = DEFAULT_BUNDLE if folder is None else Path(folder)
        try:
            raw = _read(folder / MANIFEST, _MAX_MANIFEST_BYTES)
        except OSError as error:
            raise BundleError(
                f"{folder}: no bundle found ({MANIFEST}: {error.strerror}); "
                "create one with: python -m export CHECKPOINT --out FOLDER",
                code=ErrorCode.BUNDLE_MANIFEST,
            ) from error
        if trusted_key is not None:
            check_signature(raw, folder, Path(trusted_key))
        manifest = _parse_manifest(raw, folder)
        spec = spec_from_json(manifest)
        variants, sha256 = _names(manifest, "variants"), _names(manifest, "sha256")
        for name in (*variants.values(), *sha256):
            if name in ("", ".", "..") or Path(name).name != name:
                raise BundleError(
                    f"{folder / MANIFEST}: names a file outside the bundle, {name!r}; "
                    "do not use this bundle",
                    code=ErrorCode.BUNDLE_MANIFEST,
                )
        digest = hashlib.sha256(raw).hexdigest()
        signed, failed = trusted_key is not None, _failed(manifest)
        derived = derivations(manifest, sha256)
        return cls(folder, spec, variants, sha256, manifest, digest, signed, failed, derived)

    def model(self, variant: str) -> bytes:
        """Read and check an ONNX variant.

        Raises
        ------
        BundleError
            If the bundle has no such variant, or if its file was modified, is
            truncated or refers to other files.
        """
        if variant not in self.variants:
            raise BundleError(
                f"{self.folder}: no variant {variant!r}; choose from {', '.join(self.variants)}",
                code=ErrorCode.BUNDLE_FILE,
            )
        content = self.read(self.variants[variant])
        check_model(content, str(self.folder / self.variants[variant]))
        return content

    def read(self, name: str) -> bytes:
        """Read one of the bundle's files, or make it by its recipe, and check its SHA-256.

        Raises
        ------
        BundleError
            If the file is missing, not listed, too large or modified.
        """
        check_time()
        return self._made(name) if name in self.derived else self._stored(name)

    def _made(self, name: str) -> bytes:
        """A file that is made of another one, from the user's cache if it was made before."""
        sha256, how = self.sha256[name], self.derived[name]
        if (found := kept(sha256, _MAX_FILE_BYTES)) is not None:
            return found
        recipe, source = self._stored(how.recipe), self._stored(how.source)
        try:
            content = build(recipe, source, _MAX_FILE_BYTES)
        except ValueError as error:
            raise BundleError(
                f"{self.folder / how.recipe}: no recipe for {name}: {error}; "
                "export the bundle again",
                code=ErrorCode.BUNDLE_FILE,
            ) from error
        if hashlib.sha256(content).hexdigest() != sha256:
            raise BundleError(
                f"{self.folder / how.recipe}: does not make the {name} that was exported "
                "(its SHA-256 differs); reinstall the package or export the bundle again",
                code=ErrorCode.BUNDLE_HASH,
            )
        keep(sha256, content)
        return content

    def _stored(self, name: str) -> bytes:
        """A file of the folder."""
        path = self.folder / name
        try:
            content = _read(path, _MAX_FILE_BYTES)
        except OSError as error:
            raise BundleError(
                f"{path}: {error.strerror}; the bundle is incomplete, export or copy it again",
                code=ErrorCode.BUNDLE_FILE,
            ) from error
        if hashlib.sha256(content).hexdigest() != self.sha256.get(name):
            raise BundleError(
                f"{path}: not the file that was exported (its SHA-256 differs); "
                "reinstall the package or export the bundle again",
                code=ErrorCode.BUNDLE_HASH,
            )
        return content


def _read(path: Path, max_bytes: int) -> bytes:
    content = read_regular(path, max_bytes)
    if len(content) > max_bytes:
        raise BundleError(
            f"{path}: larger than {max_bytes} bytes; do not use this bundle",
            code=ErrorCode.BUNDLE_FILE,
        )
    return content


def _parse_manifest(raw: bytes, folder: Path) -> dict[str, Any]:
    """Parse ``model.json`` and check its format version."""
    try:
        manifest: dict[str, Any] = json.loads(raw)
        version = manifest.get("format")
    except (ValueError, AttributeError, RecursionError) as error:
        raise BundleError(
            f"{folder / MANIFEST}: not a JSON object ({error}); export the bundle again",
            code=ErrorCode.BUNDLE_MANIFEST,
        ) from error
    if version != FORMAT:
        raise BundleError(
            f"{folder}: bundle format {version!r}, but this version reads format {FORMAT}; "
            "export the bundle again",
            code=ErrorCode.BUNDLE_MANIFEST,
        )
    return manifest


def _names(manifest: dict[str, Any], key: str) -> dict[str, str]:
    names = manifest.get(key)
    if not isinstance(names, dict) or not all(isinstance(v, str) for v in names.values()):
        raise BundleError(
            f"{MANIFEST}: {key!r} is not an object of strings; export the bundle again",
            code=ErrorCode.BUNDLE_MANIFEST,
        )
    return names


def _failed(manifest: dict[str, Any]) -> frozenset[str]:
    """Names of what the calibration judged and did not pass; empty without a calibration."""
    try:
        verdicts = manifest.get("calibration", {}).get("variants", {})
        passed = {name: verdict["passed"] for name, verdict in verdicts.items()}
    except (AttributeError, KeyError, TypeError) as error:
        raise _bad_verdict(repr(error)) from error
    for name, verdict in passed.items():
        if not isinstance(verdict, bool):
            raise _bad_verdict(f"{name!r} has passed {verdict!r}")
    return frozenset(name for name, verdict in passed.items() if not verdict)


def _bad_verdict(reason: str) -> BundleError:
    return BundleError(
        f"{MANIFEST}: the verdicts of 'calibration' are malformed ({reason}); "
        "calibrate or export the bundle again",
        code=ErrorCode.BUNDLE_MANIFEST,
    )
