"""Faults other than those of a single file, by the code that each must cause."""

import hashlib
import json
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from cnnres_infer import Bundle, Predictor
from cnnres_infer.bundle.manifest import MANIFEST
from cnnres_infer.cli import console
from cnnres_infer.core.failure import Failure
from cnnres_infer.core.grid import Grid
from cnnres_infer.core.precision import Precision
from cnnres_infer.core.result import Result
from cnnres_infer.core.volume import Volume
from cnnres_infer.errors import CnnresError, EngineRunError
from cnnres_infer.limits import Limits
from cnnres_infer.selection.offers import open_engine
from cnnres_infer.selection.select import Selection
from tests.conftest import BundleMaker, blob_volume
from tests.faults.files import DATA


@dataclass(frozen=True)
class Scene:
    """What a situation needs."""

    folder: Path
    make_bundle: BundleMaker

    def predictor(self, **limits: Any) -> Predictor:
        return Predictor.load(self.make_bundle(), threads=1, limits=Limits(**limits))

    def predict(self, source: Any, **options: Any) -> Result:
        with self.predictor() as predictor:
            return predictor.predict(source, **options)


class Engine:
    """Returns the same probability for all images."""

    VARIANTS = {Precision.FP32: ("fp32",)}  # noqa: RUF012
    BATCH = 4
    LEAST = 1
    padded_sizes = ()

    def __init__(self, answer: float | Exception, info: Any) -> None:
        self.answer = answer
        self.describe = info

    def run(self, images: np.ndarray) -> np.ndarray:
        if isinstance(self.answer, Exception):
            raise self.answer
        return np.full((len(images), 1, *images.shape[2:]), self.answer, np.float32)

    def close(self) -> None:
        pass


def answering(scene: Scene, answer: float | Exception) -> Result:
    predictor = scene.predictor()
    engine: Any = Engine(answer, predictor.engine.describe)
    return Predictor(predictor.bundle, Selection(engine)).predict(blob_volume()[0])


def moved(volume: Volume, millimetres: float) -> Volume:
    affine = volume.grid.affine.copy()
    affine[2, 3] += millimetres
    return replace(volume, grid=Grid(volume.grid.shape, affine), name="flair")


def adc_map() -> Volume:
    """Tissue of 0.8, and fluid of 3.0 x 10^-3 mm2/s in every eighth voxel."""
    volume, _ = blob_volume(radius_mm=0.1)
    data = volume.data * np.float32(8.0)
    fluid = data[::2, ::2, ::2]
    fluid[fluid > 0] = 3000.0
    return replace(volume, data=data)


def altered(scene: Scene, change: Callable[[bytes], bytes], seal: bool) -> Path:
    """A bundle with a modified model, and its hash updated or not."""
    folder = scene.make_bundle()
    path = folder / "model.fp32.onnx"
    path.write_bytes(change(path.read_bytes()))
    if seal:
        manifest = json.loads((folder / MANIFEST).read_text())
        manifest["sha256"][path.name] = hashlib.sha256(path.read_bytes()).hexdigest()
        (folder / MANIFEST).write_text(json.dumps(manifest))
    return folder


def internal(scene: Scene) -> None:
    def work() -> None:
        raise ZeroDivisionError

    failure = console.attempt(work, verbose=False)
    assert isinstance(failure, Failure)
    raise CnnresError(failure.message, code=failure.code)


def exists(scene: Scene) -> None:
    result = scene.predict(blob_volume()[0])
    result.save(scene.folder)
    result.save(scene.folder)


def not_written(scene: Scene) -> None:
    (scene.folder / "file").write_text("")
    scene.predict(blob_volume()[0]).save(scene.folder / "file")


def denied(scene: Scene) -> None:
    def work() -> None:
        raise MemoryError

    failure = console.attempt(work, verbose=False)
    assert isinstance(failure, Failure)
    assert failure.exit_status == 3
    raise CnnresError(failure.message, code=failure.code)


RAISED: dict[str, Callable[[Scene], object]] = {
    "E-INTERNAL": internal,
    "E-SYSTEM": denied,
    "E-USAGE": lambda scene: scene.predict(blob_volume()[0], modality="ct"),
    "E-LIMIT-MEMORY": lambda scene: scene.predictor(max_memory=10_000_000).predict(
        blob_volume()[0]
    ),
    "E-CANCELLED": lambda scene: scene.predict(blob_volume()[0], cancel=lambda: True),
    "E-LIMIT-TIME": lambda scene: scene.predictor(timeout=1e-9).predict(blob_volume()[0]),
    "E-ARRAY": lambda scene: scene.predict(DATA[0], affine=np.eye(4)),
    "E-GRID-AFFINE": lambda scene: scene.predict(DATA, affine=np.zeros((4, 4))),
    "E-GRID-OVERLAP": lambda scene: scene.predict(
        blob_volume()[0], flair=moved(blob_volume()[0], 500)
    ),
    "E-GRID-MASK": lambda scene: scene.predict(
        blob_volume()[0], brain_mask=moved(blob_volume()[0], 1)
    ),
    "E-VOXELS-IMAGE": lambda scene: scene.predict(blob_volume()[0], brain_mask=blob_volume()[0]),
    "E-INPUT-FLAIR": lambda scene: scene.predict(blob_volume()[0], flair=blob_volume()[0]),
    "E-INPUT-DIFFUSION": lambda scene: scene.predict(blob_volume()[0], adc=blob_volume()[0]),
    "E-BUNDLE-MANIFEST": lambda scene: Bundle.open(scene.make_bundle(format=7)),
    "E-BUNDLE-FILE": lambda scene: Bundle.open(scene.make_bundle()).read("extra"),
    "E-BUNDLE-HASH": lambda scene: Predictor.load(altered(scene, lambda m: m[:-1], seal=False)),
    "E-BUNDLE-MODEL": lambda scene: Predictor.load(altered(scene, lambda m: m[:-1], seal=True)),
    "E-BUNDLE-SIGNATURE": lambda scene: Predictor.load(
        scene.make_bundle(), trusted_key=scene.folder / "none.pub"
    ),
    "E-OUTPUT-EXISTS": exists,
    "E-OUTPUT-WRITE": not_written,
    "E-BACKEND": lambda scene: open_engine(Bundle.open(scene.make_bundle()), "ort", "fp8"),
    "E-ENGINE-RUN": lambda scene: answering(scene, EngineRunError("out of memory")),
    "E-ENGINE-OUTPUT": lambda scene: answering(scene, float("nan")),
}

NOTED: dict[str, Callable[[Scene], Result]] = {
    "W-GRID-RESAMPLED": lambda scene: scene.predict(
        blob_volume()[0], flair=moved(blob_volume()[0], 1)
    ),
    "W-GRID-UNCOVERED": lambda scene: scene.predict(
        blob_volume()[0], flair=moved(blob_volume()[0], 30)
    ),
    "W-INPUT-CONTRAST": lambda scene: scene.predict(replace(adc_map(), data=adc_map().data * 10)),
    "W-INPUT-ADC": lambda scene: scene.predict(adc_map()),
    "W-MASK-LARGE": lambda scene: answering(scene, 1.0),
}

# Codes whose tests need more than a scene.
ELSEWHERE = {
    "E-DICOM-EXTRA": "tests/readers/dicom/test_files.py",
    "E-DICOM-NONE": "tests/readers/dicom/test_files.py",
    "E-DICOM-ARCHIVE": "tests/readers/dicom/test_files.py",
    "E-DICOM-FILE": "tests/readers/dicom/test_files.py",
    "E-DICOM-STUDY": "tests/readers/dicom/test_choice.py",
    "E-DICOM-SERIES": "tests/readers/dicom/test_choice.py",
    "E-DICOM-BVALUE": "tests/readers/dicom/test_choice.py",
    "E-DICOM-SLICES": "tests/readers/dicom/test_geometry.py",
    "E-DICOM-PIXELS": "tests/readers/dicom/test_files.py",
    "E-SERVICE-EXTRA": "tests/service/test_receiver.py",
    "E-SERVICE-PORT": "tests/service/test_receiver.py",
    "E-SERVICE-ENDED": "tests/service/test_commands.py",
    "W-DICOM-SERIES": "tests/readers/dicom/test_command.py",
    "W-DICOM-LEFT-OUT": "tests/readers/dicom/test_choice.py",
    "W-INPUT-DIFFUSION": "tests/pipeline/test_restriction.py",
    "W-LESION-REJECTED": "tests/pipeline/test_restriction.py",
    "E-PROCESS-LOST": "tests/cohort/test_segment.py",
    "E-VERIFY": "tests/export/test_bundle_writer.py",
    "E-BUNDLE": "tests/export/test_command.py",
    "E-REFERENCE": "tests/verification/test_reference.py",
    "W-BACKEND-PASSED": "tests/selection/test_select.py",
    "W-ENGINE": "tests/engines/tensorrt/test_engine.py",
    "W-CHECK-UNSAVED": "tests/selection/test_select.py",
}
