import hashlib
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from cnnres_infer.bundle import bundle as bundles
from cnnres_infer.bundle.bundle import Bundle
from cnnres_infer.bundle.derived import FOLDER
from cnnres_infer.bundle.manifest import MANIFEST
from cnnres_infer.bundle.onnx_check import constants_of
from cnnres_infer.errors import BundleError
from cnnres_infer.host import cache
from export.compact import recipe_for
from tests.conftest import BundleMaker, bright_model

NAME, RECIPE, SOURCE = "model.fp32-cpu.onnx", "model.fp32-cpu.recipe.json", "model.fp32.onnx"
OTHER = bright_model(level=0.7)
Change = Callable[[dict[str, Any]], None]


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv(cache.FOLDER, str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def folder(make_bundle: BundleMaker) -> Path:
    """A bundle with a derived variant."""
    folder = make_bundle()
    recipe = recipe_for(OTHER, (folder / SOURCE).read_bytes())
    (folder / RECIPE).write_bytes(recipe)
    change(folder, lambda manifest: add(manifest, recipe))
    return folder


def add(manifest: dict[str, Any], recipe: bytes) -> None:
    manifest["variants"]["fp32-cpu"] = NAME
    manifest["sha256"][NAME] = hashlib.sha256(OTHER).hexdigest()
    manifest["sha256"][RECIPE] = hashlib.sha256(recipe).hexdigest()
    manifest["derived"] = {NAME: {"source": SOURCE, "recipe": RECIPE}}


def change(folder: Path, how: Change) -> None:
    manifest = json.loads((folder / MANIFEST).read_text())
    how(manifest)
    (folder / MANIFEST).write_text(json.dumps(manifest))


def kept(own_cache: Path) -> list[Path]:
    return list((own_cache / FOLDER).glob("*"))


def test_a_variant_is_made_once_and_kept(
    folder: Path, own_cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert Bundle.open(folder).model("fp32-cpu") == OTHER
    (path,) = kept(own_cache)
    assert path.read_bytes() == OTHER
    monkeypatch.setattr(bundles, "build", lambda *_: pytest.fail("it is made again"))
    assert Bundle.open(folder).model("fp32-cpu") == OTHER


@pytest.mark.parametrize("damage", [b"", OTHER[:-1], OTHER[:-1] + b"x", OTHER + b"x"])
def test_what_was_damaged_in_the_cache_is_made_again(
    folder: Path, own_cache: Path, damage: bytes
) -> None:
    Bundle.open(folder).model("fp32-cpu")
    (path,) = kept(own_cache)
    path.write_bytes(damage)
    assert Bundle.open(folder).model("fp32-cpu") == OTHER
    assert path.read_bytes() == OTHER


def test_it_works_where_nothing_can_be_kept(folder: Path, own_cache: Path) -> None:
    own_cache.write_text("in the way")
    for _ in range(2):
        assert Bundle.open(folder).model("fp32-cpu") == OTHER
    assert own_cache.read_text() == "in the way"


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no pipes here")
def test_a_pipe_in_the_cache_is_not_waited_for(folder: Path, own_cache: Path) -> None:
    Bundle.open(folder).model("fp32-cpu")
    (path,) = kept(own_cache)
    path.unlink()
    os.mkfifo(path)
    assert Bundle.open(folder).model("fp32-cpu") == OTHER


@pytest.mark.parametrize("name", [SOURCE, RECIPE])
def test_a_changed_byte_of_what_it_is_made_from_is_refused(folder: Path, name: str) -> None:
    content = bytearray((folder / name).read_bytes())
    content[len(content) // 2] ^= 1
    (folder / name).write_bytes(content)
    with pytest.raises(BundleError, match="SHA-256") as caught:
        Bundle.open(folder).model("fp32-cpu")
    assert caught.value.code == "E-BUNDLE-HASH"
    assert name in str(caught.value)


@pytest.mark.parametrize(
    ("recipe", "code"),
    [
        (b'{"steps": []}', "E-BUNDLE-HASH"),
        (b'{"steps": [{}]}', "E-BUNDLE-FILE"),
        (b"", "E-BUNDLE-FILE"),
    ],
)
def test_a_sealed_recipe_for_something_else_is_refused(
    folder: Path, own_cache: Path, recipe: bytes, code: str
) -> None:
    (folder / RECIPE).write_bytes(recipe)
    change(folder, lambda manifest: add(manifest, recipe))
    with pytest.raises(BundleError, match=r"export the bundle again") as caught:
        Bundle.open(folder).model("fp32-cpu")
    assert caught.value.code == code
    assert not kept(own_cache)


def test_a_variant_that_is_no_network_is_refused_although_its_hash_is_right(folder: Path) -> None:
    recipe = b'{"steps": [{"bytes": "AAAA"}]}'
    (folder / RECIPE).write_bytes(recipe)
    change(folder, lambda manifest: add(manifest, recipe))
    digest = hashlib.sha256(b"\0\0\0").hexdigest()
    change(folder, lambda manifest: manifest["sha256"].update({NAME: digest}))
    with pytest.raises(BundleError) as caught:
        Bundle.open(folder).model("fp32-cpu")
    assert caught.value.code == "E-BUNDLE-MODEL"


def test_a_missing_recipe_is_an_incomplete_bundle(folder: Path) -> None:
    (folder / RECIPE).unlink()
    with pytest.raises(BundleError, match="incomplete"):
        Bundle.open(folder).model("fp32-cpu")


@pytest.mark.parametrize(
    "how",
    [
        lambda manifest: manifest.update(derived=[]),
        lambda manifest: manifest.update(derived={NAME: {}}),
        lambda manifest: manifest.update(derived={NAME: SOURCE}),
        lambda manifest: manifest.update(derived={NAME: None}),
        lambda manifest: manifest["derived"][NAME].update(source="/etc/passwd"),
        lambda manifest: manifest["derived"][NAME].update(source=NAME),
        lambda manifest: manifest["derived"][NAME].update(recipe=NAME),
        lambda manifest: manifest["sha256"].update({NAME: "../../elsewhere"}),
        lambda manifest: manifest["sha256"].pop(NAME),
        lambda manifest: manifest["sha256"].pop(RECIPE),
    ],
)
def test_a_malformed_manifest_is_refused(folder: Path, how: Change) -> None:
    change(folder, how)
    with pytest.raises(BundleError, match="derived") as caught:
        Bundle.open(folder)
    assert caught.value.code == "E-BUNDLE-MANIFEST"


def test_a_signature_covers_what_is_derived(folder: Path, tmp_path: Path) -> None:
    pytest.importorskip("cryptography")
    from export.signing import make_key, sign_bundle

    public = make_key(tmp_path / "key")
    sign_bundle(folder, tmp_path / "key")
    assert Bundle.open(folder, public).model("fp32-cpu") == OTHER
    digest = hashlib.sha256(bright_model(level=0.6)).hexdigest()
    change(folder, lambda manifest: manifest["sha256"].update({NAME: digest}))
    with pytest.raises(BundleError) as caught:
        Bundle.open(folder, public)
    assert caught.value.code == "E-BUNDLE-SIGNATURE"


def test_the_built_in_bundle_keeps_each_network_once(default_bundle: Path) -> None:
    bundle = Bundle.open(default_bundle)
    assert bundle.derived.keys() == set(bundle.variants.values()) - {bundle.variants["fp32"]}
    for variant in bundle.variants:
        assert constants_of(bundle.model(variant))
