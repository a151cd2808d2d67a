import json
import subprocess
from pathlib import Path

import pytest

from cnnres_infer import Bundle, Predictor
from cnnres_infer.bundle.manifest import MANIFEST
from cnnres_infer.bundle.signature import SIGNATURE
from cnnres_infer.errors import BundleError, OutputError, UsageError
from tests import commands
from tests.conftest import BundleMaker

pytest.importorskip("cryptography")
from export.signing import make_key, sign_bundle

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def key(tmp_path: Path) -> Path:
    make_key(tmp_path / "key")
    return tmp_path / "key"


def public(key: Path) -> Path:
    return key.with_name(key.name + ".pub")


def test_a_signed_bundle_is_accepted(make_bundle: BundleMaker, key: Path) -> None:
    folder = make_bundle()
    assert sign_bundle(folder, key) == folder / SIGNATURE
    assert (folder / SIGNATURE).stat().st_size == 64
    Predictor.load(folder, threads=1, trusted_key=public(key)).close()


def test_only_the_owner_can_read_the_private_key(key: Path) -> None:
    assert key.stat().st_mode & 0o077 == 0
    assert b"PRIVATE" in key.read_bytes()
    assert b"PRIVATE" not in public(key).read_bytes()
    before = key.read_bytes()
    with pytest.raises(OutputError, match="choose another path"):
        make_key(key)
    assert key.read_bytes() == before


@pytest.mark.parametrize("fault", ["none", "changed", "cut", "other key", "manifest", "long"])
def test_a_bundle_not_signed_with_the_key_is_refused(
    make_bundle: BundleMaker, key: Path, tmp_path: Path, fault: str
) -> None:
    folder = make_bundle()
    if fault != "none":
        sign_bundle(folder, key)
    path = folder / SIGNATURE
    trusted = public(key)
    if fault == "changed":
        signature = path.read_bytes()
        path.write_bytes(bytes([signature[0] ^ 1]) + signature[1:])
    elif fault == "cut":
        path.write_bytes(path.read_bytes()[:-1])
    elif fault == "long":
        path.write_bytes(bytes(1 << 20))
    elif fault == "other key":
        trusted = make_key(tmp_path / "other")
    elif fault == "manifest":
        manifest = json.loads((folder / MANIFEST).read_text())
        (folder / MANIFEST).write_text(json.dumps({**manifest, "version": "2"}))
    with pytest.raises(BundleError) as caught:
        Bundle.open(folder, trusted)
    assert caught.value.code == "E-BUNDLE-SIGNATURE"
    Bundle.open(folder)


def test_a_key_of_another_kind_is_refused(make_bundle: BundleMaker, tmp_path: Path) -> None:
    from cryptography.hazmat.primitives.asymmetric import ec
    from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

    other = ec.generate_private_key(ec.SECP256R1()).public_key()
    path = tmp_path / "ec.pub"
    path.write_bytes(other.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo))
    with pytest.raises(BundleError, match="Ed25519"):
        Bundle.open(make_bundle(), path)
    path.write_text("no key")
    with pytest.raises(BundleError, match="PEM"):
        Bundle.open(make_bundle(), path)


def test_a_modified_bundle_is_not_signed(make_bundle: BundleMaker, key: Path) -> None:
    folder = make_bundle()
    with (folder / "model.fp32.onnx").open("ab") as file:
        file.write(b"x")
    with pytest.raises(BundleError, match="SHA-256"):
        sign_bundle(folder, key)
    with pytest.raises(UsageError, match="no private key"):
        sign_bundle(make_bundle(), public(key))
    assert not (folder / SIGNATURE).exists()


@pytest.mark.slow
def test_the_commands(make_bundle: BundleMaker, tmp_path: Path) -> None:
    for name in ("torch", "onnxslim", "h5py"):
        pytest.importorskip(name, reason="needs `pip install --group export`")
    folder, key = make_bundle(), tmp_path / "key"

    def run(module: str, *arguments: object) -> subprocess.CompletedProcess[str]:
        return commands.run(module, *arguments)

    assert run("export", "keygen", key).returncode == 0
    again = run("export", "keygen", key)
    assert again.returncode == 3
    assert again.stderr.count("\n") == 1
    trusted = ("--bundle", folder, "--require-signature", public(key))
    asked = ("cnnres_infer", tmp_path / "none.nii", *trusted)
    assert "E-BUNDLE-SIGNATURE" in run(*asked).stderr
    assert run("export", "sign", folder, "--key", key).returncode == 0
    assert "E-FILE-MISSING" in run(*asked).stderr
