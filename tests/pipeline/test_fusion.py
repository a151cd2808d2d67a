import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cnnres_infer.core.spec import FUSION_RULES, FusionSpec
from cnnres_infer.errors import BundleError

A = np.array([0.0, 0.2, 0.9, 1.0], np.float32)
B = np.array([0.0, 0.8, 0.4, 1.0], np.float32)


@pytest.mark.parametrize(
    ("rule", "weight", "expected"),
    [
        ("dwi", 0.5, A),
        ("mean", 0.75, [0.0, 0.35, 0.775, 1.0]),
        ("geometric", 0.5, [0.0, 0.4, 0.6, 1.0]),
        ("max", 0.5, [0.0, 0.8, 0.9, 1.0]),
    ],
)
def test_rules(rule: str, weight: float, expected: list[float]) -> None:
    np.testing.assert_allclose(FusionSpec(rule, weight).merge(A, B), expected, rtol=1e-6)


@given(st.sampled_from(list(FUSION_RULES)), st.floats(0, 1))
def test_merged_probabilities_lie_between_the_two(rule: str, weight: float) -> None:
    merged = FusionSpec(rule, weight).merge(A, B)
    assert merged.dtype == np.float32
    assert (merged >= np.minimum(A, B) - 1e-6).all()
    assert (merged <= np.maximum(A, B) + 1e-6).all()


def test_invalid_rules_are_refused() -> None:
    with pytest.raises(BundleError, match="vote"):
        FusionSpec("vote")
    with pytest.raises(BundleError, match="weight"):
        FusionSpec("mean", 1.5)
