"""Signatures of bundles: Ed25519 over ``model.json``, which pins all other files.

Needs the package `cryptography`, which only those who ask for signatures install.
"""

from pathlib import Path
from typing import Any

from cnnres_infer.codes import ErrorCode
from cnnres_infer.errors import BundleError

SIGNATURE = "model.json.sig"
_REMEDY = "pip install 'cnnres-infer[signing]'"
_LARGEST_KEY = 1 << 16


def check_signature(manifest: bytes, folder: Path, trusted_key: Path) -> None:
    """Refuse a bundle that the holder of a key has not signed.

    Parameters
    ----------
    manifest
        Content of ``model.json``.
    folder
        The bundle; ``model.json.sig`` holds the 64 bytes of the signature.
    trusted_key
        File of the public key, PEM.

    Raises
    ------
    BundleError
        If there is no signature, or it is not by that key.
    """
    key = _public_key(trusted_key)
    path = folder / SIGNATURE
    try:
        signature = path.read_bytes() if path.stat().st_size <= _LARGEST_KEY else b""
    except OSError as error:
        raise _refusal(
            f"{path}: {error.strerror}; sign the bundle with: python -m export sign"
        ) from error
    from cryptography.exceptions import InvalidSignature

    try:
        key.verify(signature, manifest)
    except InvalidSignature as error:
        raise _refusal(
            f"{path}: not a signature of this bundle by {trusted_key}; do not use the bundle "
            "unless you know why"
        ) from error


def _public_key(path: Path) -> Any:
    try:
        from cryptography.exceptions import UnsupportedAlgorithm
        from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
        from cryptography.hazmat.primitives.serialization import load_pem_public_key
    except ImportError as error:
        raise _refusal(f"signatures cannot be checked here; to fix it: {_REMEDY}") from error
    try:
        key = load_pem_public_key(path.read_bytes())
    except OSError as error:
        raise _refusal(f"{path}: {error.strerror}; give the file of the public key") from error
    except (ValueError, UnsupportedAlgorithm) as error:
        raise _refusal(f"{path}: no public key in PEM ({error})") from error
    if not isinstance(key, Ed25519PublicKey):
        raise _refusal(f"{path}: not an Ed25519 key; make one with: python -m export keygen")
    return key


def _refusal(message: str) -> BundleError:
    return BundleError(message, code=ErrorCode.BUNDLE_SIGNATURE)
