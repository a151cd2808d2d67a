"""Cases and volumes from DICOM studies."""

from dataclasses import replace
from pathlib import Path

from cnnres_infer.codes import Notice, WarningCode
from cnnres_infer.core.arrays import Affine
from cnnres_infer.core.case import Case, Modality, Role
from cnnres_infer.core.volume import Volume
from cnnres_infer.errors import InputError, LimitError, UsageError
from cnnres_infer.limits import DEFAULT_LIMITS, Limits
from cnnres_infer.readers.bvalues import unusual
from cnnres_infer.readers.dicom.choose import Chosen, choose, choose_map
from cnnres_infer.readers.dicom.files import ZIP, has_dicom, is_dicom
from cnnres_infer.readers.dicom.geometry import Stack, stack
from cnnres_infer.readers.dicom.headers import parse, quiet
from cnnres_infer.readers.dicom.pixels import read_voxels
from cnnres_infer.readers.dicom.second_opinion import check_mosaic
from cnnres_infer.readers.dicom.selected import Selected, whole
from cnnres_infer.readers.dicom.source import HEADER, DicomSource, FrameReference, header_of
from cnnres_infer.readers.dicom.study import Study, open_study
from cnnres_infer.readers.pick import EVERYTHING, Pick

_SUFFIXES = (".zip", ".dcm", ".dicom", ".ima")


def recognises(path: Path, head: bytes) -> bool:
    """Whether it is a folder with DICOM files, a zip archive, or such a file."""
    return has_dicom(path) if path.is_dir() else head.startswith(ZIP) or is_dicom(head)


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
    as the DWI, are read as well. A study always says where its images lie, so an
    `affine` is refused.
    """
    _refuse(affine, path)
    with open_study(path, limits) as study:
        chosen = choose(study, modality, pick)
        volume = _read(study, chosen.volume, case_name(path), limits)
        notes = list(chosen.notes)
        flair = None
        if chosen.flair is not None:
            flair = _read(study, chosen.flair, chosen.flair.text, limits)
        adc = _beside(study, chosen.adc, limits, notes)
        # The map is preferred, which the scanner computed from more images.
        b0 = _beside(study, chosen.b0, limits, notes) if adc is None else None
    others = [each for each in (flair, adc, b0) if each is not None]
    notices = _notices(chosen, [each.name for each in others], notes)
    volume = replace(volume, warnings=(*notices, *volume.warnings))
    return Case(modality, volume, flair, adc=adc, b0=b0, b_value=chosen.volume.b)


def load_volume(
    path: Path,
    limits: Limits = DEFAULT_LIMITS,
    affine: Affine | None = None,
    *,
    role: Role | None = None,
    is_mask: bool = False,
) -> Volume:
    """Read a single volume of a study; see `cnnres_infer.readers.load_volume`.

    Without a role, and for a brain mask, it is the only series with images, whatever
    that shows, or else the DWI.
    """
    _refuse(affine, path)
    with open_study(path, limits) as study:
        selected = _for_role(study, role)
        return _read(study, selected, case_name(path), limits, is_mask=is_mask)


def _refuse(affine: Affine | None, path: Path) -> None:
    if affine is not None:
        raise UsageError(f"{path}: a DICOM study says itself where it lies; leave out affine=")


def _for_role(study: Study, role: Role | None) -> Selected:
    if role is Role.FLAIR:
        return choose(study, Modality.FLAIR, EVERYTHING).volume
    if role in (Role.ADC, Role.B0):
        return choose_map(study, role)
    series = [each for each in study.series if each.images]
    if len(series) == 1 and not series[0].is_diffusion and not study.problems:
        return whole(series[0], series[0].images, "the image")
    return choose(study, Modality.DWI, EVERYTHING).volume


def _beside(
    study: Study, selected: Selected | None, limits: Limits, notes: list[str]
) -> Volume | None:
    """An ADC map or b0; None with a note if it is damaged, since it is only checked against."""
    if selected is None:
        return None
    try:
        return _read(study, selected, selected.text, limits)
    except LimitError:
        raise
    except InputError as error:
        notes.append(f"{selected.text} was not used: {study.reason(error)}")
        return None


def _read(
    study: Study, selected: Selected, name: str, limits: Limits, *, is_mask: bool = False
) -> Volume:
    where = f"{study.path}: {selected.text}"
    stacked = stack(selected.frames, where, single=selected.single)
    first = stacked.layers[0][0]
    if first.tiles is not None:
        check_mosaic(first.image.file, stacked.grid, limits)
    geometric = bool(selected.b)
    values, overflowed = read_voxels(stacked, where, limits, geometric=geometric)
    return Volume.from_voxels(
        values,
        stacked.grid,
        name,
        (),
        overflowed=overflowed,
        is_mask=is_mask,
        source=_source(study, selected, stacked, limits),
    )


def _source(study: Study, selected: Selected, stacked: Stack, limits: Limits) -> DicomSource:
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
    with quiet():
        header = header_of(parse(stacked.layers[0][0].image.file, limits, only=HEADER))
    return DicomSource(
        study.path,
        image.study,
        image.series,
        image.frame_of_reference,
        slices,
        selected.series.label,
        header,
        tuple(
            (each.image.series, each.image.number)
            for each in study.series
            if each.image.number is not None
        ),
    )


def _notices(chosen: Chosen, others: list[str], notes: list[str]) -> tuple[Notice, ...]:
    text = f"{chosen.volume.text} was used"
    if others:
        text += f", with {', '.join(others)}"
    return (
        Notice(WarningCode.DICOM_SERIES, text),
        *(() if chosen.volume.b is None else unusual(chosen.volume.b)),
        *(Notice(WarningCode.DICOM_LEFT_OUT, note) for note in notes),
    )
