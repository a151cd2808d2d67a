"""The rule for b-values, and the option that overrides it."""

from pathlib import Path

import nibabel
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cnnres_infer.core.case import Modality
from cnnres_infer.errors import UsageError, VolumeError
from cnnres_infer.readers import load_case
from cnnres_infer.readers.bvalues import in_shell, mean_of, nearest
from cnnres_infer.readers.case import read_case
from cnnres_infer.readers.pick import Pick

B_VALUES = st.lists(st.sampled_from([0, 5, 50, 650, 700, 800, 990, 1000, 1200, 1500, 2500]))


@given(B_VALUES)
def test_the_nearest_to_1000_in_the_clinical_range(values: list[int]) -> None:
    chosen = nearest(values)
    clinical = [b for b in values if 700 <= b <= 1500]
    if chosen is None:
        assert not clinical
    else:
        assert chosen in clinical
        assert abs(chosen - 1000) == min(abs(b - 1000) for b in clinical)


@given(B_VALUES, st.sampled_from([100, 640, 1000, 2480, 9000]))
def test_the_one_that_is_wanted(values: list[int], wanted: int) -> None:
    chosen = nearest(values, wanted)
    near = [b for b in values if abs(b - wanted) <= 50 and b > 50]
    assert (chosen in near) if near else chosen is None


@pytest.mark.parametrize(("values", "chosen"), [([800, 1200], 1200), ([0, 50], None), ([], None)])
def test_ties_and_nothing(values: list[float], chosen: float | None) -> None:
    assert nearest(values) == chosen


def test_a_shell() -> None:
    assert in_shell([0, 950, 1000, 1050, 1051], 1000).tolist() == [False, True, True, True, False]


def test_means() -> None:
    parts = [np.array([1.0, 4.0, 0.0, np.inf]), np.array([4.0, 9.0, 5.0, 2.0])]
    assert mean_of(parts, geometric=True).tolist() == pytest.approx([2, 6, 0, np.inf])
    assert mean_of(parts, geometric=False).tolist() == [2.5, 6.5, 2.5, np.inf]


def test_a_direction_that_is_negative_is_not_hidden_by_the_mean() -> None:
    parts = [np.array([-3, 0, -5, 7], np.int16), np.array([90, -1, -25536, 7], np.int16)]
    mean = mean_of(parts, geometric=True)
    assert mean.tolist() == pytest.approx([-3, -1, -25536, 7])


def test_the_option_for_nifti(tmp_path: Path) -> None:
    data = np.random.default_rng(0).integers(1, 99, (5, 6, 4, 3)).astype(np.int16)
    path = tmp_path / "a.nii.gz"
    nibabel.save(nibabel.Nifti1Image(data, np.diag([-2, 2, 5, 1])), path)
    (tmp_path / "a.bval").write_text("0 1000 2000")
    case = load_case(path)
    np.testing.assert_array_equal(case.volume.data, data[..., 1])
    case = load_case(path, pick=Pick(b_value=2000))
    np.testing.assert_array_equal(case.volume.data, data[..., 2])
    assert case.b_value == 2000
    assert "W-INPUT-BVALUE" in [notice.code for notice in case.volume.warnings]
    with pytest.raises(VolumeError, match="no b-value of 1500"):
        load_case(path, pick=Pick(b_value=1500))
    with pytest.raises(UsageError, match="DICOM"):
        load_case(path, pick=Pick(("3",)))


def single(folder: Path, bval: str = "") -> Path:
    path = folder / "a.nii.gz"
    data = np.random.default_rng(0).integers(1, 99, (5, 6, 4)).astype(np.int16)
    nibabel.save(nibabel.Nifti1Image(data, np.diag([-2, 2, 5, 1])), path)
    if bval:
        (folder / "a.bval").write_text(bval)
    return path


@pytest.mark.parametrize(
    ("bval", "stated", "known"),
    [("", None, None), ("", 1200, 1200), ("1000", 1000, 1000), ("995", 1000, 995), ("x", 900, 900)],
)
def test_the_b_value_of_a_single_volume(
    bval: str, stated: float | None, known: float | None, tmp_path: Path
) -> None:
    assert load_case(single(tmp_path, bval), pick=Pick(b_value=stated)).b_value == known


def test_a_b_value_that_the_sidecar_contradicts(tmp_path: Path) -> None:
    path = single(tmp_path, "1000")
    with pytest.raises(VolumeError, match="but given as 1060; leave out `bvalue`") as caught:
        load_case(path, pick=Pick(b_value=1060))
    assert caught.value.code == "E-SIDECAR-KIND"


def test_b_values_that_no_single_dwi_has(tmp_path: Path) -> None:
    path = single(tmp_path)
    volume = load_case(path).volume
    for source in (path, volume):
        case = read_case(source, pick=Pick(b_value=2000))
        assert [notice.code for notice in case.volume.warnings] == ["W-INPUT-BVALUE"]
        with pytest.raises(UsageError, match="`bvalue` is 50"):
            read_case(source, pick=Pick(b_value=50))
        with pytest.raises(UsageError, match="FLAIR has no b-value"):
            read_case(source, modality=Modality.FLAIR, pick=Pick(b_value=1000))
    with pytest.raises(UsageError, match="`series`"):
        read_case(volume, pick=Pick(("3",)))


@pytest.mark.parametrize("b", [0, -5, float("inf"), float("nan")])
def test_b_values_that_are_none(b: float) -> None:
    with pytest.raises(UsageError, match="`bvalue`"):
        Pick(b_value=b)
