import gzip
from pathlib import Path

import nibabel
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cnnres_infer.core.grid import Grid
from cnnres_infer.core.volume import Volume
from cnnres_infer.errors import GeometryError, OutputExistsError, VolumeError
from cnnres_infer.readers import load_volume
from cnnres_infer.readers.nifti.read import volume_from_image
from cnnres_infer.readers.nifti.stream import volume_name
from cnnres_infer.readers.nifti.write import _gzip, save_volume, volume_bytes
from tests.conftest import ORIENTATIONS, oriented_affine

SHAPE = (5, 6, 7)


def write(path: Path, kind: type = nibabel.Nifti1Image, dtype: str = "i2") -> Path:
    data = np.arange(210, dtype=dtype).reshape(SHAPE)
    affine = oriented_affine((0, 1, 2), (-1, 1, 1), (2.0, 2.5, 3.0), (0.1, 0.2, 0.3), SHAPE)
    image = kind(data, affine)
    image.set_sform(affine, code=1)
    turned = oriented_affine((0, 1, 2), (-1, 1, 1), (2.0, 2.5, 3.0), (0.1, 0.2, 0.29), SHAPE)
    image.set_qform(turned, code=2)
    nibabel.save(image, path)
    return path


@pytest.mark.parametrize("suffix", [".nii", ".nii.gz", ".NII.GZ"])
@pytest.mark.parametrize("kind", [nibabel.Nifti1Image, nibabel.Nifti2Image])
def test_load(tmp_path: Path, suffix: str, kind: type) -> None:
    volume = load_volume(write(tmp_path / f"a b{suffix}", kind))
    assert volume.name == "a b"
    assert volume.data.dtype == np.float32
    assert not volume.data.flags.writeable
    assert np.array_equal(volume.data, np.arange(210).reshape(SHAPE))
    np.testing.assert_allclose(volume.grid.spacing, (2.0, 2.5, 3.0), rtol=1e-6)
    assert volume.grid.voxel_ml == pytest.approx(0.015)


def test_big_endian(tmp_path: Path) -> None:
    header = nibabel.Nifti1Header(endianness=">")
    header.set_data_dtype(">i2")
    header.set_data_shape((2, 3, 4))
    header.set_sform(np.eye(4), 1)
    data = np.arange(24, dtype=">i2").reshape((2, 3, 4))
    raw = nibabel.Nifti1Image(data, None, header).to_bytes()
    assert raw[:4] == b"\0\0\x01\x5c"
    (tmp_path / "a.nii").write_bytes(raw)
    volume = load_volume(tmp_path / "a.nii")
    assert volume.data.dtype == np.dtype("=f4")
    assert np.array_equal(volume.data, data)
    save_volume(tmp_path / "m.nii", volume.data, volume.grid)
    assert np.array_equal(load_volume(tmp_path / "m.nii").grid.affine, np.eye(4))


def test_scaled_integers(tmp_path: Path) -> None:
    image = nibabel.Nifti1Image(np.linspace(-3.5, 80.25, 210).reshape(SHAPE), np.eye(4))
    image.set_data_dtype("i2")
    nibabel.save(image, tmp_path / "a.nii")
    stored = nibabel.load(tmp_path / "a.nii")
    assert stored.dataobj.slope != 1
    assert stored.dataobj.inter != 0
    volume = load_volume(tmp_path / "a.nii")
    np.testing.assert_allclose(volume.data, image.get_fdata(), atol=2e-3)


@pytest.mark.parametrize("kind", [nibabel.Nifti1Image, nibabel.Nifti2Image])
def test_a_mask_repeats_the_transforms_bit_for_bit(tmp_path: Path, kind: type) -> None:
    source = nibabel.load(write(tmp_path / "a.nii.gz", kind))
    volume = load_volume(tmp_path / "a.nii.gz")
    save_volume(tmp_path / "m.nii.gz", np.ones(SHAPE, np.uint8), volume.grid, volume.source)
    mask = nibabel.load(tmp_path / "m.nii.gz")
    assert type(mask).__name__ == kind.__name__
    fields = "pixdim sform_code qform_code srow_x srow_y srow_z quatern_b quatern_c quatern_d "
    fields += "qoffset_x qoffset_y qoffset_z xyzt_units"
    for field in fields.split():
        assert mask.header[field].tobytes() == source.header[field].tobytes(), field
    assert mask.get_data_dtype() == np.uint8
    assert np.array_equal(mask.affine, source.affine)
    assert (np.asarray(mask.dataobj) == 1).all()


@given(st.sampled_from(ORIENTATIONS), st.tuples(*[st.floats(-0.5, 0.5)] * 3))
def test_the_grid_of_an_array_survives_a_round_trip(
    tmp_path_factory: pytest.TempPathFactory,
    orientation: tuple[tuple[int, ...], tuple[int, ...]],
    tilt: tuple[float, float, float],
) -> None:
    affine = oriented_affine(*orientation, (0.9, 1.1, 4.0), tilt, SHAPE)
    path = tmp_path_factory.mktemp("grid") / "a.nii"
    data = np.random.default_rng(0).random(SHAPE, np.float32)
    save_volume(path, data, Grid(SHAPE, affine))
    back = load_volume(path)
    np.testing.assert_allclose(back.grid.affine, affine, atol=1e-4)
    np.testing.assert_allclose(nibabel.load(path).get_qform(), affine, atol=1e-2)
    assert np.array_equal(back.data, data)


@pytest.mark.parametrize("content", [b"", b"a", bytes(3000), b"hello " * 1000])
def test_gzip_gives_back_what_it_was_given(content: bytes) -> None:
    compressed = b"".join(_gzip([content]))
    assert gzip.decompress(compressed) == content
    assert compressed == b"".join(_gzip([content[:1000], content[1000:]]))
    assert compressed[4:8] == bytes(4)  # the time


def test_a_compressed_volume_is_the_plain_one_compressed() -> None:
    grid = Grid((6, 5, 4), np.diag([2.0, 2.0, 3.0, 1.0]))
    data = np.random.default_rng(1).random((6, 5, 4)).astype(np.float32)
    first, second = (volume_bytes(data.copy(), grid) for _ in range(2))
    assert first == second
    assert gzip.decompress(first) == volume_bytes(data, grid, compressed=False)


def test_the_same_mask_gives_the_same_bytes(tmp_path: Path) -> None:
    grid = Grid(SHAPE, np.eye(4))
    for name in ("a.nii.gz", "b.nii.gz"):
        save_volume(tmp_path / name, np.ones(SHAPE, np.uint8), grid)
    assert (tmp_path / "a.nii.gz").read_bytes() == (tmp_path / "b.nii.gz").read_bytes()


def damage(path: Path, how: str) -> None:
    raw = bytearray(path.read_bytes())
    if how == "flipped":
        raw[len(raw) // 2] ^= 0xFF
    elif how == "crc":
        raw[-6] ^= 0xFF
    elif how == "no trailer":
        raw = raw[:-8]
    elif how == "truncated":
        raw = raw[: len(raw) // 2]
    elif how == "garbage after":
        raw += b"garbage"
    elif how == "empty":
        raw = bytearray()
    elif how == "text":
        raw = bytearray(gzip.compress(b"hello " * 100))
    elif how == "voxels missing":
        raw = bytearray(gzip.compress(gzip.decompress(raw)[:-9]))
    path.write_bytes(raw)


@pytest.mark.parametrize(
    "how",
    [
        "flipped",
        "crc",
        "no trailer",
        "truncated",
        "garbage after",
        "empty",
        "text",
        "voxels missing",
    ],
)
def test_a_damaged_file_is_refused(tmp_path: Path, how: str) -> None:
    path = write(tmp_path / "a.nii.gz", dtype="f4")
    damage(path, how)
    with pytest.raises(VolumeError, match=r"a\.nii\.gz"):
        load_volume(path)


@pytest.mark.parametrize("name", ["a.txt", "a.nii.bz2", ".nii", "a.hdr"])
def test_other_file_names_are_refused(name: str, tmp_path: Path) -> None:
    (tmp_path / name).touch()
    with pytest.raises(VolumeError, match="NIfTI"):
        volume_name(tmp_path / name)


def test_missing_files_and_folders_are_refused(tmp_path: Path) -> None:
    with pytest.raises(VolumeError, match="No such file"):
        load_volume(tmp_path / "none.nii.gz")
    with pytest.raises(VolumeError, match="no such file or folder"):
        load_volume(tmp_path / "study")
    (tmp_path / "folder.nii").mkdir()
    with pytest.raises(VolumeError, match="directory"):
        load_volume(tmp_path / "folder.nii")


@pytest.mark.parametrize("shape", [(4, 5), (4, 5, 6, 2), (4, 5, 6, 1, 3)])
def test_other_than_three_dimensions_are_refused(tmp_path: Path, shape: tuple[int, ...]) -> None:
    image = nibabel.Nifti1Image(np.zeros(shape, np.int16), np.eye(4))
    nibabel.save(image, tmp_path / "a.nii")
    with pytest.raises(VolumeError, match=r"dimensions|volumes"):
        load_volume(tmp_path / "a.nii")


def test_a_fourth_dimension_of_one_is_accepted(tmp_path: Path) -> None:
    data = np.arange(24, dtype=np.int16).reshape(2, 3, 4, 1)
    nibabel.save(nibabel.Nifti1Image(data, np.eye(4)), tmp_path / "a.nii")
    assert load_volume(tmp_path / "a.nii").data.shape == (2, 3, 4)


def test_a_header_without_transform_is_refused(tmp_path: Path) -> None:
    header = nibabel.Nifti1Header()
    header.set_data_dtype("i2")
    image = nibabel.Nifti1Image(np.arange(24, dtype="i2").reshape(2, 3, 4), None, header)
    nibabel.save(image, tmp_path / "a.nii")
    with pytest.raises(GeometryError, match="codes are 0"):
        load_volume(tmp_path / "a.nii")


@pytest.mark.parametrize(("unit", "named"), [("meter", "metres"), ("micron", "micrometres")])
def test_units_other_than_mm_are_refused(tmp_path: Path, unit: str, named: str) -> None:
    image = nibabel.Nifti1Image(np.arange(24, dtype=np.int16).reshape(2, 3, 4), np.eye(4))
    image.header.set_xyzt_units(unit)
    nibabel.save(image, tmp_path / "a.nii")
    with pytest.raises(GeometryError, match=named):
        load_volume(tmp_path / "a.nii")


@pytest.mark.parametrize("dtype", ["c8", [("R", "u1"), ("G", "u1"), ("B", "u1")]])
def test_colours_and_complex_numbers_are_refused(tmp_path: Path, dtype: object) -> None:
    image = nibabel.Nifti1Image(np.zeros((2, 3, 4), np.dtype(dtype)), np.eye(4))  # type: ignore[call-overload]
    nibabel.save(image, tmp_path / "a.nii")
    with pytest.raises(VolumeError, match="type"):
        load_volume(tmp_path / "a.nii")


def test_complex_arrays_and_foreign_images_are_refused() -> None:
    with pytest.raises(VolumeError, match="complex"):
        Volume.from_array(np.ones(SHAPE, np.complex64), np.eye(4))
    with pytest.raises(VolumeError, match="not a NIfTI"):
        volume_from_image(nibabel.AnalyzeImage(np.zeros(SHAPE, np.int16), np.eye(4)))
    with pytest.raises(VolumeError, match="not a NIfTI"):
        volume_from_image([1, 2])


@pytest.mark.parametrize("data", [np.ones(SHAPE, np.int16), np.full(SHAPE, np.nan, np.float32)])
def test_a_volume_holds_finite_float32(data: np.ndarray) -> None:
    with pytest.raises(VolumeError, match="float32"):
        Volume(data, Grid(SHAPE, np.eye(4)))


def test_constant_volumes_are_refused_and_invalid_voxels_set_to_zero() -> None:
    with pytest.raises(VolumeError, match="the same"):
        Volume.from_array(np.zeros(SHAPE), np.eye(4))
    with pytest.raises(VolumeError, match="the same"):
        Volume.from_array(np.full(SHAPE, np.nan), np.eye(4))
    data = np.arange(210.0).reshape(SHAPE)
    data[0, 0, :2] = np.nan, np.inf
    volume = Volume.from_array(data, np.eye(4))
    assert np.isfinite(volume.data).all()
    assert "2 voxels" in str(volume.warnings[0])
    assert np.isnan(data[0, 0, 0])


@pytest.mark.parametrize(
    "affine", [np.eye(3), np.full((4, 4), np.nan), np.diag([1.0, 0.0, 1.0, 1.0])]
)
def test_broken_affines_are_refused(affine: np.ndarray) -> None:
    with pytest.raises(GeometryError):
        Grid(SHAPE, affine)


def test_a_file_is_overwritten_only_on_request(tmp_path: Path) -> None:
    path = tmp_path / "a.nii"
    path.write_text("precious")
    with pytest.raises(OutputExistsError, match="overwrite=True"):
        save_volume(path, np.ones(SHAPE, np.uint8), Grid(SHAPE, np.eye(4)))
    assert path.read_text() == "precious"
    save_volume(path, np.ones(SHAPE, np.uint8), Grid(SHAPE, np.eye(4)), overwrite=True)
    assert load_volume_shape(path) == SHAPE


def load_volume_shape(path: Path) -> tuple[int, ...]:
    return tuple(nibabel.load(path).shape)


def test_only_masks_may_be_the_same_everywhere() -> None:
    zero = np.zeros((2, 3, 4), np.uint8)
    for data in (zero, zero + 1):
        assert np.array_equal(Volume.from_array(data, np.eye(4), is_mask=True).data, data)
    lost = np.full((2, 3, 4), np.nan)
    for data, is_mask in ((zero, False), (zero + 1, False), (lost, True), (zero[:0], True)):
        with pytest.raises(VolumeError) as caught:
            Volume.from_array(data, np.eye(4), is_mask=is_mask)
        assert caught.value.code == "E-VOXELS-EMPTY"
