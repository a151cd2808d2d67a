"""The backends on a real GPU: they build, run and agree with PyTorch; measures their speed."""

import json
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from cnnres_infer.bundle.bundle import Bundle
from cnnres_infer.core.precision import Precision
from cnnres_infer.engines import NVIDIA, probe
from cnnres_infer.engines.base import run_all
from cnnres_infer.engines.nvidia.device import Gpu
from cnnres_infer.engines.tensorrt.store import PlanStore
from cnnres_infer.host.cache import cache_folder
from cnnres_infer.predictor import Predictor
from cnnres_infer.selection.offers import offers, open_engine
from cnnres_infer.verification.agreement import GATES, Agreement, load_reference
from tests.conftest import blob_volume

pytestmark = [pytest.mark.gpu, pytest.mark.usefixtures("gpu")]

RUNS = 7
# Float32 is off by about 1e-5, and its products rounded as in TF32 by several per cent.
FLOAT32_OFF = 1e-3


@pytest.fixture(params=NVIDIA)
def backend(request: pytest.FixtureRequest) -> str:
    name = str(request.param)
    found = probe(name)
    if not found.usable:
        pytest.skip(f"{name}: {found.reason}")
    return name


@pytest.mark.parametrize("precision", ["fp16", "int8", "fp32"])
def test_agrees_with_pytorch(backend: str, precision: str, table: list[tuple[str, ...]]) -> None:
    bundle = Bundle.open()
    if precision not in offers(bundle, backend):
        pytest.skip(f"{backend} has no {precision} with this bundle")
    images, reference = load_reference(bundle)
    started = time.perf_counter()
    with open_engine(bundle, backend, precision) as engine:
        output = run_all(engine, images)
        cold = time.perf_counter() - started
        spent = []
        for _ in range(RUNS):
            started = time.perf_counter()
            again = run_all(engine, images)
            spent.append(time.perf_counter() - started)
        # Graphs that were captured meanwhile must not change the answer.
        np.testing.assert_allclose(again, output, atol=1e-6)
    agreement = Agreement.of(output, reference, bundle.spec.mask)
    table.append(
        (
            backend,
            precision,
            f"{len(images) / np.median(spent):.0f}",
            f"{agreement.mean:.5f}",
            f"{min(agreement.counted):.5f}",
            f"{agreement.pooled:.5f}",
            f"{agreement.largest_difference:.1e}",
            f"{cold:.2f}",
        )
    )
    print(json.dumps({"backend": backend, "precision": precision, **agreement.to_json()}))  # noqa: T201
    assert agreement.passes(GATES[Precision(precision)]), agreement.to_json()
    if precision == Precision.FP32:
        assert agreement.largest_difference < FLOAT32_OFF, "TF32?"


@pytest.mark.parametrize("count", [1, 5, 16, 17, 40, 64, 70])
def test_every_number_of_slices(backend: str, count: int) -> None:
    bundle = Bundle.open()
    images, _ = load_reference(bundle)
    some = np.resize(images, (count, *images.shape[1:]))
    with open_engine(bundle, backend, "fp32") as engine:
        together = engine.run(some)
        alone = np.concatenate([engine.run(some[i : i + 1]) for i in range(min(count, 3))])
    assert together.shape == some.shape
    np.testing.assert_allclose(together[: len(alone)], alone, atol=2e-3)


def test_a_whole_volume(backend: str, bright_bundle: Path) -> None:
    volume, ball = blob_volume()
    with Predictor.load(bright_bundle, backend, "fp32") as predictor:
        result = predictor.predict(volume)
    found = result.mask.data.astype(bool)
    assert 2 * (found & ball).sum() / (found.sum() + ball.sum()) > 0.9
    assert result.provenance.engine.backend == backend


def test_auto_takes_the_gpu(gpu: Gpu) -> None:
    if not any(probe(name).usable for name in NVIDIA):
        pytest.skip("no GPU backend can be used here")
    with Predictor.load() as predictor:
        info = predictor.engine.describe()
    print(info, predictor.selection.skipped)  # noqa: T201
    assert info.backend in NVIDIA
    assert str(gpu) in info.provider
    assert gpu.pci


@pytest.mark.parametrize("name", ["tensorrt", "tensorrt-rtx"])
def test_a_plan_is_built_once(name: str) -> None:
    if not probe(name).usable:
        pytest.skip(f"{name}: {probe(name).reason}")
    bundle = Bundle.open()
    for _ in range(2):
        with open_engine(bundle, name, "fp16") as engine:
            assert engine.describe().warnings == ()
    entries = PlanStore(cache_folder("plans")).entries()
    assert [e.key.precision for e in entries if e.key.backend == name].count("fp16") == 1


def test_doctor_finds_no_backend_broken() -> None:
    command = [sys.executable, "-m", "cnnres_infer", "doctor", "--json"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    for finding in json.loads(done.stdout)["findings"]:
        print(finding)  # noqa: T201
        if finding["subject"] in NVIDIA and probe(finding["subject"]).usable:
            assert finding["status"] == "OK", finding
