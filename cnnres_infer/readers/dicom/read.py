"""Cases and volumes from DICOM studies."""

from dataclasses import replace
from pathlib import Path

from cnnres_infer.codes import Notice, WarningCode
from cnnres_infer.core.arrays import Affine
from cnnres_infer.core.case import Case, Modality
from cnnres_infer.core.volume import Volume
from cnnres_infer.errors import InputError, LimitError
from cnnres_infer.limits import DEFAULT_LIMITS, Limits
from cnnres_infer.readers.dicom.choose import Chosen, choose
from cnnres_infer.readers.dicom.files import ZIP, is_dicom
from cnnres_infer.readers.dicom.geometry import Stack, stack
from cnnres_infer.readers.dicom.pixels import read_voxels
from cnnres_infer.readers.dicom.selected import Selected, whole
from cnnres_infer.readers.dicom.source import DicomSource, FrameReference
from cnnres_infer.readers.dicom.study import Study, open_study
from cnnres_infer.readers.pick import EVERYTHING, Pick

_SUFFIXES = (".zip", ".dcm", ".dicom", ".ima")


def recognises(path: Path, head: bytes) -> bool:
    """Whether it is a folder, a zip archive, or a file that looks like DICOM."""
    return path.is_dir() or head.startswith(ZIP) or is_dicom(head)


def case_name(path: Path) -> str:
    """Name of the folder, or of the file without its suffix."""
    name = path.resolve().name or "study"
    is_file = name.lower().endswith(_SUFFIXES) and not path.is_dir()
    return (path.stem if is_file else name) or "study"


def load_case(
    path: Path,
    modality: Modality,
    limits: Limits,
    affine: Affine | None,
    pick: Pick = EVERYTHING,
) -> Case:
    """Read a study; see `cnnres_infer.readers.load_case`.

    The FLAIR of the same session, and the ADC map or b0 of the same acquisition
    as the DWI, are read as well. A study always says where its images lie, so
    `affine` is not used.
    """
    with open_study(path, limits) as study:
        chosen = choose(study, modality, pick)
        volume = _read(study, chosen.volume, case_name(path), limits)
        notes = list(chosen.notes)
        flair = None
        if chosen.flair is not None:
            flair = _read(study, chosen.flair, chosen.flair.text, limits)
    volume = replace(volume, warnings=(*_notices(chosen, notes), *volume.warnings))
    return Case(modality, volume, flair)


def load_volume(
    path: Path,
    limits: Limits = DEFAULT_LIMITS,
    affine: Affine | None = None,
    *,
    may_be_zero: bool = False,
    pick: Pick = EVERYTHING,
) -> Volume:
    """Read a single volume of a study; see `cnnres_infer.readers.load_volume`.

    It is the only series with images, whatever that shows, or else the DWI.
    """
    with open_study(path, limits) as study:
        series = [each for each in study.series if each.images]
        if len(series) == 1 and not series[0].is_diffusion and not study.problems:
            selected = whole(series[0], series[0].images, "the images")
        else:
            selected = choose(study, Modality.DWI, pick).volume
        return _read(study, selected, case_name(path), limits, may_be_zero=may_be_zero)


def _beside(study: Study, selected: Selected, limits: Limits, notes: list[str]) -> Volume | None:
    """An ADC map or b0; None with a note if it is damaged, since it is only checked against."""
    try:
        return _read(study, selected, selected.text, limits)
    except LimitError:
        raise
    except InputError as error:
        notes.append(f"{selected.text} was not used: {error}")
        return None


def _read(
    study: Study, selected: Selected, name: str, limits: Limits, *, may_be_zero: bool = False
) -> Volume:
    where = f"{study.path}: {selected.text}"
    stacked = stack(selected.frames, where, single=selected.single)
    geometric = bool(selected.b)
    values, overflowed = read_voxels(stacked, where, limits, geometric=geometric)
    return Volume.from_voxels(
        values,
        stacked.grid,
        name,
        (),
        overflowed=overflowed,
        may_be_zero=may_be_zero,
        source=_source(study, selected, stacked),
    )


def _source(study: Study, selected: Selected, stacked: Stack) -> DicomSource:
    image = selected.series.image
    slices = tuple(
        tuple(
            FrameReference(
                frame.image.sop_class,
                frame.image.sop_instance,
                None if frame.index is None else frame.index + 1,
                frame.tile,
            )
            for frame in layer
        )
        for layer in stacked.layers
    )
    return DicomSource(study.path, image.study, image.series, image.frame_of_reference, slices)


def _notices(chosen: Chosen, notes: list[str]) -> tuple[Notice, ...]:
    used = [each.text for each in (chosen.flair, chosen.adc, chosen.b0) if each is not None]
    text = f"{chosen.volume.text} was used"
    if used:
        text += f", with {', '.join(used)}"
    return (
        Notice(WarningCode.DICOM_SERIES, text),
        *(Notice(WarningCode.DICOM_LEFT_OUT, note) for note in notes),
    )
