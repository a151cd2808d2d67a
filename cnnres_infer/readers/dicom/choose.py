"""Choosing the series and frames of a case, or refusing to guess."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

from cnnres_infer.codes import ErrorCode
from cnnres_infer.core.case import Modality, Role
from cnnres_infer.errors import InputError, VolumeError
from cnnres_infer.readers.bvalues import (
    CLINICAL_RANGE,
    LARGEST_B0,
    SHELL_WIDTH,
    USUAL,
    check_stated,
    listed,
)
from cnnres_infer.readers.dicom.companions import adc_of, b0_of, flair_of, with_b0
from cnnres_infer.readers.dicom.frames import Frame
from cnnres_infer.readers.dicom.geometry import covers
from cnnres_infer.readers.dicom.kinds import Kind
from cnnres_infer.readers.dicom.selected import Selected, best_shell, plain, rank, whole
from cnnres_infer.readers.dicom.series import Series, candidates
from cnnres_infer.readers.dicom.study import Study
from cnnres_infer.readers.pick import Pick

_INSPECT = "cnnres-infer inspect shows what was found"
# What to do about several series, and about none, that could be meant. Those of what is given
# beside the volume cannot be named.
_NAMED = ("name one (`series`)", "name it if it is one of these (`series`)")
_BESIDE = ("give one alone", "give another, or a NIfTI file")


@dataclass(frozen=True, eq=False)
class Chosen:
    """The volumes of a case.

    Attributes
    ----------
    volume
        What is segmented.
    flair, adc, b0
        What belongs to it; None where there is none.
    notes
        What was left out, and why.
    """

    volume: Selected
    flair: Selected | None = None
    adc: Selected | None = None
    b0: Selected | None = None
    notes: tuple[str, ...] = ()


def choose(study: Study, modality: Modality, pick: Pick) -> Chosen:
    """Choose the volumes of a case.

    Parameters
    ----------
    study
        The study.
    modality
        What is to be segmented.
    pick
        What the user decided.

    Raises
    ------
    VolumeError
        If there is no suitable series, or more than one; if the images are of
        several patients or frames of reference; if files of a chosen series cannot
        be used.
    """
    _check_patients(study)
    for problem in study.problems:
        if not problem.series:
            raise problem.error
    pool = _named(study, pick.series)
    if modality is Modality.FLAIR:
        chosen = Chosen(_only_flair(study, pool, pick))
    else:
        chosen = _diffusion(study, pool, pick)
    used = [selected.series for selected in (chosen.volume, chosen.flair) if selected is not None]
    for series in used:
        if series.problems:
            raise series.problems[0].error
    unused = tuple(
        f"{each.label} cannot be used: {study.reason(each.problems[0].error)}"
        for each in study.series
        if each.problems
    )
    return replace(chosen, notes=chosen.notes + unused)


def choose_map(study: Study, role: Role) -> Selected:
    """Choose the ADC map or b0 of a study that was given for nothing else.

    Raises
    ------
    VolumeError
        If there is none, or several.
    """
    _check_patients(study)
    for problem in study.problems:
        raise problem.error
    if role is Role.ADC:
        maps = [each for each in study.series if each.adc]
        if len(maps) != 1:
            raise _no_choice(study, maps, study.series, "ADC map", _BESIDE)
        return whole(maps[0], maps[0].adc, "ADC")
    found = {each: each.b0 for each in with_b0(study.series)} or _alone(study)
    if len(found) != 1:
        raise _no_choice(study, list(found), study.series, "b0", _BESIDE)
    return plain(*found.popitem())


def _alone(study: Study) -> dict[Series, tuple[Frame, ...]]:
    """The images of the only series that has any, if nothing says that they are no b0."""
    found = {each: each.images for each in study.series if each.images}
    frames = [frame for images in found.values() for frame in images]
    may_be = all(f.kind is Kind.IMAGE and (f.b or 0) <= LARGEST_B0 for f in frames)
    return found if len(found) == 1 and may_be else {}


def _check_patients(study: Study) -> None:
    frames = (frame for series in study.series for frame in series.frames)
    patients = {frame.image.patient for frame in frames} - {""}
    if len(patients) > 1:
        raise VolumeError(
            f"{study.path}: images of {len(patients)} patients; give the study of one",
            code=ErrorCode.DICOM_STUDY,
        )


def _check_frames_of_reference(study: Study, series: Sequence[Series]) -> None:
    references = {frame.image.frame_of_reference for each in series for frame in each.images}
    if len(references - {""}) > 1:
        raise VolumeError(
            f"{study.path}: images in {len(references)} frames of reference, whose positions "
            f"cannot be compared: {candidates(series)}; name the series to use (`series`)",
            code=ErrorCode.DICOM_STUDY,
        )


def _named(study: Study, names: tuple[str, ...]) -> list[Series]:
    """The series that the user named; all if none was."""
    if not names:
        return list(study.series)
    found = []
    for name in names:
        named = [
            each for each in study.series if name in (str(each.image.number), each.image.series)
        ]
        if len(named) != 1:
            count = "no series" if not named else f"{len(named)} series"
            raise VolumeError(
                f"{study.path}: {count} {name!r}; choose by number or UID (`series`) from "
                f"{candidates(study.series)}",
                code=ErrorCode.DICOM_SERIES,
            )
        found += [each for each in named if each not in found]
    return found


def _only_flair(study: Study, pool: Sequence[Series], pick: Pick) -> Selected:
    found = [each for each in pool if each.flair]
    if not found and pick.series and len(pool) == 1 and pool[0].images:
        return whole(pool[0], pool[0].images, "the image")
    _check_frames_of_reference(study, found)
    if len(found) != 1:
        raise _no_choice(study, found, pool, "FLAIR")
    return whole(found[0], found[0].flair, "FLAIR")


def _diffusion(study: Study, pool: Sequence[Series], pick: Pick) -> Chosen:
    weighted = [
        selected for each in pool if (selected := best_shell(each, pick.b_value)) is not None
    ]
    flairs = [each for each in pool if each.flair and pick.flair]
    if not pick.series:
        _check_frames_of_reference(study, [*(each.series for each in weighted), *flairs])
    if not weighted:
        return Chosen(_unweighted(study, pool, pick))
    selected = _best(study, weighted, pick)
    _check_frames_of_reference(study, [selected.series])
    _check_complete(selected)
    notes: list[str] = []
    flair = flair_of(selected, flairs, study.path, notes)
    sound = [each for each in study.series if not each.problems]
    adc = adc_of(selected, [each for each in sound if each.adc], notes)
    # Of the b0 nothing is said where the map is used, which is preferred to it.
    b0_notes = notes if adc is None else []
    b0 = b0_of(selected, sound, b0_notes)
    return Chosen(selected, flair, adc, b0, tuple(notes))


def _best(study: Study, weighted: Sequence[Selected], pick: Pick) -> Selected:
    aim = USUAL if pick.b_value is None else pick.b_value
    b = min((each.b or 0.0 for each in weighted), key=lambda each: (abs(each - aim), -each))
    shell = [each for each in weighted if abs((each.b or 0.0) - b) <= SHELL_WIDTH]
    first = min(rank(each) for each in shell)
    best = [each for each in shell if rank(each) == first]
    if len(best) > 1:
        raise VolumeError(
            f"{study.path}: several series could be the DWI: "
            f"{'; '.join(each.text for each in best)}; name one (`series`); {_INSPECT}",
            code=ErrorCode.DICOM_SERIES,
        )
    return best[0]


def _check_complete(selected: Selected) -> None:
    """The chosen images must be at all positions where the series has other b-values."""
    series = selected.series
    others = (*series.weighted, *series.b0)
    if any(frame.place is None for frame in others):
        return  # refused when they are stacked
    if not covers(selected.frames, others):
        raise VolumeError(
            f"{selected.text}: slices are missing that the series has at other b-values; export "
            "the complete series again",
            code=ErrorCode.DICOM_SLICES,
        )


def _unweighted(study: Study, pool: Sequence[Series], pick: Pick) -> Selected:
    """A series that the user named although nothing in it says that it is a DWI."""
    values = [frame.b or 0.0 for each in pool for frame in each.weighted]
    if values:
        lowest, highest = CLINICAL_RANGE
        what = (
            f"between {lowest:g} and {highest:g}"
            if pick.b_value is None
            else f"of {pick.b_value:g}"
        )
        raise VolumeError(
            f"{study.path}: no images at a b-value {what} s/mm2, but at {listed(values)}; "
            "choose one of these (`bvalue`)",
            code=ErrorCode.DICOM_BVALUE,
        )
    if pick.series and len(pool) == 1 and pool[0].images:
        if pool[0].adc:
            raise VolumeError(
                f"{study.path}: {pool[0].label} is an ADC map, not a DWI; name the DWI (`series`)",
                code=ErrorCode.DICOM_SERIES,
            )
        stated = [frame.b for frame in pool[0].images if frame.b is not None]
        if stated:
            raise VolumeError(
                f"{study.path}: {pool[0].label} is not diffusion-weighted, at b = {listed(stated)} "
                "s/mm2; name the DWI (`series`)",
                code=ErrorCode.DICOM_SERIES,
            )
        return _undeclared(pool[0], pick)
    raise _no_choice(study, [], pool, "DWI")


def _undeclared(series: Series, pick: Pick) -> Selected:
    """A series without b-value, which the user may have stated."""
    if pick.b_value is None:
        return whole(series, series.images, "the image without b-value")
    check_stated(pick.b_value)
    selected = whole(series, series.images, f"the image, given as b = {pick.b_value:g} s/mm2,")
    return replace(selected, b=pick.b_value)


def _no_choice(
    study: Study,
    found: Sequence[Series],
    pool: Sequence[Series],
    what: str,
    remedies: tuple[str, str] = _NAMED,
) -> InputError:
    problems = [problem for each in pool for problem in each.problems]
    if problems and not found:
        return problems[0].error
    if found:
        reason = f"several series could be the {what}: {candidates(found)}; {remedies[0]}"
    else:
        named = [each for each in pool if each.images] or list(pool)
        reason = f"no series is recognised as {what}: {candidates(named)}; {remedies[1]}"
    has_images = any(each.images for each in study.series)
    code = ErrorCode.DICOM_SERIES if has_images else ErrorCode.DICOM_NONE
    return VolumeError(f"{study.path}: {reason}; {_INSPECT}", code=code)
