"""A case from whatever a caller has: paths, nibabel images, arrays with their affines."""

from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias, Union

import numpy as np
from numpy.typing import NDArray

from cnnres_infer.core.arrays import Affine
from cnnres_infer.core.case import Case, Modality
from cnnres_infer.core.volume import Volume
from cnnres_infer.errors import VolumeError
from cnnres_infer.limits import DEFAULT_LIMITS, Limits
from cnnres_infer.readers import load_volume
from cnnres_infer.readers.nifti.read import volume_from_image

if TYPE_CHECKING:
    from nibabel.nifti1 import Nifti1Image

Placed: TypeAlias = tuple[Path | str | NDArray[Any], NDArray[Any]]
# Not by `|`, which cannot join a type that is only named.
Source: TypeAlias = Union[Path, str, Volume, "Nifti1Image", NDArray[Any], Placed]


def read_case(
    source: Source,
    *,
    affine: NDArray[Any] | None = None,
    flair: Source | None = None,
    modality: Modality = Modality.DWI,
    brain_mask: Source | None = None,
    limits: Limits = DEFAULT_LIMITS,
) -> Case:
    """Read and check the volumes of a case.

    Parameters
    ----------
    source, flair, brain_mask
        A path, a `Volume`, a nibabel image, or a pair of an array (X, Y, Z) and
        its affine (4, 4), voxels to mm in RAS+. A pair of a path and an affine
        places a file that does not say where it lies. An array without an
        affine is taken for a brain mask only, on the grid of `source`.
    affine
        The affine of `source`, in place of a pair.
    modality
        What `source` is.
    limits
        What each volume may cost.

    Raises
    ------
    InputError
        If one must not be segmented.
    """
    volume = read_volume(source, str(modality), limits, affine)
    mask_affine = volume.grid.affine if isinstance(brain_mask, np.ndarray) else None
    return Case(
        modality,
        volume,
        None if flair is None else read_volume(flair, str(Modality.FLAIR), limits),
        None if brain_mask is None else read_volume(brain_mask, "brain mask", limits, mask_affine),
    )


def read_volume(
    source: Source, name: str, limits: Limits = DEFAULT_LIMITS, affine: Affine | None = None
) -> Volume:
    """Read or copy one volume; see `read_case`.

    Parameters
    ----------
    name
        What to call it where it has no name of its own.
    """
    if isinstance(source, tuple):
        source, affine = source
    if isinstance(source, (str, Path)):
        return load_volume(source, limits, affine)
    if isinstance(source, Volume):
        return source
    if isinstance(source, np.ndarray):
        if affine is None:
            raise VolumeError(
                f"{name}: an array needs its affine, voxels to mm in RAS+ (4, 4): give the pair "
                "(array, affine)"
            )
        return Volume.from_array(source, affine, name)
    return volume_from_image(source, name, affine)
