"""Bundles with recipes in place of the variants that follow from the fp32 file.

What a runtime reads stays the same, byte for byte: a recipe is kept only if it makes
exactly the file that it replaces. See `cnnres_infer.bundle.recipe`.
"""

import base64
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cnnres_infer.bundle.bundle import Bundle
from cnnres_infer.bundle.onnx_check import Constant, constants_of
from cnnres_infer.bundle.recipe import FORMATS, build, made
from export.bundle_writer import seal
from export.passes import CORNER_TAPS, TRANSPOSED_TAPS

_SOURCE = "fp32"
_TYPES = {1: "float32", 3: "int8", 10: "float16"}
# Smaller constants are stored as they are.
_LEAST_BYTES = 1024
# A recipe that saves less is not worth the time that it takes.
_LARGEST_SHARE = 0.5
_ROUNDS = 60
# How many float32 numbers below and above a factor are tried.
_NEIGHBOURS = 8
# Bound of the logarithm of a factor, where nothing else bounds it.
_LARGEST_LOGARITHM = 100.0
Step = dict[str, Any]


def compact(folder: Path) -> dict[str, float]:
    """Replace variants of a bundle by recipes, where they follow from the fp32 file.

    The bundle is sealed again; a signature is removed.

    Returns
    -------
    dict
        For each file that was replaced, the size of its recipe relative to its own.

    Raises
    ------
    BundleError
        If the bundle is incomplete or was altered.
    """
    bundle = Bundle.open(folder)
    source_name = bundle.variants[_SOURCE]
    source = bundle.model(_SOURCE)
    derived = dict(bundle.manifest.get("derived", {}))
    files: dict[str, bytes] = {}
    shares: dict[str, float] = {}
    for variant, name in bundle.variants.items():
        if name == source_name or name in derived:
            continue
        target = bundle.model(variant)
        recipe = recipe_for(target, source)
        share = len(recipe) / len(target)
        if share > _LARGEST_SHARE or build(recipe, source, len(target)) != target:
            continue
        recipe_name = f"{name.removesuffix('.onnx')}.recipe.json"
        derived[name] = {"source": source_name, "recipe": recipe_name}
        files[recipe_name], shares[name] = recipe, share
    if shares:
        seal(folder, {**bundle.manifest, "derived": derived}, files, removed=shares)
    return shares


def recipe_for(target: bytes, source: bytes) -> bytes:
    """Recipe that makes one ONNX file of another; what does not follow from it is stored."""
    steps: list[Step] = []
    position = 0
    constants = constants_of(source)
    for constant in constants_of(target):
        start, end = constant.span
        step = _step(constant, target[start:end], constants, source)
        if step is not None:
            steps += [_stored(target[position:start]), step]
            position = end
    lines = ",\n".join(json.dumps(step) for step in [*steps, _stored(target[position:])])
    return f'{{"steps": [\n{lines}\n]}}\n'.encode()


def _stored(content: bytes) -> Step:
    return {"bytes": base64.b64encode(content).decode()}


def _step(
    constant: Constant, content: bytes, sources: list[Constant], source: bytes
) -> Step | None:
    """The step that makes a constant of some constant of the source; None if none does."""
    kind = _TYPES.get(constant.element)
    if kind is None or len(constant.shape) != 4 or len(content) < _LEAST_BYTES:
        return None
    for each in sources:
        for plain in _arrangements(each, constant.shape):
            for step in _scalings({**plain, "as": kind}, constant, content, source):
                if made(step, source, len(content)) == content:
                    return step
    return None


def _arrangements(source: Constant, shape: tuple[int, ...]) -> Iterator[Step]:
    """Steps without a type that make weights of a shape of a constant."""
    if len(source.shape) != 4 or source.element != 1:
        return
    outputs, inputs, *sides = source.shape
    weights = {"weights": [source.span[0], list(source.shape)]}
    if shape == source.shape:
        yield {**weights}
    elif shape[0] == outputs and shape[1] < inputs and shape[2:] == tuple(sides):
        yield {**weights, "inputs": [inputs - shape[1], inputs]}
    elif sides != [3, 3]:
        return
    elif shape[1:] == (outputs, 4, 4) and shape[0] <= inputs:
        split, order = [outputs, shape[0], 4, 4], [1, 0, 2, 3]
        spread = {"taps": TRANSPOSED_TAPS, "split": split, "order": order, "shape": list(shape)}
        yield {**weights, "inputs": [0, shape[0]], "spread": spread}
    elif shape == (4 * outputs, inputs, 2, 2):
        split, order = [outputs, inputs, 2, 2, 2, 2], [2, 4, 0, 1, 3, 5]
        spread = {"taps": CORNER_TAPS, "split": split, "order": order, "shape": list(shape)}
        yield {**weights, "spread": spread}


def _scalings(step: Step, constant: Constant, content: bytes, source: bytes) -> Iterator[Step]:
    """A step as it is, and with factors for which its weights may round to a constant."""
    if step["as"] != "int8":
        yield step
    if step["as"] == "float32":
        return
    values = np.frombuffer(content, FORMATS[step["as"]]).reshape(constant.shape)
    plain = made({**step, "as": "float32"}, source, 4 * values.size)
    weights = np.frombuffer(plain, "<f4").reshape(constant.shape)
    factors = (_factors_of_codes if step["as"] == "int8" else _factors_of_halves)(weights, values)
    texts = [base64.b64encode(each.astype("<f4").tobytes()).decode() for each in factors]
    yield {**step, "factors": texts}


def _factors_of_halves(
    weights: NDArray[np.float32], halves: NDArray[np.float16]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Factors of the first axis for which weights round to float16 numbers, if there are any.

    Each number bounds the factor. What is rounded twice, to float32 before, may lie on a
    bound, so neighbours of the middle are tried, too. Factors of the second axis are 1.
    """
    sources, size = (np.abs(each).reshape(len(each), -1) for each in (weights, halves))
    known = (size > 0) & (sources > 0) & np.isfinite(size)
    lowest, highest = (
        np.divide(
            (size.astype(np.float64) + np.nextafter(size, np.float16(end))) / 2,
            sources,
            where=known,
            out=np.full(size.shape, unknown),
        )
        for end, unknown in ((0, 0.0), (np.inf, np.inf))
    )
    bounds = lowest.max(axis=1), highest.min(axis=1)
    middle = np.where(np.isfinite(bounds[1]), sum(bounds) / 2, 1.0).astype(np.float32)
    rows = middle
    for step in range(-_NEIGHBOURS, _NEIGHBOURS + 1):
        near = middle + np.float32(step) * np.spacing(middle)
        made_of_it = (sources.astype(np.float64) * near[:, None]).astype(np.float32)
        fits = (made_of_it.astype(np.float16) == size).all(axis=1)
        rows = np.where(fits, near, rows)
    return rows.astype(np.float64), np.ones(weights.shape[1])


def _factors_of_codes(
    weights: NDArray[np.float32], codes: NDArray[np.int8]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Factors of the first and the second axis for which weights round to codes, if there are any.

    Each code bounds the logarithm of the product of its two factors. A least-squares
    solution comes close; then each factor in turn is put into the middle of its bounds.
    """
    size = np.abs(codes.astype(np.float64)).reshape(*codes.shape[:2], -1)
    with np.errstate(divide="ignore", invalid="ignore"):
        logarithms = np.log(np.abs(weights.astype(np.float64))).reshape(size.shape)
        lowest = np.log(size - 0.5, where=size > 0, out=np.full_like(size, -np.inf)) - logarithms
        highest = np.log(size + 0.5) - logarithms
        estimates = np.log(size, where=size > 0, out=np.zeros_like(size)) - logarithms
    lowest = (
        np.nan_to_num(lowest, nan=-np.inf, posinf=np.inf, neginf=-np.inf)
        .max(axis=2)
        .clip(min=-_LARGEST_LOGARITHM)
    )
    highest = highest.min(axis=2).clip(max=_LARGEST_LOGARITHM)
    shares = np.where(np.isfinite(logarithms), size, 0.0) ** 2
    sums = (np.where(shares > 0, estimates, 0.0) * shares).sum(axis=2)
    shares = shares.sum(axis=2) + 1e-12
    rows, columns = np.zeros(len(size)), np.zeros(size.shape[1])
    for _ in range(_ROUNDS):
        rows = (sums - shares * columns).sum(axis=1) / shares.sum(axis=1)
        columns = (sums - shares * rows[:, None]).sum(axis=0) / shares.sum(axis=0)
    for _ in range(_ROUNDS):
        rows = ((lowest - columns).max(axis=1) + (highest - columns).min(axis=1)) / 2
        across = rows[:, None]
        columns = ((lowest - across).max(axis=0) + (highest - across).min(axis=0)) / 2
    return np.exp(rows), np.exp(columns)
