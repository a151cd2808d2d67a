"""Cases of arrays and images are held to what holds for files."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pytest
from nibabel.spatialimages import SpatialImage

from cnnres_infer import Case, Predictor
from cnnres_infer.errors import LimitError, VolumeError
from cnnres_infer.limits import Limits
from cnnres_infer.readers.case import read_case
from cnnres_infer.readers.nifti.read import volume_from_image
from tests.conftest import blob_volume
from tests.faults.files import DATA, SOUND, written

AFFINE = blob_volume()[0].grid.affine
SOURCES: dict[str, Callable[[Path], Any]] = {
    "file": written(SOUND, "a.nii"),
    "array": lambda _: (DATA, AFFINE),
    "image": lambda _: nibabel.Nifti1Image(DATA, AFFINE),
    "volume": lambda _: blob_volume()[0],
    "case": lambda _: Case("dwi", blob_volume()[0]),  # type: ignore[arg-type]
}
LIMITS = {
    "E-LIMIT-VOXELS": Limits(max_voxels=1000),
    "E-LIMIT-BYTES": Limits(max_bytes=1000),
    "E-LIMIT-MEMORY": Limits(max_memory=1000),
}


@pytest.mark.parametrize("source", SOURCES.values(), ids=SOURCES)
@pytest.mark.parametrize(("code", "limits"), LIMITS.items(), ids=LIMITS)
def test_limits_hold_for_every_source(
    tmp_path: Path, bright_bundle: Path, source: Callable[[Path], Any], code: str, limits: Limits
) -> None:
    with Predictor.load(bright_bundle, backend="ort", threads=1) as predictor:
        predictor.limits = limits
        with pytest.raises(LimitError) as caught:
            predictor.predict(source(tmp_path))
    assert caught.value.code == code


def test_the_voxels_of_an_image_that_is_too_large_are_not_read() -> None:
    class Unread:
        shape = DATA.shape
        dtype = DATA.dtype
        ndim = 3

        def __array__(self, *_: object, **__: object) -> np.ndarray:
            raise AssertionError

    image = nibabel.Nifti1Image(Unread(), AFFINE)
    with pytest.raises(LimitError):
        volume_from_image(image, limits=Limits(max_voxels=1000))


@pytest.mark.parametrize(
    "kind",
    [
        SpatialImage,
        nibabel.Minc1Image,
        nibabel.Minc2Image,
        nibabel.AnalyzeImage,
        nibabel.Spm99AnalyzeImage,
        nibabel.MGHImage,
    ],
)
def test_images_of_other_formats_are_refused(kind: Any) -> None:
    image = kind(np.arange(24.0, dtype=np.float32).reshape(2, 3, 4), np.diag([2.0, 2, 2, 1]))
    with pytest.raises(VolumeError, match="not a NIfTI image") as caught:
        volume_from_image(image)
    assert caught.value.code == "E-ARRAY"


@pytest.mark.parametrize("source", ["file", "array", "image"])
def test_a_brain_may_fill_the_volume(tmp_path: Path, source: str) -> None:
    full = np.ones(DATA.shape, np.uint8)
    masks: dict[str, Any] = {"array": full, "image": nibabel.Nifti1Image(full, AFFINE)}
    if source == "file":
        nibabel.save(masks["image"], tmp_path / "mask.nii.gz")
        masks["file"] = tmp_path / "mask.nii.gz"
    case = read_case((DATA, AFFINE), brain_mask=masks[source])
    assert case.brain_mask is not None
    assert case.brain_mask.data.all()
    with pytest.raises(VolumeError):
        read_case((full, AFFINE))
