"""Writing bundles: checked against PyTorch, sealed with hashes, and completely or not at all."""

import hashlib
import json
import shutil
import tempfile
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from cnnres_infer.bundle.bundle import FORMAT, REFERENCE
from cnnres_infer.bundle.manifest import MANIFEST, spec_to_json
from cnnres_infer.bundle.signature import SIGNATURE
from cnnres_infer.core.arrays import FloatArray
from cnnres_infer.core.precision import Precision
from cnnres_infer.core.spec import ModelSpec
from cnnres_infer.engines.base import ModelFile, run_all
from cnnres_infer.engines.onnxruntime.cpu import OrtEngine
from cnnres_infer.errors import UsageError, VerificationError
from cnnres_infer.host.atomic import check_free, write_all
from export.model_card import CARD, model_card
from export.onnx_model import PASSES_OF, variants
from export.reference import reference_file, reference_slices
from export.tensorrt_rules import VARIANTS as TENSORRT_VARIANTS
from export.tensorrt_rules import check_for_tensorrt
from network.cnnres import CNNRes

LARGEST_DIFFERENCE = {"fp32": 1e-5, "fp32-cpu": 1e-5, "fp16": 3e-2}


def write_bundle(
    network: CNNRes,
    spec: ModelSpec,
    about: dict[str, Any],
    out: Path,
    overwrite: bool = False,
) -> dict[str, float]:
    """Export a network to a bundle, and check every variant against PyTorch.

    Parameters
    ----------
    about
        Further entries of ``model.json``, such as ``training`` and ``limits``.

    Returns
    -------
    dict
        For each variant, the largest difference in probability between ONNX
        Runtime and PyTorch on the reference slices.

    Raises
    ------
    VerificationError
        If a variant differs by more than `LARGEST_DIFFERENCE`; nothing is written.
    OutputExistsError
        If `out` exists and `overwrite` is False.
    UsageError
        If `out` is neither a bundle nor an empty folder; it is never replaced then.
    """
    check_free([out], overwrite)
    _check_replaceable(out)
    images, probabilities = reference_slices(network, spec)
    sides = spec.slices.sides
    models = variants(network, sides)
    differences = _checked_differences(models, sides, images, probabilities)
    files = {f"model.{name}.onnx": model for name, model in models.items()}
    manifest = {
        "format": FORMAT,
        **about,
        **spec_to_json(spec),
        "variants": {name: f"model.{name}.onnx" for name in models},
        "export": {
            "largest_difference": differences,
            "reference_slices": len(images),
            "passes": {name: list(passes) for name, passes in PASSES_OF.items()},
        },
    }
    files[REFERENCE] = reference_file(images, probabilities)
    with _replacing(out) as folder:
        seal(folder, manifest, files)
    return differences


def seal(
    folder: Path,
    manifest: dict[str, Any],
    files: Mapping[str, bytes] | None = None,
    removed: Collection[str] = (),
) -> None:
    """Write files and ``MODEL_CARD.md``, then ``model.json`` with the hash of every file.

    A signature is removed, since it would no longer match. So are the recipes of derived
    files that are written now or belong to no variant any more. If sealing is
    interrupted, the bundle is refused when it is opened, because its files do not
    match ``model.json``.

    Parameters
    ----------
    manifest
        The content of ``model.json``; its ``sha256`` is set here, where only the hashes of
        derived files stay what they were.
    files
        New and changed files, by name.
    removed
        Names of the files to remove.

    Raises
    ------
    VerificationError
        If TensorRT would refuse one of the files that are for it; nothing is written.
    """
    for variant in sorted(TENSORRT_VARIANTS & manifest["variants"].keys()):
        name = manifest["variants"][variant]
        if files and name in files:
            check_for_tensorrt(variant, files[name])
    derived, removed = _still_derived(manifest, files or {}, removed)
    written = {**(files or {}), CARD: model_card(manifest).encode()}
    outside = {MANIFEST, SIGNATURE, *removed, *written}
    kept = {path.name: path.read_bytes() for path in folder.iterdir() if path.name not in outside}
    hashes = {name: hashlib.sha256(each).hexdigest() for name, each in {**kept, **written}.items()}
    hashes |= {name: manifest["sha256"][name] for name in derived}
    manifest["sha256"] = dict(sorted(hashes.items()))
    manifest |= {"derived": derived} if derived else {}
    content = json.dumps(manifest, indent=2, allow_nan=False) + "\n"
    contents = {folder / name: content for name, content in written.items()}
    former = [folder / name for name in (*removed, SIGNATURE)]
    write_all({**contents, folder / MANIFEST: content.encode()}, overwrite=True, former=former)


def _still_derived(
    manifest: dict[str, Any], written: Collection[str], removed: Collection[str]
) -> tuple[dict[str, dict[str, str]], set[str]]:
    """What remains derived of what a manifest says, with all files to remove; takes it out."""
    before: dict[str, dict[str, str]] = manifest.pop("derived", {})
    variants = manifest["variants"].values()
    derived = {
        name: how for name, how in before.items() if name in variants and name not in written
    }
    recipes = {how["recipe"] for name, how in before.items() if name not in derived}
    return derived, {*removed, *recipes}


def _checked_differences(
    models: Mapping[str, bytes],
    sides: tuple[int, ...],
    images: FloatArray,
    probabilities: FloatArray,
) -> dict[str, float]:
    """Largest difference of each variant's probabilities from PyTorch's, none above its bound."""
    differences = {}
    for name, model in models.items():
        computed = _computed(ModelFile(name, model, sides), images)
        difference = float(np.abs(computed - probabilities).max())
        if not difference <= LARGEST_DIFFERENCE[name]:
            raise VerificationError(
                f"variant {name} differs from PyTorch by {difference:.2g}, more than "
                f"{LARGEST_DIFFERENCE[name]:.0e}; no bundle was written"
            )
        differences[name] = difference
    return differences


def _computed(model: ModelFile, images: FloatArray) -> FloatArray:
    with OrtEngine.open(model, Precision.FP32, threads=2) as engine:
        return run_all(engine, images)


def _check_replaceable(folder: Path) -> None:
    if not folder.exists():
        return
    if not folder.is_dir() or not ((folder / MANIFEST).is_file() or not any(folder.iterdir())):
        raise UsageError(
            f"{folder}: neither empty nor a bundle, so it is not replaced; choose another folder"
        )


@contextmanager
def _replacing(folder: Path) -> Iterator[Path]:
    """Yield a new folder, which replaces `folder` on success and is deleted on failure."""
    folder = folder.resolve()
    folder.parent.mkdir(parents=True, exist_ok=True)
    new = Path(tempfile.mkdtemp(prefix=f".{folder.name}.", dir=folder.parent))
    old = new.with_name(f"{new.name}.old")
    try:
        yield new
        new.chmod(0o755)
        if folder.exists():
            folder.rename(old)
        try:
            new.rename(folder)
        except OSError:
            if old.exists():
                old.rename(folder)
            raise
        shutil.rmtree(old, ignore_errors=True)
    finally:
        shutil.rmtree(new, ignore_errors=True)
