"""A bundle whose images are cut to the brain, from weights to masks, reports and verification."""

import json
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest

from cnnres_infer.bundle.bundle import Bundle
from cnnres_infer.bundle.manifest import spec_from_json
from cnnres_infer.core.arrays import FloatArray
from cnnres_infer.core.case import Case, Modality
from cnnres_infer.core.crops import box_shape
from cnnres_infer.core.precision import Precision
from cnnres_infer.core.volume import Volume
from cnnres_infer.engines import NVIDIA
from cnnres_infer.engines.base import Engine, run_all
from cnnres_infer.engines.tensorrt.build import BatchRange, build
from cnnres_infer.errors import BackendUnavailableError
from cnnres_infer.phantom.head import make_phantom
from cnnres_infer.predictor import Predictor
from cnnres_infer.readers.nifti.write import save_volume
from cnnres_infer.selection.offers import offers, open_engine
from cnnres_infer.selection.select import Selection
from cnnres_infer.verification.agreement import GATES, compare, load_reference
from cnnres_infer.verification.recording import record_case
from cnnres_infer.verification.self_check import self_check
from export.bundle_writer import write_bundle
from network.engine import TorchEngine
from tests import commands
from tests.conftest import phantom_volume
from tests.narrow import narrow_network

ROOT = Path(__file__).resolve().parents[2]
ABOUT = {
    "name": "narrow",
    "version": "1",
    "input": {
        "channels": 1,
        "modalities": ["dwi", "flair"],
        "size": 160,
        "spacing_mm": 1.25,
        "ceiling": 2.0,
        "shading": "removed",
        "frame": "brain",
    },
    "fusion": {"rule": "mean", "dwi_weight": 0.5},
    "mask": {"threshold": 0.5, "smallest_lesion_ml": 0.0},
}


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    out = tmp_path_factory.mktemp("crops") / "bundle"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("export.reference._PHANTOMS", 5)
        patch.setattr("export.reference._GRIDS", [((72, 72, 14), (3.2, 3.2, 10.0))])
        write_bundle(narrow_network(), spec_from_json(ABOUT), ABOUT, out)
    return Bundle.open(out)


@pytest.fixture(scope="module")
def torch_engine(bundle: Bundle) -> TorchEngine:
    return TorchEngine(narrow_network(), 2, sides=bundle.spec.slices.sides)


@pytest.fixture(scope="module")
def volume() -> Volume:
    phantom = make_phantom(3, shape=(90, 100, 12), spacing=(2.2, 2.2, 12.0))
    return phantom_volume(phantom)


def cpu_engines(bundle: Bundle) -> list[Engine]:
    engines = []
    for name in ("ort", "openvino"):
        for precision in offers(bundle, name):
            try:
                engines.append(open_engine(bundle, name, precision, 2))
            except BackendUnavailableError:
                continue
    return engines


def test_files_take_any_height_and_width(bundle: Bundle) -> None:
    assert set(bundle.variants) == {"fp32", "fp32-cpu", "fp16"}
    for variant in bundle.variants:
        graph = onnx.load_from_string(bundle.model(variant)).graph
        for value in (graph.input[0], graph.output[0]):
            dimensions = value.type.tensor_type.shape.dim
            assert [d.dim_param or d.dim_value for d in dimensions] == [
                "batch",
                1,
                "height",
                "width",
            ]
    card = (bundle.folder / "MODEL_CARD.md").read_text(encoding="utf-8")
    assert "cut to the brain" in card


def test_the_reference_has_slices_of_many_shapes(bundle: Bundle, torch_engine: TorchEngine) -> None:
    images, probabilities = load_reference(bundle)
    found = Counter(box_shape(image, bundle.spec.slices.sides) for image in images)
    assert {(96, 96), (128, 128), (160, 128), (160, 160), (160, 96)} <= set(found)
    assert min(found.values()) >= 1
    assert np.abs(run_all(torch_engine, images) - probabilities).max() <= 1e-5


def test_every_cpu_engine_agrees_on_every_shape(bundle: Bundle) -> None:
    images, probabilities = load_reference(bundle)
    for engine in cpu_engines(bundle):
        with engine:
            # Random weights are not steady enough for the gate of bfloat16.
            if engine.describe().precision == "bf16":
                assert np.abs(run_all(engine, images) - probabilities).mean() <= 0.01
                continue
            assert compare(engine, bundle).passes(GATES[Precision.FP32])
            assert self_check(engine, bundle).passed
            assert np.abs(run_all(engine, images) - probabilities).max() <= 1e-5


def test_a_volume_is_computed_in_crops(
    bundle: Bundle, torch_engine: TorchEngine, volume: Volume, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every slice once, in batches of one shape, and as PyTorch has it."""
    expected = Predictor(bundle, Selection(torch_engine)).predict(volume)
    recording = record_case(bundle, torch_engine, Case(Modality.DWI, volume))
    wanted = Counter(box_shape(image, bundle.spec.slices.sides) for image in recording.images)
    assert len(wanted) > 1
    with Predictor.load(bundle.folder, "ort", "fp32") as predictor:
        ran: Counter[tuple[int, ...]] = Counter()
        honest = predictor.engine.run

        def count(images: FloatArray) -> FloatArray:
            assert len(images) <= predictor.engine.BATCH
            ran[images.shape[2:]] += len(images)
            return honest(images)

        monkeypatch.setattr(predictor.engine, "run", count)
        result = predictor.predict(volume)
    assert ran == wanted
    assert np.abs(result.probabilities.data - expected.probabilities.data).max() <= 1e-5
    assert 0 < result.mask.volume_ml == expected.mask.volume_ml


def test_a_recording_is_in_order_and_whole(
    bundle: Bundle, torch_engine: TorchEngine, volume: Volume
) -> None:
    # Twice the intensities make the same images.
    case = Case(Modality.DWI, volume, flair=replace(volume, data=2 * volume.data))
    recording = record_case(bundle, torch_engine, case)
    half = len(recording.names) // 2
    numbers = [int(name.split()[-1]) for name in recording.names]
    assert numbers[:half] == numbers[half:] == sorted(numbers[:half])
    assert recording.images.shape == recording.output.shape == (2 * half, 1, 160, 160)
    np.testing.assert_allclose(recording.images[:half], recording.images[half:], atol=1e-5)
    assert np.array_equal(recording.output, run_all(torch_engine, recording.images))


def test_the_command_line_from_a_file_to_a_verified_mask(
    bundle: Bundle, volume: Volume, tmp_path: Path
) -> None:
    save_volume(tmp_path / "dwi.nii.gz", volume.data, volume.grid)

    def run(*arguments: object) -> str:
        done = commands.run("cnnres_infer", *arguments, "--bundle", bundle.folder)
        assert done.returncode == 0, done.stderr
        return done.stdout

    run("predict", tmp_path / "dwi.nii.gz", "-o", tmp_path / "out", "--backend", "ort")
    (report,) = (tmp_path / "out").glob("*_report.json")
    content = json.loads(report.read_text())
    assert content["verification"]["passed"]
    verified = json.loads(run("verify", "--backend", "ort", "--precision", "fp32", "--json"))
    assert verified["status"] == "passed"
    assert verified["agreement"]["slices"] == len(load_reference(bundle)[0])
    assert "brain" in run("info")


@pytest.mark.parametrize("variant", ["fp32", "fp16"])
def test_engines_for_all_sizes_build_for_a_gpu_that_is_not_here(
    bundle: Bundle, variant: str
) -> None:
    trt = pytest.importorskip("tensorrt_rtx", reason="needs pip install tensorrt-rtx-cu12")
    sides = bundle.spec.slices.sides
    plan, _ = build(trt, bundle.model(variant), BatchRange(), 86, sides=sides)
    assert len(plan) > 100_000


@pytest.mark.parametrize("name", NVIDIA)
def test_gpu_backends_offer_it(bundle: Bundle, name: str) -> None:
    assert {"fp16", "fp32"} <= set(offers(bundle, name))
