"""Writing bundles: checked, sealed with hashes, completely or not at all."""

import hashlib
import json
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from cnnres_infer.atomic import check_free, write_all
from cnnres_infer.bundle import FORMAT, MANIFEST, REFERENCE, ModelSpec
from cnnres_infer.engines import run_all
from cnnres_infer.engines.ort import OrtEngine
from cnnres_infer.errors import VerificationError
from cnnres_infer.signature import SIGNATURE
from cnnres_infer.volume import FloatArray
from export.model_card import CARD, model_card
from export.onnx_model import variants
from export.reference import reference_file, reference_slices
from training.network import CNNRes

LARGEST_DIFFERENCE = {"fp32": 1e-5, "fp16": 3e-2}


def write_bundle(
    network: CNNRes,
    spec: ModelSpec,
    about: dict[str, Any],
    out: Path,
    overwrite: bool = False,
) -> dict[str, float]:
    """Export a network into a bundle and check it there.

    Parameters
    ----------
    about
        Further entries of ``model.json``: ``training`` and what else is to be
        known of the model.

    Returns
    -------
    dict
        Largest difference of probabilities between ONNX Runtime and PyTorch
        on the reference slices, for each variant.

    Raises
    ------
    VerificationError
        If a variant differs by more than `LARGEST_DIFFERENCE`; nothing is written then.
    OutputExistsError
        If `out` stands and `overwrite` is False.
    """
    check_free([out], overwrite)
    images, probabilities = reference_slices(network, spec)
    models = variants(network, spec.slices.size)
    differences = {
        name: float(np.abs(_computed(model, images) - probabilities).max())
        for name, model in models.items()
    }
    for name, bound in LARGEST_DIFFERENCE.items():
        if not differences[name] <= bound:
            raise VerificationError(
                f"variant {name} differs from PyTorch by {differences[name]:.2g}, "
                f"more than {bound:.0e}; no bundle was written"
            )
    files = {f"model.{name}.onnx": model for name, model in models.items()}
    manifest = {
        "format": FORMAT,
        **about,
        **spec.to_json(),
        "variants": {name: f"model.{name}.onnx" for name in models},
        "export": {"largest_difference": differences, "reference_slices": len(images)},
    }
    files[REFERENCE] = reference_file(images, probabilities)
    with _replacing(out) as folder:
        for name, content in files.items():
            (folder / name).write_bytes(content)
        seal(folder, manifest)
    return differences


def seal(folder: Path, manifest: dict[str, Any]) -> None:
    """Write ``MODEL_CARD.md`` and ``model.json`` with the hash of every other file.

    A signature of what stood before goes.
    """
    (folder / SIGNATURE).unlink(missing_ok=True)
    (folder / CARD).write_text(model_card(manifest), encoding="utf-8")
    manifest["sha256"] = {
        path.name: hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.iterdir())
        if path.name != MANIFEST
    }
    content = json.dumps(manifest, indent=2, allow_nan=False) + "\n"
    write_all({folder / MANIFEST: content.encode()}, overwrite=True)


def _computed(model: bytes, images: FloatArray) -> FloatArray:
    with OrtEngine.open(model, "fp32", threads=2) as engine:
        return run_all(engine, images)


@contextmanager
def _replacing(folder: Path) -> Iterator[Path]:
    """Lend an empty folder that takes the place of `folder` when all went well."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    temporary = Path(tempfile.mkdtemp(prefix=f".{folder.name}.", dir=folder.parent))
    try:
        yield temporary
        temporary.chmod(0o755)
        if folder.exists():
            shutil.rmtree(folder)
        temporary.rename(folder)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
