"""What belongs to a chosen DWI: its FLAIR, its ADC map and its b0."""

from collections.abc import Callable, Sequence

from cnnres_infer.codes import ErrorCode
from cnnres_infer.errors import VolumeError
from cnnres_infer.readers.dicom.frames import Frame
from cnnres_infer.readers.dicom.geometry import covers
from cnnres_infer.readers.dicom.selected import Selected, plain, whole
from cnnres_infer.readers.dicom.series import Series, candidates

_PARALLEL = 0.9


def flair_of(
    selected: Selected, flairs: Sequence[Series], where: object, notes: list[str]
) -> Selected | None:
    """The FLAIR of the same session as a DWI, parallel to it if there is one.

    Parameters
    ----------
    selected
        The DWI.
    flairs
        Series with a FLAIR.
    where
        The study, for messages.
    notes
        Is told what is not used, and why.

    Raises
    ------
    VolumeError
        If several could be meant.
    """
    here = selected.series.image
    same = []
    for each in flairs:
        image = each.image
        if image.study != here.study or not here.frame_of_reference:
            notes.append(f"{each.label} was not used as FLAIR: not known to be of the same session")
        elif image.frame_of_reference != here.frame_of_reference:
            notes.append(f"{each.label} was not used as FLAIR: in another frame of reference")
        else:
            same.append(each)
    parallel = [each for each in same if _parallel(each.flair, selected.frames)]
    best = parallel or same
    if len(best) > 1:
        raise VolumeError(
            f"{where}: several series could be the FLAIR: {candidates(best)}; name the DWI and the "
            "FLAIR to use, or the DWI alone (`series`)",
            code=ErrorCode.DICOM_SERIES,
        )
    return whole(best[0], best[0].flair, "FLAIR") if best else None


def adc_of(selected: Selected, series: Sequence[Series], notes: list[str]) -> Selected | None:
    """The ADC map of the acquisition of a DWI; None if there is none, or none can be told."""
    found = _companion(selected, series, lambda each: each.adc, "ADC map", notes)
    return None if found is None else whole(found, found.adc, "ADC")


def b0_of(selected: Selected, series: Sequence[Series], notes: list[str]) -> Selected | None:
    """The images without diffusion weighting of the acquisition of a DWI, as `adc_of`."""
    found = _companion(selected, with_b0(series), lambda each: each.b0, "b0", notes)
    return None if found is None else plain(found, found.b0)


def with_b0(series: Sequence[Series]) -> list[Series]:
    """Series with images without diffusion weighting, those without a DWI only if no other has any.

    They may be for the correction of distortions, with the opposite phase encoding.
    """
    found = [each for each in series if each.b0]
    return [each for each in found if each.is_diffusion] or found


def _companion(
    selected: Selected,
    series: Sequence[Series],
    frames: Callable[[Series], tuple[Frame, ...]],
    what: str,
    notes: list[str],
) -> Series | None:
    """The series of some frames of the same acquisition: its own, or one at the same places."""
    if frames(selected.series):
        return selected.series
    here = selected.series.image
    found = [each for each in series if frames(each)]
    near = [
        each
        for each in found
        if (got := frames(each))
        and each.image.study == here.study
        and each.image.frame_of_reference == here.frame_of_reference
        and _parallel(got, selected.frames)
        and covers(got, selected.frames)
        and got[0].shape == selected.frames[0].shape
    ]
    if found and not near:
        notes.append(f"no {what} was used: none lies where the DWI does, in its frame of reference")
    if len(near) > 1:
        moments = {frame.image.acquired for frame in selected.frames} - {""}
        near = [each for each in near if {f.image.acquired for f in frames(each)} & moments]
        if len(near) != 1:
            notes.append(f"no {what} was used: several are at the places of the DWI")
    return near[0] if len(near) == 1 else None


def _parallel(frames: Sequence[Frame], others: Sequence[Frame]) -> bool:
    here, there = frames[0].place, others[0].place
    if here is None or there is None:
        return False
    return abs(float(here.normal @ there.normal)) > _PARALLEL
