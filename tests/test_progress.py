"""Progress and cancellation of a prediction."""

import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from cnnres_infer import Predictor
from cnnres_infer.core.arrays import FloatArray
from cnnres_infer.core.provenance import EngineInfo
from cnnres_infer.engines import AUTO, BACKENDS, Backend
from cnnres_infer.engines.onnxruntime.cpu import OrtEngine
from cnnres_infer.errors import CancelledError, EngineRunError
from cnnres_infer.host.deadline import cancellable, check_time
from cnnres_infer.readers.nifti.write import save_volume
from cnnres_infer.selection import select as selection
from tests.conftest import BundleMaker, blob_volume

VOLUME, BALL = blob_volume()
Steps = list[tuple[str, int, int]]


@pytest.fixture(scope="module")
def predictor(bright_bundle: Path) -> Predictor:
    return Predictor.load(bright_bundle, "ort", "fp32", threads=1)


def recording(steps: Steps) -> Callable[[str, int, int], None]:
    return lambda stage, done, total: steps.append((stage, done, total))


def test_every_stage_begins_and_ends_in_the_order_of_the_flow(
    predictor: Predictor, tmp_path: Path
) -> None:
    path, steps = tmp_path / "dwi.nii.gz", Steps()
    save_volume(path, VOLUME.data, VOLUME.grid)
    result = predictor.predict(path, progress=recording(steps))
    stages = list(dict.fromkeys(stage for stage, _, _ in steps))
    assert stages == ["read", "brain", "engine", "mask"]
    assert set(stages) < set(result.timings)
    for stage in stages:
        counts = [(done, total) for each, done, total in steps if each == stage]
        (total,) = {total for _, total in counts}
        done = [done for done, _ in counts]
        assert (done[0], done[-1]) == (0, total)
        assert done == sorted(set(done))
    slices = int(VOLUME.data.any(axis=(0, 1)).sum())
    assert next(total for stage, _, total in steps if stage == "engine") in (slices - 1, slices)


def test_dwi_and_flair_count_together(make_bundle: BundleMaker) -> None:
    alone, both = Steps(), Steps()
    with Predictor.load(make_bundle(), "ort", "fp32") as predictor:
        predictor.predict(VOLUME, progress=recording(alone))
        flair = replace(VOLUME, data=2 * VOLUME.data)
        predictor.predict(VOLUME, flair=flair, progress=recording(both))
    (one,) = {total for stage, _, total in alone if stage == "engine"}
    assert {total for stage, _, total in both if stage == "engine"} == {2 * one}
    assert ("engine", 2 * one, 2 * one) in both
    assert ("register", 1, 1) in both


def test_what_progress_raises_ends_the_call(predictor: Predictor) -> None:
    def full(_stage: str, _done: int, _total: int) -> None:
        raise OSError("the disk of the progress bar is full")

    with pytest.raises(OSError, match="progress bar"):
        predictor.predict(VOLUME, progress=full)
    assert predictor.predict(VOLUME).mask.data.any()


@pytest.mark.parametrize("stage", ["brain", "engine", "mask"])
def test_a_call_can_be_cancelled_in_any_stage(predictor: Predictor, stage: str) -> None:
    now, seen = threading.Event(), Steps()

    def until(at: str, done: int, total: int) -> None:
        seen.append((at, done, total))
        if at == stage:
            now.set()

    with pytest.raises(CancelledError) as caught:
        predictor.predict(VOLUME, progress=until, cancel=now.is_set)
    assert caught.value.code == "E-CANCELLED"
    assert [each for each in seen if each[0] == stage] == [(stage, 0, seen[-1][2])]
    assert predictor.predict(VOLUME, cancel=lambda: False).mask.data.any()


def test_one_thread_is_cancelled_and_another_is_not(predictor: Predictor) -> None:
    outcome: list[object] = []

    def other() -> None:
        outcome.append(predictor.predict(VOLUME).mask.volume_ml)

    thread = threading.Thread(target=other)

    def meanwhile(stage: str, _done: int, _total: int) -> None:
        if stage == "brain" and not thread.ident:
            thread.start()

    asked = iter(range(1_000_000))
    with pytest.raises(CancelledError):
        predictor.predict(VOLUME, progress=meanwhile, cancel=lambda: next(asked) > 3)
    thread.join()
    assert outcome == [predictor.predict(VOLUME).mask.volume_ml]


def test_inside_another_context_both_can_cancel() -> None:
    with cancellable(None):
        check_time()
    for outer, inner in ((True, False), (False, True)):
        with (
            cancellable(lambda outer=outer: outer),  # type: ignore[misc]
            cancellable(lambda inner=inner: inner),  # type: ignore[misc]
            pytest.raises(CancelledError),
        ):
            check_time()
    check_time()


class Lost(OrtEngine):
    """Fails at every volume."""

    def describe(self) -> EngineInfo:
        return replace(super().describe(), backend="lost")

    def run(self, images: FloatArray) -> FloatArray:
        raise EngineRunError("the device was lost")


def test_a_cancelled_change_of_engines_is_left_to_the_next_call(
    bright_bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from cnnres_infer import engines

    table = {"lost": Backend(f"{__name__}:Lost"), "ort": BACKENDS["ort"]}
    for module in (engines, selection):
        monkeypatch.setattr(module, "BACKENDS", table)
    changing = threading.Event()

    def until(stage: str, _done: int, _total: int) -> None:
        if stage == "next engine":
            asked.clear()
            changing.set()

    asked: list[int] = []

    def in_the_middle() -> bool:
        """The stage begins, and then nothing else does."""
        asked.append(1)
        return changing.is_set() and len(asked) > 1

    with Predictor.load(bright_bundle, AUTO, "fp32", self_check=False) as predictor:
        with pytest.raises(CancelledError):
            predictor.predict(VOLUME, progress=until, cancel=in_the_middle)
        result = predictor.predict(VOLUME)
    assert result.provenance.engine.backend == "ort"
    assert [each.backend for each in result.provenance.skipped] == ["lost"]
