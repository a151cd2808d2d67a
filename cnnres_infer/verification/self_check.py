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

import hashlib
import json
from dataclasses import asdict, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cnnres_infer import __version__
from cnnres_infer.bundle.bundle import Bundle
from cnnres_infer.core.arrays import BoolArray
from cnnres_infer.core.provenance import EngineInfo, Verification
from cnnres_infer.engines.base import Engine, run_all
from cnnres_infer.errors import VerificationError
from cnnres_infer.host.atomic import write_all
from cnnres_infer.host.cache import cache_folder
from cnnres_infer.host.machine import hardware
from cnnres_infer.verification.agreement import GATES, Agreement, load_reference

FOLDER = "verifications"
_SIZES = 6
_NO_CONDITIONS = ("threads", "warnings")


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
    last = _recall(_conditions(info, bundle))
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
            f"{gate.off}); name another --backend or --precision, or install the runtime again"
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
        key=_key(conditions),
    )
    content = json.dumps({"conditions": conditions, "verification": asdict(verification)}, indent=2)
    try:
        write_all({_path(conditions): content.encode()}, overwrite=True)
    except OSError as error:
        return replace(verification, unsaved=str(error))
    return verification


def last_verifications(bundle: Bundle) -> list[tuple[dict[str, Any], Verification]]:
    """What was verified on this machine with a bundle: engines and outcomes, the newest last."""
    here = _surroundings(bundle)
    try:
        paths = list(cache_folder(FOLDER).glob("*.json"))
    except OSError:
        return []
    found = []
    for path in paths:
        if (content := _read(path)) is None:
            continue
        conditions, verification = content
        if all(conditions[name] == here[name] for name in here):
            found.append((conditions["engine"], verification))
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


def _key(conditions: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(conditions, sort_keys=True).encode()).hexdigest()


def _path(conditions: dict[str, Any]) -> Path:
    return cache_folder(FOLDER) / f"{_key(conditions)[:32]}.json"


def _recall(conditions: dict[str, Any]) -> Verification | None:
    """The last verification under the same conditions, if one is there and whole."""
    try:
        found = _read(_path(conditions))
    except OSError:
        return None
    return found[1] if found and found[1].key == _key(conditions) else None


def _read(path: Path) -> tuple[dict[str, Any], Verification] | None:
    """Conditions and verification of a file in the cache; None if it is absent or damaged."""
    try:
        content = json.loads(path.read_bytes())
        conditions = content["conditions"]
        verification = Verification(**{**content["verification"], "cached": True})
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return (conditions, verification) if verification.key == _key(conditions) else None
