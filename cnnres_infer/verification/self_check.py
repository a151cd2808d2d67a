"""Checking an engine before its first use on a machine, and recording the outcome.

The engine runs a few of the bundle's reference slices, with each size of batch that
it pads to, since each may run kernels of its own. The gates of
`cnnres_infer.verification.agreement` are calibrated for all slices, so the few
can pass an engine but not fail it: if they miss the gate, all slices decide. An
engine is therefore refused only if the full verification would refuse it too.
The few may miss a loss that is small everywhere. The full verification detects
it, and once that has failed, only all slices can pass the engine.

The outcome is stored in the user's cache under a hash of the conditions that it
holds for. These do not include the number of threads, which share the work of
the same kernels, but they do include the sizes of batches, which are smaller where
memory was short.
"""

from collections.abc import Iterator, Sequence
from dataclasses import asdict, replace
from datetime import UTC, datetime
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cnnres_infer import __version__
from cnnres_infer.bundle.bundle import Bundle
from cnnres_infer.core.arrays import BoolArray, FloatArray
from cnnres_infer.core.crops import box_shape, computed
from cnnres_infer.core.mask import MaskSpec
from cnnres_infer.core.provenance import Verification
from cnnres_infer.engines.base import Engine, run_all
from cnnres_infer.errors import VerificationError
from cnnres_infer.host.digest import json_digest
from cnnres_infer.host.machine import hardware
from cnnres_infer.host.result_cache import ResultCache
from cnnres_infer.verification.agreement import GATES, Agreement, load_reference

FOLDER = "verifications"
_SIZES = 6
_NOT_CONDITIONS = ("threads", "warnings")
_OUTCOMES = ResultCache(FOLDER)


def self_check(engine: Engine, bundle: Bundle) -> Verification:
    """Make sure that the output of an engine on this machine matches the network's.

    Parameters
    ----------
    engine
        The open engine.
    bundle
        The bundle that it runs.

    Returns
    -------
    Verification
        The last one under the same conditions if it passed, otherwise a new one.

    Raises
    ------
    VerificationError
        If the engine disagrees with the network.
    BundleError
        If the bundle's reference cannot be trusted.
    EngineRunError
        If the engine fails.
    """
    last = _verification(_OUTCOMES.get(_conditions(engine, bundle)))
    if last is not None and last.passed:
        return last
    agreement = _compare(engine, bundle, thorough=last is not None)
    verification = record(agreement, engine, bundle)
    if not verification.passed:
        info = engine.describe()
        gate = GATES[info.precision]
        raise VerificationError(
            f"{info.backend} ({info.provider}, {info.precision}) disagrees with the network on "
            f"this machine: mean Dice {agreement.mean:.4f} (at least {gate.mean}), 5th percentile "
            f"{agreement.tail:.4f} ({gate.tail}), all pixels {agreement.pooled:.4f} "
            f"({gate.pooled}), probabilities off by {agreement.lesion_difference:.2g} (at most "
            f"{gate.off}); choose another `backend` or `precision`, or reinstall the runtime"
        )
    return verification


def record(agreement: Agreement, engine: Engine, bundle: Bundle) -> Verification:
    """Store the outcome of a comparison as the last verification of an engine.

    Parameters
    ----------
    agreement
        The outcome.
    engine
        The open engine.
    bundle
        The bundle that it ran.

    Returns
    -------
    Verification
        The outcome; its `unsaved` says why the cache could not be written, if so.
    """
    conditions = _conditions(engine, bundle)
    verification = Verification(
        when=datetime.now(UTC).isoformat(timespec="seconds"),
        passed=agreement.passes(GATES[engine.describe().precision]),
        slices=len(agreement.slices),
        dice_mean=agreement.mean,
        dice_min=min(agreement.counted, default=1.0),
        dice_pooled=agreement.pooled,
        largest_difference=agreement.largest_difference,
        key=json_digest(conditions),
    )
    return replace(verification, unsaved=_OUTCOMES.put(conditions, asdict(verification)))


def last_verifications(bundle: Bundle) -> list[tuple[dict[str, Any], Verification]]:
    """Return the engines verified with a bundle on this machine and the outcomes, oldest first."""
    here = _environment(bundle)
    found = [
        (conditions["engine"], verification)
        for conditions, value in _OUTCOMES.entries()
        if (verification := _verification(value)) is not None
        and {**conditions, **here} == conditions
    ]
    return sorted(found, key=lambda item: item[1].when)


def representative_slices(
    masks: BoolArray, shapes: Sequence[tuple[int, int]] = ()
) -> NDArray[np.int64]:
    """Choose a small, varied subset of slices: at most eight, and one of each missing shape.

    These are one slice without lesion, the middle one of each of six groups of
    increasing lesion area, and the one with the most separate lesions, if any
    has several. If these are not of all shapes, the slice with the largest
    lesion of each missing shape is added.

    Parameters
    ----------
    masks
        Lesion masks, shape (N, 1, H, W).
    shapes
        Height and width of what is computed of each slice; by default all are the
        same.

    Returns
    -------
    array
        Indices of the slices, in increasing order.
    """
    from cc3d import connected_components

    areas = np.count_nonzero(masks, axis=(1, 2, 3))
    empty = np.flatnonzero(areas == 0)
    rising = np.argsort(areas, kind="stable")[len(empty) :]
    groups = np.array_split(rising, _SIZES)
    chosen = [group[len(group) // 2] for group in (empty, *groups) if len(group)]
    lesions = [int(connected_components(mask[0], connectivity=8).max()) for mask in masks]
    if max(lesions) > 1:
        chosen.append(np.argmax(lesions))
    missing = set(shapes) - {shapes[i] for i in chosen} if shapes else set()
    for wanted in sorted(missing):
        alike = [i for i, shape in enumerate(shapes) if shape == wanted]
        chosen += [alike[int(np.argmax(areas[alike]))]]
    return np.unique(chosen).astype(np.int64)


def _compare(engine: Engine, bundle: Bundle, thorough: bool) -> Agreement:
    """Compare on a few slices; on all if `thorough`, or if the few miss the gate."""
    images, reference = load_reference(bundle)
    mask = bundle.spec.mask
    if not thorough:
        shapes = [box_shape(image, engine.sides) for image in images] if engine.sides else []
        few = representative_slices(mask.apply(reference), shapes)
        agreement = _worst(engine, images[few], reference[few], mask)
        if agreement.passes(GATES[engine.describe().precision]):
            return agreement
    return _worst(engine, images, reference, mask)


def _worst(engine: Engine, images: FloatArray, reference: FloatArray, mask: MaskSpec) -> Agreement:
    """Compare all kernels of an engine, and return the comparison that agrees least."""
    gate = GATES[engine.describe().precision]
    found = [Agreement.of(output, reference, mask) for output in _with_all_kernels(engine, images)]
    return min(found, key=lambda each: (each.passes(gate), each.mean))


def _with_all_kernels(engine: Engine, images: FloatArray) -> Iterator[FloatArray]:
    """Run slices in batches of each size that the engine pads to, and so with all of its kernels.

    Yields
    ------
    array
        The output for all slices, with each size in turn.
    """
    if not engine.padded_sizes:
        yield run_all(engine, images)
    for size in engine.padded_sizes:

        def filled(batch: FloatArray, size: int = size) -> FloatArray:
            return engine.run(np.resize(batch, (size, *batch.shape[1:])))[: len(batch)]

        yield computed(filled, images, engine.sides, size)


def _environment(bundle: Bundle) -> dict[str, Any]:
    return {"machine": hardware(), "package": __version__, "bundle": bundle.digest}


def _conditions(engine: Engine, bundle: Bundle) -> dict[str, Any]:
    """Everything that the outcome depends on."""
    info = asdict(engine.describe())
    described = {name: value for name, value in info.items() if name not in _NOT_CONDITIONS}
    return {**_environment(bundle), "engine": described, "batches": engine.padded_sizes}


def _verification(value: Any) -> Verification | None:
    """Read an outcome from the cache; None if it is missing or damaged."""
    try:
        return Verification(**{**value, "cached": True})
    except TypeError:
        return None
