"""One predictor in many threads: every volume gets its own lesions, and those it gets alone."""

import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar

import pytest

from cnnres_infer import Predictor, engines
from cnnres_infer.core.arrays import FloatArray
from cnnres_infer.core.provenance import EngineInfo
from cnnres_infer.core.result import Result
from cnnres_infer.core.volume import Volume
from cnnres_infer.engines import BACKENDS, Backend, backend
from cnnres_infer.engines.onnxruntime.cpu import OrtEngine
from cnnres_infer.errors import EngineRunError, UsageError
from cnnres_infer.selection import select as selection
from tests.conftest import blob_volume, oriented_affine
from tests.threads import PATIENCE_S, in_threads

THREADS = 4
CPU = [pytest.param(name, marks=pytest.mark.skipif(
    not backend(name).probe().usable, reason=backend(name).probe().reason
)) for name in ("ort", "openvino")]  # fmt: skip
CENTRES = [(20.0, 10.0, 5.0), (-25.0, 15.0, 0.0), (5.0, -40.0, -10.0), (-10.0, 30.0, 10.0)]


def make_volumes() -> list[Volume]:
    """Volumes on different grids, each with a lesion of its own."""
    shapes = [(60, 70, 20), (50, 64, 24)]
    return [
        blob_volume(
            shape,
            oriented_affine((0, 1, 2), (-1, 1, 1), (3.0, 3.0, 5.0), shape=shape),
            centre,
            radius,
        )[0]
        for shape in shapes
        for centre, radius in zip(CENTRES, (9.0, 12.0, 10.0, 7.0), strict=True)
    ]


VOLUMES = make_volumes()


def outputs(result: Result) -> tuple[bytes, bytes, Any]:
    return result.mask.data.tobytes(), result.probabilities.data.tobytes(), result.lesions


def in_all_orders(predictor: Predictor, rounds: int) -> list[tuple[int, Result]]:
    """Results of all volumes in many threads, each of which begins with another."""

    def work(thread: int) -> list[tuple[int, Result]]:
        order = [(thread + step) % len(VOLUMES) for step in range(rounds * len(VOLUMES))]
        return [(index, predictor.predict(VOLUMES[index])) for index in order]

    return [each for results in in_threads(THREADS, work) for each in results]


@pytest.mark.parametrize("name", CPU)
def test_every_volume_gets_its_own_lesions(bright_bundle: Path, name: str) -> None:
    with Predictor.load(bright_bundle, name, "fp32", threads=2) as predictor:
        alone = [outputs(predictor.predict(volume)) for volume in VOLUMES]
        found = in_all_orders(predictor, rounds=2)
    assert len({mask for mask, _, _ in alone}) == len(VOLUMES)
    assert all(lesions for _, _, lesions in alone)
    assert all(outputs(result) == alone[index] for index, result in found)


class Flaky(OrtEngine):
    """Runs four volumes at the same time, the first time, and fails in the middle of one.

    Its answers are the wrong way round, so that a volume which it has a share
    in cannot pass for one that another engine did.
    """

    together: ClassVar[threading.Barrier]
    calls: ClassVar[Iterator[int]]
    closed: ClassVar[int] = 0

    def describe(self) -> EngineInfo:
        return replace(super().describe(), backend="flaky")

    def run(self, images: FloatArray) -> FloatArray:
        call = next(type(self).calls)
        if call < THREADS:
            type(self).together.wait()
        if call == THREADS + 1:
            raise EngineRunError("the device was lost")
        return 1 - super().run(images)

    def close(self) -> None:
        type(self).closed += 1
        super().close()


@pytest.fixture
def flaky(monkeypatch: pytest.MonkeyPatch) -> type[Flaky]:
    """A table in which an engine that fails once comes before the two for CPUs."""
    table = {
        "flaky": Backend(f"{__name__}:Flaky"),
        **{name: BACKENDS[name] for name in ("openvino", "ort")},
    }
    for module in (engines, selection):
        monkeypatch.setattr(module, "BACKENDS", table)
    monkeypatch.setattr(Flaky, "closed", 0)
    Flaky.together = threading.Barrier(THREADS, timeout=PATIENCE_S)
    Flaky.calls = iter(range(1_000_000))
    return Flaky


@pytest.mark.parametrize("name", CPU)
def test_a_failure_amid_four_volumes_mixes_none(
    bright_bundle: Path, flaky: type[Flaky], name: str
) -> None:
    expected = {}
    flaky.calls = iter(range(THREADS + 2, 1_000_000))
    for backend_name in ("flaky", name):
        with Predictor.load(bright_bundle, backend_name, "fp32", self_check=False) as predictor:
            expected[backend_name] = [outputs(predictor.predict(volume)) for volume in VOLUMES]
    flaky.calls, flaky.closed = iter(range(1_000_000)), 0
    engines.BACKENDS.pop({"ort": "openvino", "openvino": "ort"}[name])
    with Predictor.load(bright_bundle, precision="fp32", self_check=False) as predictor:
        assert isinstance(predictor.engine, Flaky)
        found = in_all_orders(predictor, rounds=1)
        assert predictor.engine.describe().backend == name
    assert flaky.closed == 1
    for index, result in found:
        provenance = result.provenance
        assert outputs(result) == expected[provenance.engine.backend][index]
        reasons = [(each.backend, each.reason) for each in provenance.skipped]
        by_next = provenance.engine.backend == name
        assert reasons == ([("flaky", "the device was lost")] if by_next else [])
    # Whoever else was under way finished with the engine that failed for one of them.
    by_flaky = [result for _, result in found if not result.provenance.skipped]
    assert THREADS - 1 <= len(by_flaky) < len(found)


def test_closing_waits_for_calls_that_have_not_reached_the_engine(bright_bundle: Path) -> None:
    predictor = Predictor.load(bright_bundle, "ort", "fp32")
    reading, go_on = threading.Event(), threading.Event()

    def hold(*_: object) -> None:
        if not reading.is_set():
            with pytest.raises(UsageError, match="this thread is computing"):
                predictor.close()
            reading.set()
            assert go_on.wait(PATIENCE_S)

    with ThreadPoolExecutor(2) as pool:
        call = pool.submit(predictor.predict, VOLUMES[0], progress=hold)
        assert reading.wait(PATIENCE_S)
        closing = pool.submit(predictor.close)
        while not predictor.closed:
            time.sleep(0.01)
        with pytest.raises(UsageError, match="the predictor is closed"):
            predictor.predict(VOLUMES[1])
        assert not closing.done()
        go_on.set()
        assert call.result(PATIENCE_S).mask.data.any()
        closing.result(PATIENCE_S)


def test_a_predictor_may_be_closed_amid_volumes(bright_bundle: Path) -> None:
    predictor = Predictor.load(bright_bundle, "ort", "fp32")
    alone = outputs(predictor.predict(VOLUMES[0]))

    def predict_for_ever() -> None:
        while True:
            assert outputs(predictor.predict(VOLUMES[0])) == alone

    def work(thread: int) -> None:
        if not thread:
            predictor.close()
        with pytest.raises(UsageError, match="the predictor is closed"):
            predict_for_ever()

    in_threads(THREADS, work)
