"""Bundle signatures: Ed25519 over ``model.json``, which pins all other files.

Requires the optional dependency `cryptography`.
"""

from pathlib import Path
from typing import Any

from cnnres_infer.codes import ErrorCode
from cnnres_infer.errors import BundleError
from cnnres_infer.host.files import read_regular

SIGNATURE = "model.json.sig"
_REMEDY = "pip install 'cnnres-infer[signing]'"
_SIGNATURE_BYTES, _MAX_KEY_BYTES = 64, 1 << 16


def check_signature(manifest: bytes, folder: Path, trusted_key: Path) -> None:
    """Check that a bundle is signed with a key.

    Parameters
    ----------
    manifest
        Content of ``model.json``.
    folder
        The bundle; its ``model.json.sig`` holds the 64 bytes of the signature.
    trusted_key
        File of the public key, PEM.

    Raises
    ------
    BundleError
        If the signature is missing or was not made with that key, or if
        signatures cannot be checked.
    """
    key = _public_key(trusted_key)
    path = folder / SIGNATURE
    try:
        signature = read_regular(path, _SIGNATURE_BYTES)
    except OSError as error:
        raise _refusal(
            f"{path}: {error.strerror}; sign the bundle with: python -m export sign"
        ) from error
    from cryptography.exceptions import InvalidSignature

    try:
        key.verify(signature, manifest)
    except InvalidSignature as error:
        raise _refusal(
            f"{path}: not a signature of this bundle with the key {trusted_key}; do not use the "
            "bundle unless you know why"
        ) from error


def _public_key(path: Path) -> Any:
    try:
        from cryptography.exceptions import UnsupportedAlgorithm
        from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
        from cryptography.hazmat.primitives.serialization import load_pem_public_key
    except ImportError as error:
        raise _refusal(
            f"signatures cannot be checked without cryptography; install it with: {_REMEDY}"
        ) from error
    try:
        key = load_pem_public_key(read_regular(path, _MAX_KEY_BYTES))
    except OSError as error:
        raise _refusal(f"{path}: {error.strerror}; give the file of the public key") from error
    except (ValueError, UnsupportedAlgorithm) as error:
        raise _refusal(f"{path}: not a public key in PEM format ({error})") from error
    if not isinstance(key, Ed25519PublicKey):
        raise _refusal(f"{path}: not an Ed25519 key; create one with: python -m export keygen")
    return key


def _refusal(message: str) -> BundleError:
    return BundleError(message, code=ErrorCode.BUNDLE_SIGNATURE)
