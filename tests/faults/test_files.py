"""Files with faults are refused, warned about or accepted, as the tables in files.py say."""

import gzip
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any, Literal

import nibabel
import numpy as np
import pytest

from cnnres_infer import Predictor
from cnnres_infer.codes import ErrorCode, WarningCode
from cnnres_infer.core.case import Role
from cnnres_infer.errors import InputError
from cnnres_infer.readers import case_name
from cnnres_infer.readers.case import read_volume
from cnnres_infer.readers.nifti.header import TRANSFORM_FIELDS
from tests import commands
from tests.faults.files import (
    ACCEPTED,
    DATA,
    REFUSED,
    SOUND,
    WARNED,
    Builder,
    beside,
    changed,
    compressed,
    nifti,
    series,
    sidecar,
    written,
)


def flat(table: dict[str, dict[str, Builder]]) -> list[object]:
    return [
        pytest.param(code, build, id=f"{code}: {label}")
        for code, cases in table.items()
        for label, build in cases.items()
    ]


def states(folder: Path) -> dict[Path, tuple[int, ...]]:
    """Properties that change when anything is written to a folder or its files."""
    stats = {path: path.stat() for path in (folder, *folder.iterdir())}
    return {path: (s.st_mode, s.st_ino, s.st_size, s.st_mtime_ns) for path, s in stats.items()}


@pytest.fixture(scope="module")
def predictor(bright_bundle: Path) -> Predictor:
    return Predictor.load(bright_bundle, threads=1)


@pytest.mark.parametrize(("code", "build"), flat(REFUSED))
def test_refused(predictor: Predictor, tmp_path: Path, code: str, build: Builder) -> None:
    path = build(tmp_path)
    before = states(tmp_path)
    with pytest.raises(InputError) as caught:
        predictor.predict(path)
    assert caught.value.code == code, caught.value
    assert str(path) in str(caught.value) or path.name.split(".")[0] in str(caught.value)
    assert states(tmp_path) == before


@pytest.mark.parametrize(("code", "build"), flat(WARNED))
def test_warned(predictor: Predictor, tmp_path: Path, code: str, build: Builder) -> None:
    result = predictor.predict(build(tmp_path))
    assert code in [notice.code for notice in result.warnings]


@pytest.mark.parametrize("build", [pytest.param(v, id=k) for k, v in ACCEPTED.items()])
def test_accepted(predictor: Predictor, tmp_path: Path, build: Builder) -> None:
    path = build(tmp_path)
    result = predictor.predict(path)
    assert result.warnings == ()
    assert np.array_equal(result.volume.data, DATA)
    assert result.mask.data.any()
    assert result.save(tmp_path / "out")["mask"].exists()


def test_the_command_line_reports_each_error_and_writes_no_mask(
    bright_bundle: Path, tmp_path: Path
) -> None:
    paths, expected = [], []
    for code, cases in REFUSED.items():
        for number, build in enumerate(cases.values()):
            made = build(tmp_path)
            path = tmp_path / made.name.replace("a", f"{code.lower()}-{number}", 1)
            if not made.name.startswith("a.nii") or not os.path.lexists(made):
                continue
            made.rename(path)
            for kind in ("bval", "json"):
                if (tmp_path / f"a.{kind}").exists():
                    (tmp_path / f"a.{kind}").rename(tmp_path / f"{code.lower()}-{number}.{kind}")
            paths.append(path)
            expected.append(code)
    options = ("-o", tmp_path / "out", "--json", "--bundle", bright_bundle)
    done = commands.run("cnnres_infer", *paths, *options)
    assert done.returncode == 3
    entries = json.loads(done.stdout)
    assert [entry["error"]["code"] for entry in entries] == expected
    lines = done.stderr.splitlines()
    assert [line.split()[1].rstrip(":") for line in lines] == expected
    left = {path.name for path in (tmp_path / "out").iterdir()}
    named = [p for p, code in zip(paths, expected, strict=True) if code != "E-FILE-NAME"]
    assert left == {f"{case_name(path)}_report.json" for path in named}


@pytest.mark.parametrize("name", ["E-NIFTI-EXCESS", "E-LIMIT-BYTES"])
def test_a_decompression_bomb_is_refused_in_bounded_memory(tmp_path: Path, name: str) -> None:
    (path,) = (build(tmp_path) for label, build in REFUSED[name].items() if "bomb" in label)
    code = (
        "import sys; from pathlib import Path\n"
        "from cnnres_infer.readers import READERS, load_volume\n"
        "for reader in READERS.values(): reader.functions\n"
        "from cnnres_infer.errors import InputError; from cnnres_infer.host.machine import *\n"
        "before = peak_memory_mb()\n"
        "try: load_volume(Path(sys.argv[1]))\n"
        "except InputError as error: print(error.code, peak_memory_mb() - before)"
    )
    run = [sys.executable, "-c", code, str(path)]
    done = subprocess.run(run, capture_output=True, text=True, check=True)
    found, grown = done.stdout.split()
    assert found == name
    assert float(grown) < 20


def test_a_file_without_read_permission_is_refused(tmp_path: Path) -> None:
    path = written(SOUND, "a.nii")(tmp_path)
    path.chmod(0)
    code = (
        "import os, sys; from pathlib import Path\n"
        # What is imported late would not be readable for the other user.
        "from cnnres_infer.readers import READERS, load_volume\n"
        "for reader in READERS.values(): reader.functions\n"
        "from cnnres_infer.errors import InputError\n"
        "os.chdir(Path(sys.argv[1]).parent)\n"
        "if os.getuid() == 0: os.setresuid(65534, 65534, 65534)\n"
        "try: load_volume(Path('a.nii'))\n"
        "except InputError as error: print(error.code, error)"
    )
    tmp_path.chmod(0o755)
    run = [sys.executable, "-c", code, str(path)]
    done = subprocess.run(run, capture_output=True, text=True, check=True)
    assert done.stdout.startswith("E-FILE-ACCESS a.nii: Permission denied")


def test_the_volume_selected_by_b_value_is_segmented(predictor: Predictor, tmp_path: Path) -> None:
    one = predictor.predict(series(3, "0 1000 3000")(tmp_path))
    assert np.array_equal(one.volume.data, DATA + 1)
    assert "volume 1 of 3 volumes was used: b = 1000" in str(one.warnings[0])
    several = predictor.predict(series(4, "0 1000 995 1005")(tmp_path))
    mean = np.cbrt((DATA + 1.0) * (DATA + 2.0) * (DATA + 3.0))
    np.testing.assert_allclose(several.volume.data, mean, rtol=1e-6)
    assert "the geometric mean of volumes 1, 2, 3 of 4" in str(several.warnings[0])
    assert "volume 0 is its b0" in str(several.warnings[0])
    scaled = predictor.predict(series(2, "0 800", scl_slope=2, scl_inter=5)(tmp_path))
    np.testing.assert_allclose(scaled.volume.data, (DATA + 1.0) * 2 + 5, rtol=1e-6)


@pytest.mark.parametrize(
    ("bvalues", "used"),
    [
        ("0 800 1200", 2),
        ("0 700 1400", 1),
        ("0 500 900 1500", 2),
        ("0 1500 600", 1),
        ("1000 0 2000", 0),
    ],
)
def test_the_b_value_nearest_to_1000_is_used(
    predictor: Predictor, tmp_path: Path, bvalues: str, used: int
) -> None:
    result = predictor.predict(series(len(bvalues.split()), bvalues)(tmp_path))
    assert np.array_equal(result.volume.data, DATA + used)


def test_the_mean_of_directions_is_not_positive_where_one_of_them_is_not(
    predictor: Predictor, tmp_path: Path
) -> None:
    directions = np.stack([DATA, DATA + np.int16(3), DATA], axis=3)
    directions[30, 35, 10], directions[31, 35, 10, 1] = (0, 200, 300), -4
    (tmp_path / "a.bval").write_text("1000 1000 1000")
    volume = predictor.predict(compressed(nifti(directions))(tmp_path)).volume.data
    assert volume[30, 35, 10] == 0
    assert volume[31, 35, 10] == -4
    assert volume[29, 35, 10] > 0


@pytest.mark.parametrize("wrapped", [1, 3])
def test_directions_that_wrapped_around_are_refused(
    predictor: Predictor, tmp_path: Path, wrapped: int
) -> None:
    lesion = np.clip(DATA.astype(np.float64), 0, None) / DATA.max() * 60_000
    directions = np.stack([lesion / (1 if i < wrapped else 2) for i in range(3)], axis=3)
    stored = directions.astype(np.uint16).view(np.int16)
    (tmp_path / "a.bval").write_text("1000 1000 1000")
    with pytest.raises(InputError) as caught:
        predictor.predict(compressed(nifti(stored))(tmp_path))
    assert caught.value.code is ErrorCode.VOXELS_WRAPPED


def test_directions_that_became_negative_are_noted(predictor: Predictor, tmp_path: Path) -> None:
    directions = np.stack([DATA, DATA + np.int16(3), DATA], axis=3)
    directions[28:33, 33:38, 9:11, 1] = -25536
    (tmp_path / "a.bval").write_text("1000 1000 1000")
    result = predictor.predict(compressed(nifti(directions))(tmp_path))
    assert "W-INPUT-INTENSITY" in [notice.code for notice in result.warnings]


def test_the_list_of_b_values_is_named_if_none_is_clinical(
    predictor: Predictor, tmp_path: Path
) -> None:
    with pytest.raises(InputError, match="only 0, 50, 3000"):
        predictor.predict(series(4, "0 3000 50 3000")(tmp_path))


@pytest.mark.parametrize("beside_it", [{"a.bval": "0"}, {"a.json": '{"ImageType": ["ADC"]}'}])
def test_what_is_refused_as_dwi_is_accepted_as_what_it_is(
    predictor: Predictor, tmp_path: Path, beside_it: dict[str, str]
) -> None:
    path = beside({**beside_it})(tmp_path)
    fits, other = (Role.B0, Role.ADC) if "a.bval" in beside_it else (Role.ADC, Role.B0)
    assert read_volume(path, fits).warnings == ()
    for role in (other, Role.DWI):
        with pytest.raises(InputError) as caught:
            read_volume(path, role)
        assert caught.value.code is ErrorCode.SIDECAR_KIND


def test_an_adc_map_may_keep_the_b_value_of_its_images(tmp_path: Path) -> None:
    (notice,) = read_volume(beside({"a.bval": "1000"})(tmp_path), Role.ADC).warnings
    assert notice.code is WarningCode.SIDECAR
    named = {"a.bval": "1000", "a.json": '{"ImageType": ["DERIVED", "ADC"]}'}
    assert read_volume(beside({**named})(tmp_path), Role.ADC).warnings == ()


@pytest.mark.parametrize("role", [Role.FLAIR, Role.ADC, Role.BRAIN_MASK])
def test_a_series_is_a_dwi_or_b0_and_nothing_else(tmp_path: Path, role: Role) -> None:
    path = series(3, "0 5 1000")(tmp_path)
    with pytest.raises(InputError) as caught:
        read_volume(path, role)
    assert caught.value.code is ErrorCode.NIFTI_SERIES
    b0 = read_volume(path, Role.B0)
    np.testing.assert_allclose(b0.data, DATA + 0.5, rtol=1e-6)
    assert "the mean of volumes 0, 1" in str(b0.warnings[0])


@pytest.mark.parametrize("build", WARNED["W-SIDECAR"].values(), ids=WARNED["W-SIDECAR"].keys())
def test_what_lies_beside_an_image_is_noted_by_name(tmp_path: Path, build: Builder) -> None:
    for notice in read_volume(build(tmp_path), Role.DWI).warnings:
        assert str(tmp_path) not in str(notice)


def test_a_flair_that_is_an_adc_map_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError) as caught:
        read_volume(sidecar(ImageType=["DERIVED", "ADC"])(tmp_path), Role.FLAIR)
    assert caught.value.code is ErrorCode.SIDECAR_KIND


@pytest.mark.parametrize("wide", [False, True])
@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("label", ["plain", "odd pixdim", "odd qform", "qform only", "series"])
def test_a_mask_has_the_transforms_of_its_volume_bit_for_bit(
    predictor: Predictor, tmp_path: Path, wide: bool, order: Literal["<", ">"], label: str
) -> None:
    odd: dict[str, dict[str, Any]] = {
        "plain": {},
        "odd pixdim": {"pixdim": [-1, 0, -2.5, 5, 7, 8, 9, 10]},
        "odd qform": {"quatern_b": float("nan"), "qoffset_z": 1e9},
        "qform only": {"sform_code": 0, "srow_y": [1, 2, 3, float("nan")]},
        "series": {"xyzt_units": 10, "sform_code": 4, "qform_code": 3},
    }
    raw = nifti(wide=wide, order=order, **odd[label])
    path = written(raw, "a.nii")(tmp_path)
    saved = predictor.predict(path).save(tmp_path / "out")
    kind = nibabel.nifti2 if wide else nibabel.nifti1
    size = kind.header_dtype.itemsize
    source = np.frombuffer(raw[:size], kind.header_dtype.newbyteorder(order))[0]
    mask = nibabel.load(saved["mask"])
    content = gzip.decompress(saved["mask"].read_bytes())
    written_header = np.frombuffer(content[:size], kind.header_dtype)[0]
    for field in TRANSFORM_FIELDS:
        native = np.asarray(source[field]).astype(source[field].dtype.newbyteorder("<"))
        assert native.tobytes() == written_header[field].tobytes(), field
    assert mask.shape == DATA.shape


def test_the_affine_argument_is_used_for_a_file_without_transform(
    predictor: Predictor, tmp_path: Path
) -> None:
    path = changed(sform_code=0, qform_code=0)(tmp_path)
    affine = np.diag([2.5, 2.5, 5.0, 1.0])
    result = predictor.predict(path, affine=affine)
    assert np.array_equal(result.volume.grid.affine, affine)
    saved = result.save(tmp_path)
    assert np.array_equal(nibabel.load(saved["mask"]).affine, affine)


def test_lesion_volumes_are_correct_on_a_sheared_grid(predictor: Predictor, tmp_path: Path) -> None:
    result = predictor.predict(changed(srow_x=[-2.5, 1.5, 0, 73.75], qform_code=0)(tmp_path))
    voxels = int(result.mask.data.sum())
    assert result.mask.volume_ml == pytest.approx(voxels * 2.5 * 2.5 * 5 / 1000)
