import base64
import json
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cnnres_infer.bundle.recipe import build

RNG = np.random.default_rng(5)
KERNEL = RNG.normal(0, 0.2, (4, 6, 3, 3)).astype("<f4")
HEAD = b"seven b"
SOURCE = HEAD + KERNEL.tobytes() + b"tail"
WEIGHTS = {"weights": [len(HEAD), [4, 6, 3, 3]]}
TAPS = [[0, 0, 1], [0, 1, 1], [1, 1, 0], [1, 0, 0]]
ENOUGH = 1 << 20


def text(content: bytes) -> str:
    return base64.b64encode(content).decode()


def factors(*each: list[float]) -> list[str]:
    return [text(np.array(values, "<f4").tobytes()) for values in each]


def made(*steps: object, max_bytes: int = ENOUGH) -> bytes:
    return build(json.dumps({"steps": steps}).encode(), SOURCE, max_bytes)


@given(st.lists(st.binary(max_size=40), max_size=5))
def test_stored_bytes_come_out_in_order(parts: list[bytes]) -> None:
    assert made(*({"bytes": text(part)} for part in parts)) == b"".join(parts)


def test_weights_are_written_as_each_type() -> None:
    steps = [{**WEIGHTS, "as": kind} for kind in ("float32", "float16")]
    assert made(*steps) == KERNEL.tobytes() + KERNEL.astype("<f2").tobytes()


def test_a_range_of_the_inputs() -> None:
    assert made({**WEIGHTS, "inputs": [2, 5], "as": "float32"}) == KERNEL[:, 2:5].tobytes()


def test_spread_taps_are_sums() -> None:
    spread = {"taps": TAPS, "split": [4, 6, 4, 4], "order": [1, 0, 2, 3], "shape": [24, 16]}
    expected = np.einsum("ar,oirs,bs->ioab", TAPS, KERNEL.astype(float), TAPS)
    found = made({**WEIGHTS, "spread": spread, "as": "float32"})
    np.testing.assert_allclose(np.frombuffer(found, "<f4").reshape(6, 4, 4, 4), expected, rtol=1e-6)


def test_eight_bit_codes_are_rounded_products_within_their_range() -> None:
    rows, columns = [300.0, 100.0, 2.5, 1e6], [1.0, 0.5, 2.0, 1.0, 1.0, 0.25]
    found = made({**WEIGHTS, "factors": factors(rows, columns), "as": "int8"})
    products = np.einsum("oirs,o,i->oirs", KERNEL.astype(float), rows, columns)
    expected = np.rint(products).clip(-128, 127)
    assert np.array_equal(np.frombuffer(found, "i1").reshape(expected.shape), expected)
    assert {-128, 127} <= set(expected.ravel())


@pytest.mark.parametrize(
    "step",
    [
        {},
        [],
        None,
        {"bytes": "not base64"},
        {"bytes": 3},
        {**WEIGHTS},
        {**WEIGHTS, "as": "float64"},
        {"weights": [0, [1 << 40]], "as": "float32"},
        {"weights": [-4, [1]], "as": "float32"},
        {"weights": [len(SOURCE) - 3, [1]], "as": "float32"},
        {"weights": [0, [-1, -1]], "as": "float32"},
        {"weights": [0, []], "as": "float32"},
        {"weights": [0.5, [1]], "as": "float32"},
        {"weights": 7, "as": "float32"},
        {**WEIGHTS, "inputs": [0, 1, 2, 3], "as": "float32"},
        {**WEIGHTS, "inputs": "all", "as": "float32"},
        {**WEIGHTS, "spread": {"taps": TAPS}, "as": "float32"},
        {**WEIGHTS, "spread": {}, "as": "float32"},
        {
            **WEIGHTS,
            "spread": {"taps": [[1]] * 9, "split": [], "order": [], "shape": []},
            "as": "float32",
        },
        {
            **WEIGHTS,
            "spread": {"taps": TAPS, "split": [4, 6, 4, 5], "order": [1, 0, 2, 3], "shape": [-1]},
            "as": "float32",
        },
        {
            **WEIGHTS,
            "spread": {"taps": TAPS, "split": [4, 6, 4, 4], "order": [1, 1, 2, 3], "shape": [-1]},
            "as": "float32",
        },
        {**WEIGHTS, "factors": factors([1.0]), "as": "int8"},
        {**WEIGHTS, "factors": factors([1.0] * 4, [1.0] * 1000), "as": "int8"},
        {**WEIGHTS, "factors": ["====", "AAAA"], "as": "int8"},
    ],
)
def test_a_malformed_step_is_a_value_error(step: object) -> None:
    with pytest.raises(ValueError, match=r"\w"):
        made(step)


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"{}", b'{"steps": 3}', b"[" * 100_000])
def test_what_is_no_recipe_is_a_value_error(content: bytes) -> None:
    with pytest.raises(ValueError, match=r"\w"):
        build(content, SOURCE, ENOUGH)


@pytest.mark.parametrize("spread", [{}, {"spread": {"taps": TAPS, "split": [4, 6, 4, 4]}}])
def test_no_more_is_made_than_allowed(spread: dict[str, Any]) -> None:
    step = {**WEIGHTS, "as": "float16", **spread}
    if spread:
        step["spread"] |= {"order": [0, 1, 2, 3], "shape": [4, 6, 4, 4]}
    size = len(made(step))
    assert len(made(step, max_bytes=size)) == size
    with pytest.raises(ValueError, match="more"):
        made({"bytes": "AA=="}, step, max_bytes=size)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-9, 1 << 40) | st.floats() | st.text(max_size=4),
    lambda inner: st.lists(inner, max_size=4),
    max_leaves=8,
)
KEYS = st.sampled_from(["bytes", "weights", "as", "inputs", "spread", "factors"])


@given(st.dictionaries(KEYS, JSON), st.booleans())
def test_any_step_makes_bytes_or_is_a_value_error(step: dict[str, Any], valid: bool) -> None:
    try:
        content = made({**step, **(WEIGHTS | {"as": "int8"} if valid else {})})
    except ValueError:
        return
    assert len(content) <= ENOUGH


def test_halves_are_rounded_from_float32_as_those_of_networks_are() -> None:
    """Just above the middle of two float16 numbers, but in float32 in the middle."""
    weight, factor = np.float32(1 + 2.0**-23), np.float32(1 + 2.0**-11 - 2.0**-23)
    source = np.full((1, 1, 1, 1), weight, "<f4").tobytes()
    step = {
        "weights": [0, [1, 1, 1, 1]],
        "factors": factors([float(factor)], [1.0]),
        "as": "float16",
    }
    found = np.frombuffer(build(json.dumps({"steps": [step]}).encode(), source, ENOUGH), "<f2")
    assert float(weight) * float(factor) > 1 + 2.0**-11
    assert found == (weight * factor).astype(np.float16) == 1.0
