"""Where a NIfTI header places its voxels, by sform or qform, and whether they agree.

The sform is used where its code is set, else the qform, as nifti1.h has it.
"""

import numpy as np
from numpy.typing import NDArray

from cnnres_infer.codes import ErrorCode, Notice, WarningCode
from cnnres_infer.core.arrays import Affine
from cnnres_infer.core.grid import FARTHEST_MM
from cnnres_infer.errors import GeometryError
from cnnres_infer.readers.nifti.header import Fields

_CODES = range(6)
_NEGLIGIBLE_MM = 0.1
_NEGLIGIBLE_SHEAR = 1e-3
_NEGLIGIBLE_RATIO = 0.01
_PARALLEL = 1e-3
# Squares of a unit quaternion's parts sum to 1, but for float32's rounding.
_QUATERNION_ROUNDING = 1e-5
_AGAIN = "write the header again with the program that made it"


# Damaged headers make numbers that numpy warns of; each result is checked here.
@np.errstate(all="ignore")
def place(
    fields: Fields, shape: tuple[int, int, int], name: str, override: Affine | None = None
) -> tuple[Affine, tuple[Notice, ...]]:
    """Choose the transform that places a volume and check it against the rest of the header.

    Parameters
    ----------
    fields
        `TRANSFORM_FIELDS` of the header.
    shape
        Voxels along each axis.
    override
        (4, 4), used where the header itself says nothing (both codes 0).

    Returns
    -------
    affine
        float64 (4, 4), voxels to mm in RAS+.
    notices
        What is odd.

    Raises
    ------
    GeometryError
        If the transform in use is broken, or sform and qform are of different
        handedness: one of them swaps left and right.
    """
    sform_code, qform_code = int(fields["sform_code"]), int(fields["qform_code"])
    if sform_code not in _CODES or qform_code not in _CODES:
        raise GeometryError(
            f"{name}: sform code {sform_code} or qform code {qform_code} is not defined; {_AGAIN}",
            code=ErrorCode.NIFTI_CODE,
        )
    notices = _pixdim_notices(fields, sform_code > 0, name)
    if sform_code:
        affine = _sform(fields, name)
        notices += _spacing_notices(fields, affine)
        if qform_code:
            notices += _compared(affine, fields, shape, name)
    elif qform_code:
        affine = _qform(fields, name)
    elif override is not None:
        return np.array(override, np.float64), notices
    else:
        raise GeometryError(
            f"{name}: the header does not say where the volume lies (sform and qform codes are 0); "
            "write a valid sform, or pass affine= in Python",
            code=ErrorCode.NIFTI_PLACE,
        )
    if is_sheared(affine):
        text = "the axes are not perpendicular: volumes in ml are right, distances are not"
        notices += (Notice(WarningCode.NIFTI_SHEAR, text),)
    return affine, notices


def is_sheared(affine: Affine) -> bool:
    """Tell whether axes are not perpendicular, to about 0.06 degrees."""
    cosines = _cosines(affine)
    return bool(abs(cosines.T @ cosines - np.eye(3)).max() > _NEGLIGIBLE_SHEAR)


def _pixdim_notices(fields: Fields, has_sform: bool, name: str) -> tuple[Notice, ...]:
    sizes = [float(size) for size in np.ravel(fields["pixdim"])[1:4]]
    finite = all(abs(size) < FARTHEST_MM for size in sizes)
    if not finite or (not all(sizes) and not has_sform):
        raise GeometryError(
            f"{name}: the header gives the voxel sizes {sizes}; {_AGAIN}",
            code=ErrorCode.NIFTI_PIXDIM,
        )
    if min(sizes) > 0:
        return ()
    text = f"the header gives the voxel sizes {sizes}; " + (
        "the sform's are used" if has_sform else "their signs were left out"
    )
    return (Notice(WarningCode.NIFTI_PIXDIM, text),)


def _sform(fields: Fields, name: str) -> Affine:
    rows = [np.asarray(fields[key], np.float64) for key in ("srow_x", "srow_y", "srow_z")]
    affine = np.vstack([*rows, [0.0, 0.0, 0.0, 1.0]])
    if not (np.abs(affine) < FARTHEST_MM).all() or abs(np.linalg.det(_cosines(affine))) < _PARALLEL:
        raise GeometryError(
            f"{name}: the sform is singular or no numbers; {_AGAIN}", code=ErrorCode.NIFTI_SFORM
        )
    return affine


def _qform(fields: Fields, name: str) -> Affine:
    """Affine of the quaternion, by the formula of nifti1.h."""
    b, c, d = (float(fields[f"quatern_{part}"]) for part in "bcd")
    pixdim = np.asarray(fields["pixdim"], np.float64)
    offset = [float(fields[f"qoffset_{axis}"]) for axis in "xyz"]
    rest = 1.0 - (b * b + c * c + d * d)
    if not rest >= -_QUATERNION_ROUNDING or not (np.abs(offset) < FARTHEST_MM).all():
        raise GeometryError(
            f"{name}: the quaternion of the qform is no rotation; {_AGAIN}",
            code=ErrorCode.NIFTI_QFORM,
        )
    if pixdim[0] not in (-1.0, 0.0, 1.0):
        raise GeometryError(
            f"{name}: the handedness of the qform is {pixdim[0]:g}, not 1 or -1; {_AGAIN}",
            code=ErrorCode.NIFTI_QFORM,
        )
    norm = np.sqrt(b * b + c * c + d * d) if rest < 0 else 1.0
    a, b, c, d = np.sqrt(max(rest, 0.0)), b / norm, c / norm, d / norm
    rotation = np.array(
        [
            [a * a + b * b - c * c - d * d, 2 * (b * c - a * d), 2 * (b * d + a * c)],
            [2 * (b * c + a * d), a * a + c * c - b * b - d * d, 2 * (c * d - a * b)],
            [2 * (b * d - a * c), 2 * (c * d + a * b), a * a + d * d - b * b - c * c],
        ]
    )
    affine = np.eye(4)
    affine[:3, :3] = rotation * np.abs(pixdim[1:4])
    affine[:3, 2] *= -1.0 if pixdim[0] < 0 else 1.0
    affine[:3, 3] = offset
    return affine


def _compared(
    sform: Affine, fields: Fields, shape: tuple[int, int, int], name: str
) -> tuple[Notice, ...]:
    """Compare the qform with the sform, which is the one in use."""
    try:
        qform = _qform(fields, name)
    except GeometryError as error:
        text = str(error).removeprefix(f"{name}: ").partition(";")[0]
        return (Notice(WarningCode.NIFTI_QFORM, f"{text}; the sform is used"),)
    if not np.asarray(fields["pixdim"], np.float64)[1:4].all():
        return ()
    if np.linalg.det(sform[:3, :3]) * np.linalg.det(qform[:3, :3]) < 0:
        raise GeometryError(
            f"{name}: sform and qform are mirrored: one of them swaps left and right; "
            "find out which is right, and set the code of the other to 0",
            code=ErrorCode.NIFTI_HANDEDNESS,
        )
    corners = np.array(np.meshgrid(*[(0, n - 1) for n in shape], [1])).reshape(4, -1)
    distance = float(np.linalg.norm(((sform - qform) @ corners)[:3], axis=0).max())
    if distance <= _NEGLIGIBLE_MM:
        return ()
    text = f"sform and qform differ by up to {distance:.3g} mm; the sform is used"
    return (Notice(WarningCode.NIFTI_TRANSFORMS, text),)


def _spacing_notices(fields: Fields, affine: Affine) -> tuple[Notice, ...]:
    sizes = np.abs(np.asarray(fields["pixdim"], np.float64)[1:4])
    spacing = np.linalg.norm(affine[:3, :3], axis=0)
    if not sizes.all() or np.allclose(sizes, spacing, rtol=_NEGLIGIBLE_RATIO):
        return ()
    text = (
        f"the header gives voxels of {_by(sizes)} mm, its sform of {_by(spacing)} mm; "
        "the sform is used"
    )
    return (Notice(WarningCode.NIFTI_SPACING, text),)


def _cosines(affine: Affine) -> Affine:
    norms = np.linalg.norm(affine[:3, :3], axis=0)
    return affine[:3, :3] / np.where(norms > 0, norms, 1.0)


def _by(sizes: NDArray[np.float64]) -> str:
    return " x ".join(f"{size:.4g}" for size in sizes)
