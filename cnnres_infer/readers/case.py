"""Cases from paths, nibabel images, or arrays with their affines."""

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias, Union

import numpy as np
from numpy.typing import NDArray

from cnnres_infer.core.arrays import Affine
from cnnres_infer.core.case import Case, Modality, Role, check_combination
from cnnres_infer.core.mask import Mask
from cnnres_infer.core.volume import Volume
from cnnres_infer.errors import UsageError, VolumeError
from cnnres_infer.host.machine import resident_bytes
from cnnres_infer.limits import DEFAULT_LIMITS, Limits
from cnnres_infer.readers import load_case, load_volume
from cnnres_infer.readers.bvalues import check_stated, unusual
from cnnres_infer.readers.nifti.read import volume_from_image
from cnnres_infer.readers.pick import EVERYTHING, Pick

if TYPE_CHECKING:
    from nibabel.nifti1 import Nifti1Image

WithAffine: TypeAlias = tuple[Path | str | NDArray[Any], NDArray[Any]]
# Union, since `|` does not accept a forward reference.
Source: TypeAlias = Union[Path, str, Volume, Mask, "Nifti1Image", NDArray[Any], WithAffine]


def read_case(
    source: Source,
    *,
    affine: NDArray[Any] | None = None,
    flair: Source | None = None,
    adc: Source | None = None,
    b0: Source | None = None,
    modality: Modality = Modality.DWI,
    brain_mask: Source | None = None,
    limits: Limits = DEFAULT_LIMITS,
    pick: Pick = EVERYTHING,
) -> Case:
    """Read and check the volumes of a case.

    Parameters
    ----------
    source, flair, adc, b0, brain_mask
        A path, a `Volume`, a `Mask`, a nibabel image, or a pair of an array (X, Y, Z) and
        its affine (4, 4), voxel indices to mm in RAS+. A pair of a path and an
        affine is for a file that does not say where it lies. Only `brain_mask`
        may be an array without an affine; it then lies on the grid of `source`.
        `adc` and `b0` are preferred to the b0 of a series.
    affine
        The affine of `source`, as an alternative to a pair.
    modality
        The modality of `source`.
    limits
        The maximum size of each volume.
    pick
        What to read where `source` is a path to several images, and the b-value of
        a single one.

    Returns
    -------
    Case

    Raises
    ------
    InputError
        If a volume must not be segmented.
    UsageError
        If volumes do not belong together (see `Case`), or an affine is given
        twice.
    """
    check_combination(
        modality,
        flair=flair is not None,
        adc=adc is not None,
        b0=b0 is not None,
        b_value=pick.b_value is not None,
    )
    case = _scan(source, modality, limits, affine, pick)
    if adc is not None or b0 is not None:
        case = replace(
            case,
            adc=None if adc is None else read_volume(adc, Role.ADC, limits),
            b0=None if b0 is None else read_volume(b0, Role.B0, limits),
        )
    mask_affine = case.volume.grid.affine if isinstance(brain_mask, np.ndarray) else None
    return replace(
        case,
        flair=case.flair if flair is None else read_volume(flair, Role.FLAIR, limits),
        brain_mask=(
            case.brain_mask
            if brain_mask is None
            else read_volume(brain_mask, Role.BRAIN_MASK, limits, mask_affine)
        ),
    )


def _scan(
    source: Source,
    modality: Modality,
    limits: Limits,
    affine: NDArray[Any] | None,
    pick: Pick,
) -> Case:
    """The case in a file or folder, or one of a volume alone."""
    if isinstance(source, tuple) and affine is not None:
        raise UsageError("affine= and a pair with an affine contradict each other; give one")
    if isinstance(source, Volume) and affine is not None:
        raise UsageError("a Volume has its own affine; leave out affine=")
    if isinstance(source, tuple) and len(source) != 2:
        raise UsageError("a tuple must be a pair: an array or path, and its affine")
    path, place = source if isinstance(source, tuple) else (source, affine)
    if isinstance(path, (str, Path)):
        return load_case(path, modality, limits, place, pick)
    if pick.series:
        raise UsageError("`series` chooses images of a DICOM study; give its path")
    volume = read_volume(source, Role(modality), limits, affine)
    if pick.b_value is None:
        return Case(modality, volume)
    check_stated(pick.b_value)
    warnings = (*volume.warnings, *unusual(pick.b_value))
    return Case(modality, replace(volume, warnings=warnings), b_value=pick.b_value)


def read_volume(
    source: Source, role: Role, limits: Limits = DEFAULT_LIMITS, affine: Affine | None = None
) -> Volume:
    """Read or copy a single volume.

    Parameters
    ----------
    source, limits, affine
        See `read_case`.
    role
        What it is to the case, and its name if `source` has none of its own.

    Raises
    ------
    InputError
        If the volume must not be segmented.
    """
    if isinstance(source, tuple):
        source, affine = source
    is_mask = role is Role.BRAIN_MASK
    if isinstance(source, (str, Path)):
        return load_volume(source, limits, affine, role=role, is_mask=is_mask)
    if isinstance(source, Mask):
        return Volume.from_array(source.data, source.grid, str(role), is_mask=is_mask)
    if isinstance(source, Volume):
        check_size(source, limits)
        return source
    if isinstance(source, np.ndarray):
        limits.check_size(str(role), source.shape, source.nbytes, resident_bytes())
        if affine is None:
            raise VolumeError(
                f"{role}: an array needs an affine (4, 4), voxel indices to mm in RAS+; give the "
                "pair (array, affine)"
            )
        return Volume.from_array(source, affine, str(role), is_mask=is_mask)
    return volume_from_image(source, str(role), affine, limits, is_mask=is_mask)


def check_size(volume: Volume, limits: Limits) -> None:
    """Raise `LimitError` if a volume exceeds a limit."""
    limits.check_size(volume.name, volume.grid.shape, volume.data.nbytes, resident_bytes())
