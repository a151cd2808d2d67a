import json
from collections.abc import Iterator
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, ClassVar, Self

import numpy as np
import pytest

from cnnres_infer.bundle.bundle import Bundle
from cnnres_infer.core.arrays import FloatArray
from cnnres_infer.core.precision import Precision
from cnnres_infer.core.provenance import EngineInfo, Verification
from cnnres_infer.engines.base import Engine, ModelFile, Probe, Variants
from cnnres_infer.errors import BundleError, VerificationError
from cnnres_infer.host.cache import FOLDER
from cnnres_infer.selection.offers import open_engine
from cnnres_infer.verification import self_check as module
from cnnres_infer.verification.agreement import compare, load_reference
from cnnres_infer.verification.self_check import (
    last_verifications,
    record,
    representative_slices,
    self_check,
)
from tests.conftest import BundleMaker
from tests.verification.test_agreement import BREAKS


@pytest.fixture(autouse=True)
def cache(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    folder = tmp_path / "cache"
    monkeypatch.setenv(FOLDER, str(folder))
    return folder


@pytest.fixture
def bundle(bright_bundle: Path) -> Bundle:
    return Bundle.open(bright_bundle)


@pytest.fixture
def engine(bundle: Bundle) -> Iterator[Engine]:
    with open_engine(bundle, "ort", "fp32", 1) as engine:
        yield engine


class Replay:
    """An engine that returns the reference's own probabilities, except for spoiled slices."""

    VARIANTS: ClassVar[Variants] = {Precision.FP16: ("fp16",)}
    BATCH: ClassVar[int] = 4
    LEAST: ClassVar[int] = 1
    RIVALS: ClassVar[tuple[Precision, ...]] = ()
    CACHE_FOLDER: ClassVar[str | None] = None
    sides: tuple[int, ...] = ()
    padded_sizes: tuple[int, ...] = ()

    def __init__(self, bundle: Bundle) -> None:
        images, self.answers = load_reference(bundle)
        self.numbers = {image.tobytes(): i for i, image in enumerate(images)}
        self.ran: list[int] = []

    def spoil(self, index: int, pixels: int) -> None:
        """Remove the first pixels of a slice's lesion."""
        flat = self.answers[index].reshape(-1)
        flat[np.flatnonzero(flat >= 0.4)[:pixels]] = 0.0

    @classmethod
    def probe(cls) -> Probe:
        return Probe(True, "a recording")

    @classmethod
    def open(cls, model: ModelFile, precision: Precision, threads: int) -> Self:
        raise NotImplementedError

    def run(self, images: FloatArray) -> FloatArray:
        numbers = [self.numbers[image.tobytes()] for image in images]
        self.ran += numbers
        return self.answers[numbers]

    def describe(self) -> EngineInfo:
        return EngineInfo("replay", "memory", Precision.FP16, "fp16", 1, {"replay": "1"})

    def close(self) -> None: ...

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None: ...


@pytest.fixture
def shipped(default_bundle: Path) -> Bundle:
    return Bundle.open(default_bundle)


@pytest.fixture
def replay(shipped: Bundle) -> Replay:
    return Replay(shipped)


class Padding(Replay):
    """An engine that pads batches, and whose kernels for one size are off."""

    padded_sizes = (4, 8)

    def __init__(self, bundle: Bundle, broken: int | None) -> None:
        super().__init__(bundle)
        self.broken = broken
        self.sizes: set[int] = set()

    def run(self, images: FloatArray) -> FloatArray:
        self.sizes.add(len(images))
        output = super().run(images)
        return output * np.float32(0) if len(images) == self.broken else output


@pytest.mark.parametrize("broken", [None, 4, 8])
def test_kernels_of_every_size_of_batch_are_checked(
    shipped: Bundle, cache: Path, broken: int | None
) -> None:
    engine = Padding(shipped, broken)
    if broken is None:
        assert self_check(engine, shipped).passed
    else:
        with pytest.raises(VerificationError, match="disagrees"):
            self_check(engine, shipped)
    assert engine.sizes == {4, 8}


def stored(cache: Path) -> Path:
    (path,) = (cache / "verifications").iterdir()
    return path


def test_the_built_in_model_passes_and_is_not_checked_again(shipped: Bundle, cache: Path) -> None:
    with open_engine(shipped, "ort", "fp32") as engine:
        first, second = self_check(engine, shipped), self_check(engine, shipped)
    assert first.passed
    assert not first.cached
    assert 6 <= first.slices <= 16
    assert first.dice_min == 1.0
    assert 0 < first.largest_difference < 1e-5
    assert second == replace(first, cached=True)
    assert json.loads(stored(cache).read_text())["value"]["key"] == first.key


def test_a_stored_outcome_is_used(engine: Engine, bundle: Bundle, cache: Path) -> None:
    self_check(engine, bundle)
    content = json.loads(stored(cache).read_text())
    content["value"]["dice_min"] = 0.123
    stored(cache).write_text(json.dumps(content))
    engine.close()
    assert self_check(engine, bundle).dice_min == 0.123


def test_the_subset_covers_no_tiny_large_and_several_lesions(shipped: Bundle) -> None:
    import cc3d

    masks = shipped.spec.mask.apply(load_reference(shipped)[1])
    few = masks[representative_slices(masks)]
    areas = few.sum(axis=(1, 2, 3))
    assert (areas == 0).sum() == 1
    assert ((areas > 0) & (areas <= 50)).sum() >= 1
    assert (areas > 300).sum() >= 1
    assert max(cc3d.connected_components(mask[0], connectivity=8).max() for mask in few) > 1


@pytest.mark.parametrize("areas", [[0], [5], [0, 0, 0], [3, 1, 2], [0, 9]])
def test_the_subset_of_a_few_slices(areas: list[int]) -> None:
    masks = np.zeros((len(areas), 1, 8, 8), bool)
    for mask, area in zip(masks, areas, strict=True):
        mask.reshape(-1)[:area] = True
    chosen = representative_slices(masks)
    assert set(np.flatnonzero(masks.any(axis=(1, 2, 3)))) <= set(chosen)
    assert len(chosen) == len({area or 0 for area in areas})


def test_the_subset_has_a_slice_of_every_shape() -> None:
    masks = np.zeros((30, 1, 8, 8), bool)
    for area, mask in enumerate(masks):
        mask.reshape(-1)[:area] = True
    usual = representative_slices(masks)
    shapes = [(96, 96)] * 30
    assert np.array_equal(representative_slices(masks, shapes), usual)
    rare = [i for i in range(30) if i not in usual][:3]
    for i, shape in zip(rare, ((96, 128), (160, 128), (160, 128)), strict=True):
        shapes[i] = shape
    expected = sorted([*usual, rare[0], rare[2]])
    assert representative_slices(masks, shapes).tolist() == expected


def test_if_the_subset_misses_the_gate_all_slices_decide(shipped: Bundle, replay: Replay) -> None:
    masks = shipped.spec.mask.apply(replay.answers)
    few = representative_slices(masks)
    tiny = min((int(i) for i in few if masks[i].any()), key=lambda i: masks[i].sum())
    replay.spoil(tiny, 1)
    outcome = self_check(replay, shipped)
    assert outcome.passed
    assert outcome.slices == 64
    assert replay.ran == [*few, *range(64)]


def test_once_all_slices_failed_the_subset_cannot_pass(shipped: Bundle, replay: Replay) -> None:
    masks = shipped.spec.mask.apply(replay.answers)
    unseen = set(np.flatnonzero(masks.any(axis=(1, 2, 3)))) - set(representative_slices(masks))
    for index in unseen:
        replay.spoil(int(index), 5)
    assert self_check(replay, shipped).slices < 10
    outcome = record(compare(replay, shipped).agreement, replay, shipped)
    assert not outcome.passed
    with pytest.raises(VerificationError, match="5th percentile"):
        self_check(replay, shipped)
    replay.answers = Replay(shipped).answers
    assert self_check(replay, shipped).slices == 64


def test_scaled_weights_are_refused(shipped: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    with open_engine(shipped, "ort", "fp32") as engine:
        honest = engine.run
        monkeypatch.setattr(engine, "run", lambda images: honest(images) * np.float32(0.7))
        with pytest.raises(VerificationError, match=r"ort .* disagrees with the network"):
            self_check(engine, shipped)


@pytest.mark.parametrize("broken", [name for name in BREAKS if name != "scaled weights"])
def test_a_broken_engine_is_refused_each_time(
    engine: Engine, bundle: Bundle, cache: Path, monkeypatch: pytest.MonkeyPatch, broken: str
) -> None:
    honest = engine.run
    monkeypatch.setattr(engine, "run", lambda images: BREAKS[broken](honest(images)))
    for _ in range(2):
        with pytest.raises(VerificationError, match="`backend`"):
            self_check(engine, bundle)
    assert json.loads(stored(cache).read_text())["value"]["passed"] is False
    monkeypatch.setattr(engine, "run", honest)
    assert self_check(engine, bundle).passed
    assert self_check(engine, bundle).cached


def conditions() -> dict[str, Any]:
    info = EngineInfo(
        "ort", "CPUExecutionProvider", Precision.FP32, "fp32", 1, {"onnxruntime": "1"}
    )
    return {
        "bundle": lambda m, _e, b: replace(b, digest="another"),
        "runtime": lambda m, e, b: m.setattr(e, "describe", lambda: info) or b,
        "batches": lambda m, e, b: m.setattr(type(e), "padded_sizes", (8,)) or b,
        "package": lambda m, _e, b: m.setattr(module, "__version__", "another") or b,
        "machine": lambda m, _e, b: m.setattr(module, "hardware", lambda: {"cpu": "x"}) or b,
    }


@pytest.mark.parametrize("changed", conditions())
def test_a_changed_condition_requires_a_new_check(
    engine: Engine, bundle: Bundle, monkeypatch: pytest.MonkeyPatch, changed: str
) -> None:
    first = self_check(engine, bundle)
    assert self_check(engine, bundle).cached
    altered = conditions()[changed](monkeypatch, engine, bundle)
    again = self_check(engine, altered)
    assert not again.cached
    assert again.key != first.key
    assert self_check(engine, altered).cached


def test_threads_share_an_outcome(engine: Engine, bundle: Bundle) -> None:
    self_check(engine, bundle)
    with open_engine(bundle, "ort", "fp32", 2) as other:
        assert self_check(other, bundle).cached


@pytest.mark.parametrize(
    "damage",
    [
        lambda _text: "",
        lambda text: text[:-40],
        lambda _text: "[]",
        lambda _text: "{}",
        lambda text: text.replace("1.0", '"1.0"'),
        lambda text: text.replace('"passed": true', '"passed": "yes"'),
        lambda text: text.replace('"package": "', '"package": "9'),
        lambda text: text.replace('"slices"', '"pieces"'),
    ],
)
def test_a_damaged_record_counts_as_missing(
    engine: Engine, bundle: Bundle, cache: Path, damage: Any
) -> None:
    self_check(engine, bundle)
    text = stored(cache).read_text()
    assert damage(text) != text
    stored(cache).write_text(damage(text))
    again = self_check(engine, bundle)
    assert not again.cached
    assert again.unsaved == ""
    assert self_check(engine, bundle).cached


def test_a_cache_that_cannot_be_written(engine: Engine, bundle: Bundle, cache: Path) -> None:
    cache.write_text("a file where the folder should be")
    for _ in range(2):
        outcome = self_check(engine, bundle)
        assert outcome.passed
        assert not outcome.cached
        assert str(cache) in outcome.unsaved
    assert last_verifications(bundle) == []


def test_a_bundle_without_reference_is_refused(make_bundle: BundleMaker) -> None:
    bundle = Bundle.open(make_bundle())
    (bundle.folder / "reference.npz").unlink()
    with (
        open_engine(bundle, "ort", "fp32", 1) as engine,
        pytest.raises(BundleError, match="reference"),
    ):
        self_check(engine, bundle)


def test_the_last_verification_is_that_of_all_slices(engine: Engine, bundle: Bundle) -> None:
    few = self_check(engine, bundle)
    whole = record(compare(engine, bundle).agreement, engine, bundle)
    assert few.slices < whole.slices == 10
    assert self_check(engine, bundle) == replace(whole, cached=True)
    ((found, outcome),) = last_verifications(bundle)
    assert found["precision"] == "fp32"
    assert outcome == replace(whole, cached=True)
    assert last_verifications(replace(bundle, digest="another")) == []


def test_figures_are_numbers() -> None:
    sound = Verification("now", True, 1, 1.0, 1.0, 1.0, 0.0, "key")
    with pytest.raises(TypeError, match="numbers"):
        Verification(**{**asdict(sound), "dice_mean": None})


def test_a_record_under_another_name_counts_as_missing(
    engine: Engine, bundle: Bundle, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    self_check(engine, bundle)
    former = stored(cache)
    monkeypatch.setattr(module, "__version__", "another")
    self_check(engine, bundle)
    (later,) = set(former.parent.iterdir()) - {former}
    former.replace(later)
    assert not self_check(engine, bundle).cached
