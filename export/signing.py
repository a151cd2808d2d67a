"""Making keys, and signing bundles with them."""

from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
    load_pem_private_key,
)

from cnnres_infer.bundle.bundle import Bundle
from cnnres_infer.bundle.manifest import MANIFEST
from cnnres_infer.bundle.signature import SIGNATURE
from cnnres_infer.codes import ErrorCode
from cnnres_infer.errors import OutputError, UsageError
from cnnres_infer.host.atomic import write_all

PUBLIC_SUFFIX = ".pub"


def make_key(path: Path) -> Path:
    """Write a new private key, readable by its owner only, and the public key beside it.

    Returns
    -------
    Path
        The file of the public key.

    Raises
    ------
    OutputError
        If one of the two files exists, or cannot be written.
    """
    public = path.with_name(path.name + PUBLIC_SUFFIX)
    for existing in (each for each in (path, public) if each.exists()):
        raise OutputError(
            f"{existing} already exists, and keys are never replaced; choose another path",
            code=ErrorCode.OUTPUT_EXISTS,
        )
    key = Ed25519PrivateKey.generate()
    private_pem = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    public_pem = key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    write_all({public: public_pem, path: private_pem}, private=[path])
    return public


def sign_bundle(folder: Path, key: Path) -> Path:
    """Check every file of a bundle against its hash, and sign its ``model.json``.

    Returns
    -------
    Path
        The file of the signature, which replaces an earlier one.

    Raises
    ------
    BundleError
        If the bundle is incomplete or was altered.
    UsageError
        If `key` holds no Ed25519 private key.
    """
    bundle = Bundle.open(folder)
    for name in bundle.sha256:
        bundle.read(name)
    try:
        private = load_pem_private_key(key.read_bytes(), password=None)
    except (OSError, ValueError, TypeError) as error:
        raise UsageError(f"{key}: no private key in PEM format ({error})") from error
    if not isinstance(private, Ed25519PrivateKey):
        raise UsageError(f"{key}: not an Ed25519 key; make one with: python -m export keygen")
    path = folder / SIGNATURE
    write_all({path: private.sign((folder / MANIFEST).read_bytes())}, overwrite=True)
    return path
