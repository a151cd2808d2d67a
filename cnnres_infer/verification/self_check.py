"""The check of an engine before its first use on a machine, and the record of it.

A few of the bundle's reference slices go through the engine. The gates of
`cnnres_infer.verification.agreement` are made for all of them, so the few can acquit an engine
but not condemn it: where they miss the gate, all slices decide. An engine is
thus refused only where the whole verification would refuse it too. A loss that
is small everywhere may escape the few. The whole verification sees it, and once
it has failed, only all slices acquit.

The outcome is kept in the user's cache under a hash of what it holds for. The
number of threads is not part of that: they share the work of the same kernels.
"""

from dataclasses import asdict, replace
from datetime import UTC, datetime
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cnnres_infer import __version__
from cnnres_infer.bundle.bundle import Bundle
from cnnres_infer.core.arrays import BoolArray
from cnnres_infer.core.provenance import EngineInfo, Verification
from cnnres_infer.engines.base import Engine, run_all
from cnnres_infer.errors import VerificationError
from cnnres_infer.host.digest import json_digest
from cnnres_infer.host.machine import hardware
from cnnres_infer.host.result_cache import ResultCache
from cnnres_infer.verification.agreement import GATES, Agreement, load_reference

FOLDER = "verifications"
_SIZES = 6
_NO_CONDITIONS = ("threads", "warnings")
_OUTCOMES = ResultCache(FOLDER)


def self_check(engine: Engine, bundle: Bundle) -> Verification:
    """Make sure that an engine computes on this machine what the network does.

    Returns
    -------
    Verification
        The last one under the same conditions if that was passed, else a new one.

    Raises
    ------
    VerificationError
        If the engine disagrees with the network.
    BundleError
        If the bundle's reference cannot be trusted.
    EngineRunError
        If the engine fails.
    """
    info = engine.describe()
    last = _verification(_OUTCOMES.get(_conditions(info, bundle)))
    if last is not None and last.passed:
        return last
    agreement = _compare(engine, bundle, thorough=last is not None)
    verification = record(agreement, info, bundle)
    if not verification.passed:
        gate = GATES[info.precision]
        raise VerificationError(
            f"{info.backend} ({info.provider}, {info.precision}) disagrees with the network on "
            f"this machine: mean Dice {agreement.mean:.4f} (at least {gate.mean}), 5th percentile "
            f"{agreement.tail:.4f} ({gate.tail}), all pixels {agreement.pooled:.4f} "
            f"({gate.pooled}), probabilities off by {agreement.lesion_difference:.2g} (at most "
            f"{gate.off}); choose another `backend` or `precision`, or reinstall the runtime"
        )
    return verification


def record(agreement: Agreement, info: EngineInfo, bundle: Bundle) -> Verification:
    """Keep the outcome of a comparison as the last verification of an engine.

    It never fails: where the cache cannot be written, the verification says so.
    """
    conditions = _conditions(info, bundle)
    verification = Verification(
        when=datetime.now(UTC).isoformat(timespec="seconds"),
        passed=agreement.passes(GATES[info.precision]),
        slices=len(agreement.slices),
        dice_mean=agreement.mean,
        dice_min=min(agreement.counted, default=1.0),
        dice_pooled=agreement.pooled,
        largest_difference=agreement.largest_difference,
        key=json_digest(conditions),
    )
    return replace(verification, unsaved=_OUTCOMES.put(conditions, asdict(verification)))


def last_verifications(bundle: Bundle) -> list[tuple[dict[str, Any], Verification]]:
    """What was verified on this machine with a bundle: engines and outcomes, the newest last."""
    here = _surroundings(bundle)
    found = [
        (conditions["engine"], verification)
        for conditions, value in _OUTCOMES.entries()
        if (verification := _verification(value)) is not None
        and {**conditions, **here} == conditions
    ]
    return sorted(found, key=lambda item: item[1].when)


def representative_slices(masks: BoolArray) -> NDArray[np.int64]:
    """Indices of a few among masks (N, 1, H, W), about eight.

    One without lesion, the one with the most separate lesions if there is any
    with several, and the middle ones of six groups of rising area.
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
    return np.unique(chosen).astype(np.int64)


def _compare(engine: Engine, bundle: Bundle, thorough: bool) -> Agreement:
    """Agreement on a few slices; on all if `thorough`, or if the few miss the gate."""
    images, reference = load_reference(bundle)
    mask = bundle.spec.mask
    if not thorough:
        few = representative_slices(mask.apply(reference))
        agreement = Agreement.of(run_all(engine, images[few]), reference[few], mask)
        if agreement.passes(GATES[engine.describe().precision]):
            return agreement
    return Agreement.of(run_all(engine, images), reference, mask)


def _surroundings(bundle: Bundle) -> dict[str, Any]:
    return {"machine": hardware(), "package": __version__, "bundle": bundle.digest}


def _conditions(info: EngineInfo, bundle: Bundle) -> dict[str, Any]:
    """All that the outcome depends on."""
    engine = {name: value for name, value in asdict(info).items() if name not in _NO_CONDITIONS}
    return {**_surroundings(bundle), "engine": engine}


def _verification(value: Any) -> Verification | None:
    """An outcome out of the cache; None if it is absent or damaged."""
    try:
        return Verification(**{**value, "cached": True})
    except TypeError:
        return None
