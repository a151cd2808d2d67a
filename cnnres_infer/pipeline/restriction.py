"""The diffusion check of a case: the ADC on the DWI's grid, and the lesions that it rejects."""

from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from cnnres_infer.codes import Notice, WarningCode
from cnnres_infer.core.arrays import BoolArray, FloatArray
from cnnres_infer.core.case import Case, Modality, Role
from cnnres_infer.core.diffusion import DiffusionCheck, RestrictionSpec
from cnnres_infer.core.mask import Lesion, Mask
from cnnres_infer.core.text import counted
from cnnres_infer.core.volume import Volume
from cnnres_infer.pipeline.brain import Brain
from cnnres_infer.pipeline.deadline import Stopwatch
from cnnres_infer.pipeline.diffusion import (
    adc_from_b0,
    brain_adc,
    is_plausible,
    is_unrestricted,
    lesion_adc,
    median_adc,
    mm2_per_s,
    restricted_shares,
    rises_together,
)
from cnnres_infer.pipeline.mask import Lesions
from cnnres_infer.pipeline.prepare import on_grid
from cnnres_infer.pipeline.quality import coverage_notices
from cnnres_infer.pipeline.values import check_different

# What the DWI is taken for where its b-value is not known; relative ADC does not depend on it.
_USUAL_B = 1000.0
_UNKNOWN_SCALE = (
    "lesions were measured, and none was rejected: without the b-value of the DWI, it cannot be "
    "told whether b0 is on its scale; give it (`bvalue`), or put it in a .bval file beside the DWI"
)
_NAMES = {Role.ADC: "ADC map", Role.B0: "b0"}


@dataclass(frozen=True, eq=False)
class KnownAdc:
    """The ADC of a case.

    Attributes
    ----------
    data
        float32 (X, Y, Z) on the DWI's grid, in the unit of the ADC map or, if
        computed from b0, mm²/s at a b-value of 1000 s/mm² where that is not
        known. NaN where it is unknown. None if it must not be used.
    brain
        Median of the brain in that unit.
    to_mm2_s
        What turns that unit into mm²/s; None where it cannot be told.
    check
        How it came about, and why it must not be used, for the report.
    notices
        What is unusual about it.
    only_measured
        Why no lesion must be rejected by it, for the report; empty if lesions may be.
    """

    data: FloatArray | None
    brain: float
    to_mm2_s: float | None
    check: DiffusionCheck
    notices: tuple[Notice, ...] = ()
    only_measured: str = ""


class Verdict(NamedTuple):
    """The lesions of a mask, and those that were taken out of it."""

    mask: Mask
    lesions: tuple[Lesion, ...]
    rejected: tuple[Lesion, ...]
    rejected_mask: Mask | None
    check: DiffusionCheck
    notices: tuple[Notice, ...]


def known_adc(case: Case, brain: Brain, clock: Stopwatch) -> KnownAdc:
    """The ADC of a case, given or computed from b0, if it is plausible.

    Parameters
    ----------
    case
        The case; without ADC and b0, the ADC is unknown.
    brain
        The brain in its volume.
    clock
        Measures the time that it takes, and enforces the time limit.

    Raises
    ------
    VolumeError
        If the DWI itself is given as ADC or b0.
    GeometryError
        If the ADC map or b0 shows nothing of the brain.
    LimitError
        If the time limit is exceeded.
    """
    role, given = (Role.ADC, case.adc) if case.adc is not None else (Role.B0, case.b0)
    if case.modality is Modality.FLAIR:
        return _unknown("diffusion was not checked: a FLAIR does not show it")
    if given is None:
        return _unknown("diffusion was not checked: neither an ADC map nor b0 was given")
    with clock("diffusion"):
        return _measured(case, role, given, brain)


def _measured(case: Case, role: Role, given: Volume, brain: Brain) -> KnownAdc:
    check_different(given, role, case.volume)
    aligned, covered, fraction = on_grid(given, role, case.volume.grid, brain)
    notices = tuple(coverage_notices(_NAMES[role], "lesions are not checked", fraction))
    dwi = case.volume.data
    if role is Role.B0:
        b_value = case.b_value
        adc = adc_from_b0(dwi, aligned.data, b_value or _USUAL_B)
    else:
        b_value = None
        # Zero is what maps hold where nothing was computed.
        adc = np.where(aligned.data == 0, np.float32(np.nan), aligned.data)
    adc[~covered] = np.nan
    median = brain_adc(adc, brain.mask)
    correlation = rises_together(dwi, aligned.data, brain.mask)
    reason = _implausible(role, median, b_value, correlation)
    if reason:
        notice = Notice(WarningCode.INPUT_DIFFUSION, f"{given.name}: {reason}, and was not used")
        return _unknown(f"diffusion was not checked: {notice.text}", (*notices, notice))
    if role is Role.B0:
        to_mm2_s = None if b_value is None else 1.0
    elif (to_mm2_s := mm2_per_s(median)) is None:
        text = (
            f"{given.name}: an ADC map in no usual unit (median of the brain {median:.3g}); "
            "lesions are checked, but their ADC cannot be given in mm2/s"
        )
        notices = (*notices, Notice(WarningCode.INPUT_DIFFUSION, text))
    check = DiffusionCheck(
        checked=False,
        note="",
        by=str(role),
        b_value=b_value,
        brain_adc_mm2_s=None if to_mm2_s is None else median * to_mm2_s,
    )
    only_measured = _UNKNOWN_SCALE if role is Role.B0 and b_value is None else ""
    if only_measured:
        text = f"{given.name}: {only_measured}"
        notices = (*notices, Notice(WarningCode.INPUT_DIFFUSION, text))
    return KnownAdc(adc, median, to_mm2_s, check, notices, only_measured)


def judge(found: Lesions, adc: KnownAdc, bounds: RestrictionSpec | None) -> Verdict:
    """Measure the ADC of lesions, and take out those that do not restrict diffusion.

    Parameters
    ----------
    found
        The lesions.
    adc
        The ADC on their grid.
    bounds
        Which lesions restrict diffusion; None to take out none.
    """
    if adc.data is None:
        return Verdict(found.mask(), found.each, (), None, adc.check, adc.notices)
    known = lesion_adc(found.labels, adc.data[found.box])
    medians = median_adc(known)
    below = np.nan if bounds is None else bounds.relative_adc_below * adc.brain
    shares = restricted_shares(known, below)
    measured = tuple(
        lesion
        if np.isnan(median)
        else replace(
            lesion,
            relative_adc=float(median / adc.brain),
            adc_mm2_s=float(median * adc.to_mm2_s) if adc.to_mm2_s else None,
            restricted_share=None if np.isnan(share) else float(share),
        )
        for lesion, median, share in zip(found.each, medians, shares, strict=True)
    )
    check = adc.check
    if bounds is not None:
        check = replace(check, **asdict(bounds))
    if adc.only_measured or bounds is None:
        note = adc.only_measured or (
            "lesions were measured; the model has no bounds by which any are rejected"
        )
        return Verdict(found.mask(), measured, (), None, replace(check, note=note), adc.notices)
    out = is_unrestricted(shares, bounds.smallest_restricted_share)
    rule = _rule(bounds)
    note = f"lesions were rejected where {rule}; subacute infarcts can be among them"
    rejected = _those(measured, out)
    return Verdict(
        found.mask(~out),
        _those(measured, ~out),
        rejected,
        found.mask(out) if rejected else None,
        replace(check, checked=True, note=note),
        (*adc.notices, *_unknown_notices(shares), *_rejection_notices(rejected, rule)),
    )


def _rule(bounds: RestrictionSpec) -> str:
    return (
        f"fewer than {100 * bounds.smallest_restricted_share:g} % of the voxels have an ADC below "
        f"{bounds.relative_adc_below:g} times the brain's"
    )


def _unknown_notices(shares: NDArray[np.float64]) -> Iterator[Notice]:
    count = int(np.isnan(shares).sum())
    if count:
        yield Notice(
            WarningCode.INPUT_DIFFUSION,
            f"{counted(count, 'lesion')} kept unchecked: the ADC is unknown in more than half of "
            "the voxels",
        )


def _rejection_notices(rejected: tuple[Lesion, ...], rule: str) -> Iterator[Notice]:
    if not rejected:
        return
    volume = sum(lesion.volume_ml for lesion in rejected)
    yield Notice(
        WarningCode.LESION_REJECTED,
        f"{counted(len(rejected), 'lesion')} of {volume:.2f} ml taken out of the mask: {rule}",
    )


def _those(lesions: tuple[Lesion, ...], wanted: BoolArray) -> tuple[Lesion, ...]:
    return tuple(lesion for lesion, each in zip(lesions, wanted, strict=True) if each)


def _implausible(
    role: Role, median: float, b_value: float | None, correlation: float | None
) -> str:
    """What tells that a volume is not the ADC map or b0 that it should be; empty if nothing."""
    if not median > 0:
        return "gives the brain no positive ADC"
    if correlation is None:
        return (
            "cannot be compared with the DWI: its values in the brain are too few or all the same"
        )
    if role is Role.ADC:
        return "is bright where the DWI is, which an ADC map is not" if correlation > 0 else ""
    if correlation < 0:
        return "is dark where the DWI is bright, which b0 is not"
    if not is_plausible(median, b_value):
        return (
            f"makes the brain's ADC {median:.2g} mm2/s: not the b0 of this DWI, or scaled "
            "differently"
        )
    return ""


def _unknown(note: str, notices: tuple[Notice, ...] = ()) -> KnownAdc:
    return KnownAdc(None, np.nan, None, DiffusionCheck(checked=False, note=note), notices)
