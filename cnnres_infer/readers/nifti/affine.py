"""The affine of a NIfTI header, from its sform or qform, and whether the two agree.

The sform is used if its code is set, otherwise the qform (methods 3 and 2 of
nifti1.h).
"""

import numpy as np
from numpy.typing import NDArray

from cnnres_infer.codes import ErrorCode, Notice, WarningCode
from cnnres_infer.core.arrays import Affine
from cnnres_infer.core.grid import MAX_AFFINE_MM, NEGLIGIBLE_MM, parse_affine
from cnnres_infer.errors import GeometryError, UsageError
from cnnres_infer.readers.nifti.header import Fields

_DEFINED_CODES = range(6)
# Below these, differences between the transforms of a header are rounding.
_NEGLIGIBLE_SHEAR = 1e-3
_NEGLIGIBLE_RATIO = 0.01
# If the determinant of the direction cosines is smaller, two axes are practically parallel.
_MIN_COSINE_DETERMINANT = 1e-3
# The squares of a unit quaternion sum to 1, up to the rounding of float32.
_QUATERNION_ROUNDING = 1e-5
_REWRITE = "write the header again with the program that created it"


# Damaged headers contain numbers that numpy warns about; all results are checked here.
@np.errstate(all="ignore")
def resolve_affine(
    fields: Fields, shape: tuple[int, int, int], name: str, override: Affine | None = None
) -> tuple[Affine, tuple[Notice, ...]]:
    """Determine the affine of a header and check it against the header's other transform.

    Parameters
    ----------
    fields
        `TRANSFORM_FIELDS` of the header.
    shape
        Number of voxels along each axis.
    name
        Name of the file in messages.
    override
        (4, 4), for a header that defines no transform (both codes are 0).

    Returns
    -------
    affine
        float64 (4, 4), voxel indices to mm in RAS+.
    notices
        What is unusual about the transforms.

    Raises
    ------
    GeometryError
        If the transform is missing or invalid, or if sform and qform differ in
        handedness, so that one of them swaps left and right.
    UsageError
        If `override` contradicts the header's transform.
    """
    sform_code, qform_code = int(fields["sform_code"]), int(fields["qform_code"])
    if sform_code not in _DEFINED_CODES or qform_code not in _DEFINED_CODES:
        raise GeometryError(
            f"{name}: undefined sform code {sform_code} or qform code {qform_code}; {_REWRITE}",
            code=ErrorCode.NIFTI_CODE,
        )
    notices = _check_pixdim(fields, sform_code > 0, name)
    if sform_code:
        affine = _sform(fields, name)
        notices += _spacing_notices(fields, affine)
        if qform_code:
            notices += _check_qform(affine, fields, shape, name)
    elif qform_code:
        affine = _qform(fields, name)
    elif override is not None:
        return parse_affine(override), notices
    else:
        raise GeometryError(
            f"{name}: the header does not say where the volume lies (sform and qform codes are 0); "
            "write a valid sform, or pass affine=... in Python",
            code=ErrorCode.NIFTI_PLACE,
        )
    if override is not None and not np.allclose(parse_affine(override), affine, atol=1e-3):
        raise UsageError(
            f"{name}: says itself where it lies, and affine= contradicts it; leave out affine=, or "
            "pass the array with its affine"
        )
    if is_sheared(affine):
        text = "the voxel axes are not perpendicular: volumes in ml are correct, distances are not"
        notices += (Notice(WarningCode.NIFTI_SHEAR, text),)
    return affine, notices


def is_sheared(affine: Affine) -> bool:
    """Whether the voxel axes are not perpendicular (by more than about 0.06 degrees)."""
    cosines = _direction_cosines(affine)
    return bool(abs(cosines.T @ cosines - np.eye(3)).max() > _NEGLIGIBLE_SHEAR)


def _check_pixdim(fields: Fields, has_sform: bool, name: str) -> tuple[Notice, ...]:
    sizes = [float(size) for size in np.ravel(fields["pixdim"])[1:4]]
    finite = all(abs(size) < MAX_AFFINE_MM for size in sizes)
    if not finite or (not all(sizes) and not has_sform):
        raise GeometryError(
            f"{name}: invalid voxel sizes {sizes} in the header; {_REWRITE}",
            code=ErrorCode.NIFTI_PIXDIM,
        )
    if min(sizes) > 0:
        return ()
    remedy = "those of the sform were used" if has_sform else "their signs were ignored"
    text = f"voxel sizes {sizes} in the header are not all positive; {remedy}"
    return (Notice(WarningCode.NIFTI_PIXDIM, text),)


def _sform(fields: Fields, name: str) -> Affine:
    rows = [np.asarray(fields[key], np.float64) for key in ("srow_x", "srow_y", "srow_z")]
    affine = np.vstack([*rows, [0.0, 0.0, 0.0, 1.0]])
    finite = (np.abs(affine) < MAX_AFFINE_MM).all()
    if not finite or abs(np.linalg.det(_direction_cosines(affine))) < _MIN_COSINE_DETERMINANT:
        raise GeometryError(
            f"{name}: the sform is singular or not finite; {_REWRITE}", code=ErrorCode.NIFTI_SFORM
        )
    return affine


def _qform(fields: Fields, name: str) -> Affine:
    """Affine of the quaternion representation, by the formula in nifti1.h (method 2)."""
    b, c, d = (float(fields[f"quatern_{component}"]) for component in "bcd")
    pixdim = np.asarray(fields["pixdim"], np.float64)
    offset = [float(fields[f"qoffset_{axis}"]) for axis in "xyz"]
    a_squared = 1.0 - (b * b + c * c + d * d)
    if not a_squared >= -_QUATERNION_ROUNDING or not (np.abs(offset) < MAX_AFFINE_MM).all():
        raise GeometryError(
            f"{name}: the quaternion of the qform is not a rotation; {_REWRITE}",
            code=ErrorCode.NIFTI_QFORM,
        )
    if pixdim[0] not in (-1.0, 0.0, 1.0):
        raise GeometryError(
            f"{name}: the handedness of the qform is {pixdim[0]:g}, not 1 or -1; {_REWRITE}",
            code=ErrorCode.NIFTI_QFORM,
        )
    norm = np.sqrt(b * b + c * c + d * d) if a_squared < 0 else 1.0
    a, b, c, d = np.sqrt(max(a_squared, 0.0)), b / norm, c / norm, d / norm
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


def _check_qform(
    sform: Affine, fields: Fields, shape: tuple[int, int, int], name: str
) -> tuple[Notice, ...]:
    """Compare the qform with the sform, which is the one in use."""
    try:
        qform = _qform(fields, name)
    except GeometryError as error:
        text = str(error).removeprefix(f"{name}: ").partition(";")[0]
        return (Notice(WarningCode.NIFTI_QFORM, f"{text}; the sform was used"),)
    if not np.asarray(fields["pixdim"], np.float64)[1:4].all():
        return ()
    if np.linalg.det(sform[:3, :3]) * np.linalg.det(qform[:3, :3]) < 0:
        raise GeometryError(
            f"{name}: sform and qform differ in handedness, so one of them swaps left and right; "
            "find out which is correct, and set the code of the other to 0",
            code=ErrorCode.NIFTI_HANDEDNESS,
        )
    corners = np.array(np.meshgrid(*[(0, n - 1) for n in shape], [1])).reshape(4, -1)
    distance = float(np.linalg.norm(((sform - qform) @ corners)[:3], axis=0).max())
    if distance <= NEGLIGIBLE_MM:
        return ()
    text = f"sform and qform differ by up to {distance:.3g} mm; the sform was used"
    return (Notice(WarningCode.NIFTI_TRANSFORMS, text),)


def _spacing_notices(fields: Fields, affine: Affine) -> tuple[Notice, ...]:
    sizes = np.abs(np.asarray(fields["pixdim"], np.float64)[1:4])
    spacing = np.linalg.norm(affine[:3, :3], axis=0)
    if not sizes.all() or np.allclose(sizes, spacing, rtol=_NEGLIGIBLE_RATIO):
        return ()
    text = (
        f"voxels of {_format_sizes(sizes)} mm according to pixdim, but of "
        f"{_format_sizes(spacing)} mm according to the sform; the sform was used"
    )
    return (Notice(WarningCode.NIFTI_SPACING, text),)


def _direction_cosines(affine: Affine) -> Affine:
    norms = np.linalg.norm(affine[:3, :3], axis=0)
    return affine[:3, :3] / np.where(norms > 0, norms, 1.0)


def _format_sizes(sizes: NDArray[np.float64]) -> str:
    return " x ".join(f"{size:.4g}" for size in sizes)
