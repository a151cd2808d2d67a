"""Bundles: a model with all that is needed to run it and to check it.

A bundle is a folder with ``model.json``, the ONNX variants, ``reference.npz``
and ``MODEL_CARD.md``. Every file is read once and checked against the SHA-256
in ``model.json`` before anything is made of it.
"""

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from cnnres_infer.bundle.manifest import MANIFEST, spec_from_json
from cnnres_infer.bundle.onnx_check import check_model
from cnnres_infer.bundle.signature import check_signature
from cnnres_infer.codes import ErrorCode
from cnnres_infer.core.spec import ModelSpec
from cnnres_infer.errors import BundleError

FORMAT = 1
REFERENCE = "reference.npz"
MODALITIES = ("dwi", "flair")
_LARGEST_MANIFEST = 1 << 22
_LARGEST_FILE = 1 << 30
DEFAULT_BUNDLE = Path(__file__).parents[1] / "models" / "cnnres"


@dataclass(frozen=True)
class Bundle:
    """An opened bundle.

    Attributes
    ----------
    folder
        Where its files are.
    spec
        What the model expects.
    variants
        File name of each variant (``"fp32"``, ``"fp16"``, ...).
    sha256
        Expected hash of every file.
    manifest
        The whole of ``model.json``.
    digest
        SHA-256 of ``model.json``, which pins all other files.
    """

    folder: Path
    spec: ModelSpec
    variants: dict[str, str]
    sha256: dict[str, str]
    manifest: dict[str, Any]
    digest: str

    @classmethod
    def open(cls, folder: Path | str | None = None, trusted_key: Path | str | None = None) -> Self:
        """Open a bundle, by default the one that comes with the package.

        Parameters
        ----------
        folder
            Where it is.
        trusted_key
            File of the public key that must have signed it; by default no
            signature is asked for.

        Raises
        ------
        BundleError
            If ``model.json`` is missing, malformed, of another format, names
            files outside the folder, or is not signed as asked.
        """
        folder = DEFAULT_BUNDLE if folder is None else Path(folder)
        try:
            raw = _read(folder / MANIFEST, _LARGEST_MANIFEST)
        except OSError as error:
            raise BundleError(
                f"{folder}: no bundle here ({MANIFEST}: {error.strerror}); "
                "make one with: python -m export CHECKPOINT --out FOLDER",
                code=ErrorCode.BUNDLE_MANIFEST,
            ) from error
        if trusted_key is not None:
            check_signature(raw, folder, Path(trusted_key))
        try:
            manifest = json.loads(raw)
            found = manifest.get("format")
        except (ValueError, AttributeError, RecursionError) as error:
            raise BundleError(
                f"{folder / MANIFEST}: not a JSON object ({error}); export the bundle again",
                code=ErrorCode.BUNDLE_MANIFEST,
            ) from error
        if found != FORMAT:
            raise BundleError(
                f"{folder}: bundle format {found!r}, this version reads {FORMAT}; export it again",
                code=ErrorCode.BUNDLE_MANIFEST,
            )
        spec = spec_from_json(manifest)
        variants, sha256 = _names(manifest, "variants"), _names(manifest, "sha256")
        for name in (*variants.values(), *sha256):
            if name in ("", ".", "..") or Path(name).name != name:
                raise BundleError(
                    f"{MANIFEST} names a file outside the bundle: {name!r}; do not use it",
                    code=ErrorCode.BUNDLE_MANIFEST,
                )
        return cls(folder, spec, variants, sha256, manifest, hashlib.sha256(raw).hexdigest())

    def model(self, variant: str) -> bytes:
        """Content of an ONNX variant, checked.

        Raises
        ------
        BundleError
            If the bundle has no such variant, or its file was altered, is cut
            off or refers to other files.
        """
        if variant not in self.variants:
            raise BundleError(
                f"{self.folder}: no variant {variant!r}; it has {', '.join(self.variants)}",
                code=ErrorCode.BUNDLE_FILE,
            )
        content = self.read(self.variants[variant])
        check_model(content, str(self.folder / self.variants[variant]))
        return content

    def read(self, name: str) -> bytes:
        """Content of one of the bundle's files, checked.

        Raises
        ------
        BundleError
            If the file is missing, not listed, or not what was exported.
        """
        path = self.folder / name
        try:
            content = _read(path, _LARGEST_FILE)
        except OSError as error:
            raise BundleError(
                f"{path}: {error.strerror}; the bundle is incomplete", code=ErrorCode.BUNDLE_FILE
            ) from error
        if hashlib.sha256(content).hexdigest() != self.sha256.get(name):
            raise BundleError(
                f"{path}: not the file that was exported (its SHA-256 differs); "
                "install the package or export the bundle again",
                code=ErrorCode.BUNDLE_HASH,
            )
        return content


def _read(path: Path, most: int) -> bytes:
    """Content of a file of the bundle, unless it is larger than any can be."""
    with path.open("rb") as file:
        content = file.read(most + 1)
    if len(content) > most:
        raise BundleError(
            f"{path}: larger than {most} bytes; do not use it", code=ErrorCode.BUNDLE_FILE
        )
    return content


def _names(manifest: dict[str, Any], key: str) -> dict[str, str]:
    names = manifest.get(key)
    if not isinstance(names, dict) or not all(isinstance(v, str) for v in names.values()):
        raise BundleError(
            f"{MANIFEST}: {key!r} is not a table of names; export the bundle again",
            code=ErrorCode.BUNDLE_MANIFEST,
        )
    return names
