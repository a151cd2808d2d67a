from dataclasses import replace
from functools import partial
from itertools import pairwise

import numpy as np
import onnx
import pytest

from calibration.judge import Verdict
from calibration.logit_error import LogitError
from calibration.plan import INT8_CPU
from calibration.trials import Search, SearchResult, Trial
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

    logit_error = LogitError(images, expected, threshold)
    return Search(network, images, logit_error, judge, IMPOSSIBLE, None)  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def failed(search: Search) -> SearchResult:
    return search.run(INT8_CPU, lambda _: None)


def mixed(trials: tuple[Trial, ...]) -> list[Trial]:
    return [trial for trial in trials if "in float" in trial.candidate.name]


def test_the_smallest_error_is_kept_if_nothing_passes(failed: SearchResult) -> None:
    assert failed.best.error == min(trial.error for trial in failed.trials)
    assert 0 < failed.trials[0].error < 1
    assert {layer.name for layer in failed.layers} >= {"stem", "conv1", "last", "head"}


def test_more_and_more_blocks_are_kept_in_float(failed: SearchResult) -> None:
    one_by_one = mixed(failed.trials)[:4]
    shares = [trial.share_in_float for trial in one_by_one]
    assert 0 < shares[0] < shares[1] < shares[2] < shares[3] < 1
    sets = [set(t.candidate.name.partition("in float: ")[2].split(", ")) for t in one_by_one]
    assert all(small < large for small, large in pairwise(sets))
    assert one_by_one[-1].error < failed.trials[0].error


def test_the_passing_trial_with_least_in_float_is_kept(
    search: Search, failed: SearchResult
) -> None:
    off = [trial.verdict.agreement.lesion_difference for trial in mixed(failed.trials)]
    whole = [t for t in failed.trials if t not in mixed(failed.trials)]
    bound = min(t.verdict.agreement.lesion_difference for t in whole) * 0.95
    assert min(off) < bound
    found = replace(search, gate=Gate(0.0, 0.0, 0.0, bound)).run(INT8_CPU, lambda _: None)
    passing = [t for t in found.trials if t.verdict.agreement.lesion_difference <= bound]
    assert found.best in passing
    assert found.best.share_in_float == min(trial.share_in_float for trial in passing)
    assert len(mixed(found.trials)) < len(mixed(failed.trials))  # it stops where one passes


def test_the_search_ends_if_calibration_passes(search: Search) -> None:
    found = replace(search, gate=Gate(0.0, 0.0, 0.0, 1.0)).run(INT8_CPU, lambda _: None)
    assert not mixed(found.trials)
    assert found.best.share_in_float == pytest.approx(0)
    engine = partial(run_all, found.best.candidate.ort_engine())
    assert search.logit_error(engine) == pytest.approx(found.best.error, rel=1e-3)
