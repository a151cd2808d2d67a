from dataclasses import replace
from functools import partial
from itertools import pairwise

import numpy as np
import onnx
import pytest

from calibration.judge import Verdict
from calibration.logit_error import LogitError
from calibration.plan import INT8_CPU
from calibration.trials import Search, SearchResult
from cnnres_infer.core.arrays import FloatArray
from cnnres_infer.core.mask import MaskSpec
from cnnres_infer.core.precision import Precision
from cnnres_infer.engines.base import ModelFile, run_all
from cnnres_infer.engines.onnxruntime.cpu import OrtEngine
from cnnres_infer.pipeline.infer import Network
from cnnres_infer.verification.agreement import Agreement, Gate

pytestmark = pytest.mark.slow  # computes many candidates

IMPOSSIBLE = Gate(0.0, 0.0, 0.0, -1.0)


@pytest.fixture(scope="module")
def search(network: onnx.ModelProto, images: FloatArray) -> Search:
    with OrtEngine.open(
        ModelFile("fp32", network.SerializeToString()), Precision.FP32, 1
    ) as engine:
        expected = run_all(engine, images)
    threshold = float(np.median(expected))

    def judge(candidate: Network) -> Verdict:
        agreement = Agreement.of(candidate(images), expected, MaskSpec(threshold, 0.0))
        return Verdict(agreement, {}, None, None)

    error = LogitError(images, expected, threshold)
    return Search(network, images, threshold, error, judge, IMPOSSIBLE)  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def failed(search: Search) -> SearchResult:
    return search.run(INT8_CPU, lambda _: None)


def test_the_smallest_error_is_kept_if_nothing_passes(failed: SearchResult) -> None:
    assert failed.best.error == min(trial.error for trial in failed.trials)
    assert 0 < failed.trials[0].error < 1
    assert {layer.name for layer in failed.layers} >= {"conv1", "last", "head"}


def test_more_and_more_blocks_are_kept_in_float(failed: SearchResult) -> None:
    candidates = [trial.candidate for trial in failed.trials]
    assert candidates[0].name == "balanced"
    assert candidates[0].share_in_int8 > 0.85  # all but the first and the head
    assert all(more.share_in_int8 < less.share_in_int8 for less, more in pairwise(candidates))
    assert all(set(less.in_float) < set(more.in_float) for less, more in pairwise(candidates))
    assert failed.trials[-1].error < failed.trials[0].error


def test_the_first_trial_that_passes_is_kept(search: Search, failed: SearchResult) -> None:
    off = [trial.verdict.agreement.lesion_difference for trial in failed.trials]
    bound = off[0] * 0.95
    first = next(i for i, value in enumerate(off) if value <= bound)
    found = replace(search, gate=Gate(0.0, 0.0, 0.0, bound)).run(INT8_CPU, lambda _: None)
    assert found.best is found.trials[-1]
    assert len(found.trials) >= first + 1 > 1
    assert not found.best.misses(Gate(0.0, 0.0, 0.0, bound))


def test_the_search_ends_where_8_bits_pass_everywhere(search: Search) -> None:
    found = replace(search, gate=Gate(0.0, 0.0, 0.0, 1.0)).run(INT8_CPU, lambda _: None)
    assert len(found.trials) == 1
    engine = partial(run_all, found.best.candidate.engine())
    assert search.logit_error(engine) == pytest.approx(found.best.error, rel=1e-3)
