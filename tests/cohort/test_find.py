"""Finding the cases of BIDS datasets, folders, tables and DICOM studies."""

import json
from pathlib import Path
from tempfile import TemporaryDirectory
from zipfile import ZipFile

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cnnres_infer.cohort.bids import find_bids
from cnnres_infer.cohort.case import Found, label
from cnnres_infer.cohort.find import find_cases
from cnnres_infer.core.case import Modality
from cnnres_infer.errors import UsageError
from tests.cohort.support import write_dwi


def touch(root: Path, *names: str) -> None:
    for name in names:
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"")


def volumes(found: Found) -> list[str]:
    return [case.volume.name for case in found.cases]


def test_the_trace_is_chosen_and_never_the_map(tmp_path: Path) -> None:
    touch(
        tmp_path,
        "sub-1/dwi/sub-1_rec-ADC_dwi.nii.gz",
        "sub-1/dwi/sub-1_rec-TRACE_dwi.nii.gz",
        "sub-1/anat/sub-1_FLAIR.nii.gz",
        "sub-2/dwi/sub-2_rec-ADC_dwi.nii.gz",
    )
    found = find_cases(tmp_path)
    (case,) = found.cases
    assert case.name == "sub-1"
    assert {role: path.name for role, path in case.inputs.items()} == {
        "dwi": "sub-1_rec-TRACE_dwi.nii.gz",
        "adc": "sub-1_rec-ADC_dwi.nii.gz",
        "flair": "sub-1_FLAIR.nii.gz",
    }
    assert case.sources == (
        "sub-1/dwi/sub-1_rec-TRACE_dwi.nii.gz",
        "sub-1/anat/sub-1_FLAIR.nii.gz",
        "sub-1/dwi/sub-1_rec-ADC_dwi.nii.gz",
    )
    assert [(skip.name, skip.reason) for skip in found.skipped] == [("sub-2", "no DWI in dwi/")]


@pytest.mark.parametrize("suffix", ["ADC", "FA", "expADC", "colFA", "S0map"])
def test_maps_that_have_suffixes_of_their_own_are_not_segmented(
    tmp_path: Path, suffix: str
) -> None:
    touch(tmp_path, "sub-1/dwi/sub-1_dwi.nii.gz", f"sub-1/dwi/sub-1_{suffix}.nii.gz")
    (case,) = find_cases(tmp_path).cases
    assert case.volume.name == "sub-1_dwi.nii.gz"
    assert (case.adc is not None) == (suffix == "ADC")


def test_sidecars_tell_maps_and_b0_also_from_folders_above(tmp_path: Path) -> None:
    touch(
        tmp_path,
        *(f"sub-1/dwi/sub-1_acq-{name}_dwi.nii.gz" for name in ("a", "b", "c")),
        "sub-1/dwi/sub-1_acq-d_dwi.nii",
    )
    (tmp_path / "acq-a_dwi.json").write_text('{"ImageType": ["DERIVED", "PRIMARY", "ADC"]}')
    (tmp_path / "sub-1/dwi/sub-1_acq-b_dwi.json").write_text('{"DiffusionBValue": 0}')
    (tmp_path / "sub-1/dwi/sub-1_acq-c_dwi.bval").write_text("0 0 5\n")
    (tmp_path / "sub-1/dwi/sub-1_acq-d_dwi.bval").write_text("0 1000\n")
    (case,) = find_cases(tmp_path).cases
    assert case.volume.name == "sub-1_acq-d_dwi.nii"
    assert case.name == "sub-1_acq-d"
    assert case.adc is not None
    assert case.adc.name == "sub-1_acq-a_dwi.nii.gz"


def test_sessions_and_runs_are_cases_of_their_own(tmp_path: Path) -> None:
    touch(
        tmp_path,
        "sub-1/ses-a/dwi/sub-1_ses-a_run-1_dwi.nii.gz",
        "sub-1/ses-a/dwi/sub-1_ses-a_run-2_dwi.nii.gz",
        "sub-1/ses-a/anat/sub-1_ses-a_run-1_FLAIR.nii.gz",
        "sub-1/ses-a/anat/sub-1_ses-a_run-2_FLAIR.nii.gz",
        "sub-1/ses-b/dwi/sub-1_ses-b_dwi.nii.gz",
        "sub-1/ses-b/anat/sub-1_ses-b_acq-x_FLAIR.nii.gz",
        "sub-1/ses-b/anat/sub-1_ses-b_acq-y_FLAIR.nii.gz",
        "sub-2/dwi/sub-2_part-phase_dwi.nii.gz",
    )
    found = find_cases(tmp_path)
    assert [case.name for case in found.cases] == [
        "sub-1_ses-a_run-1",
        "sub-1_ses-a_run-2",
        "sub-1_ses-b",
    ]
    flairs = [case.flair and case.flair.name for case in found.cases]
    assert flairs == ["sub-1_ses-a_run-1_FLAIR.nii.gz", "sub-1_ses-a_run-2_FLAIR.nii.gz", None]
    assert "none of several flair was used" in found.cases[2].notes[0]
    assert [case.name for case in find_cases(tmp_path, sessions=["ses-b"]).cases] == ["sub-1_ses-b"]
    assert not find_cases(tmp_path, participants=["2"]).cases
    with pytest.raises(UsageError, match="no participant 3"):
        find_cases(tmp_path, participants=["1", "sub-3"])


def test_of_several_reconstructions_the_plainest_is_used(tmp_path: Path) -> None:
    touch(tmp_path, "sub-1/dwi/sub-1_rec-norm_dwi.nii.gz", "sub-1/dwi/sub-1_dwi.nii.gz")
    (case,) = find_cases(tmp_path).cases
    assert case.volume.name == "sub-1_dwi.nii.gz"
    assert case.notes == ("sub-1_dwi.nii.gz was used of images that differ in rec",)


def test_the_trace_of_a_run_does_not_replace_other_runs(tmp_path: Path) -> None:
    names = ("run-1_rec-TRACE_dwi", "run-1_dwi", "run-2_dwi", "acq-x_dwi")
    touch(tmp_path, *(f"sub-1/dwi/sub-1_{name}.nii.gz" for name in names))
    assert volumes(find_cases(tmp_path)) == [
        "sub-1_acq-x_dwi.nii.gz",
        "sub-1_run-1_rec-TRACE_dwi.nii.gz",
        "sub-1_run-2_dwi.nii.gz",
    ]


@pytest.mark.parametrize(
    ("adc", "used_for", "noted"),
    [
        ("run-1_rec-ADC_dwi", {"run-1"}, {"run-2"}),
        ("run-3_rec-ADC_dwi", set(), {"run-1", "run-2"}),
        ("rec-ADC_dwi", {"run-1", "run-2"}, {"run-1", "run-2"}),
        ("acq-adc_ADC", {"run-1", "run-2"}, {"run-1", "run-2"}),
    ],
)
def test_the_adc_map_of_another_run_is_not_used(
    tmp_path: Path, adc: str, used_for: set[str], noted: set[str]
) -> None:
    for name in ("run-1_dwi", "run-2_dwi", adc):
        touch(tmp_path, f"sub-1/dwi/sub-1_{name}.nii.gz")
    cases = find_cases(tmp_path).cases
    assert {case.entities[0] for case in cases if case.adc is not None} == used_for
    assert {case.entities[0] for case in cases if case.notes} == noted
    assert all(adc in note for case in cases for note in case.notes)


def test_flair_alone_and_without_flair(tmp_path: Path) -> None:
    touch(tmp_path, "sub-1/anat/sub-1_FLAIR.nii.gz", "sub-1/dwi/sub-1_dwi.nii.gz")
    (case,) = find_cases(tmp_path, Modality.FLAIR).cases
    assert case.inputs == {"flair": tmp_path / "sub-1/anat/sub-1_FLAIR.nii.gz"}
    (case,) = find_cases(tmp_path, with_flair=False).cases
    assert case.flair is None


def link_to_nowhere(root: Path, *names: str) -> None:
    for name in names:
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.symlink_to("../.git/annex/missing")


def test_what_was_not_downloaded_is_skipped(tmp_path: Path) -> None:
    link_to_nowhere(
        tmp_path,
        "sub-1/dwi/sub-1_dwi.nii.gz",
        "sub-1/anat/sub-1_FLAIR.nii.gz",
        "sub-2/dwi/sub-2_run-1_dwi.nii.gz",
    )
    touch(tmp_path, "sub-2/dwi/sub-2_run-2_dwi.nii.gz")
    found = find_cases(tmp_path)
    assert [case.name for case in found.cases] == ["sub-2_run-2"]
    assert [(skip.name, skip.reason) for skip in found.skipped] == [
        ("sub-1", "sub-1_dwi.nii.gz was not downloaded"),
        ("sub-2_run-1", "sub-2_run-1_dwi.nii.gz was not downloaded"),
    ]
    assert [skip.reason for skip in find_cases(tmp_path, Modality.FLAIR).skipped] == [
        "sub-1_FLAIR.nii.gz was not downloaded",
        "no FLAIR in anat/",
    ]


def test_what_was_not_downloaded_beside_a_dwi_is_noted(tmp_path: Path) -> None:
    missing = ("dwi/sub-1_rec-TRACE_dwi", "anat/sub-1_FLAIR", "dwi/sub-1_rec-ADC_dwi")
    link_to_nowhere(tmp_path, *(f"sub-1/{name}.nii.gz" for name in missing))
    touch(tmp_path, "sub-1/dwi/sub-1_dwi.nii.gz")
    (case,) = find_cases(tmp_path).cases
    assert case.inputs == {"dwi": tmp_path / "sub-1/dwi/sub-1_dwi.nii.gz"}
    assert list(case.notes) == [
        f"{name.partition('/')[2]}.nii.gz was not downloaded, and is not used" for name in missing
    ]


@given(
    st.lists(
        st.tuples(
            st.sampled_from(["", "acq-x_", "run-1_"]),
            st.sampled_from(["", "rec-ADC_", "rec-adc_", "rec-FA_", "rec-TRACE_", "rec-x_"]),
            st.sampled_from(["dwi", "ADC", "FA", "trace", "expADC", "sbref"]),
        ),
        unique=True,
    )
)
def test_no_map_is_ever_segmented(parts: list[tuple[str, str, str]]) -> None:
    with TemporaryDirectory() as folder:
        touch(Path(folder), *(f"sub-1/dwi/sub-1_{a}{b}{c}.nii.gz" for a, b, c in parts))
        (Path(folder) / "sub-1" / "dwi").mkdir(parents=True, exist_ok=True)
        found = find_bids(Path(folder), Modality.DWI)
    names = volumes(found)
    assert bool(names) != bool(found.skipped)
    for name in names:
        assert name.endswith(("_dwi.nii.gz", "_trace.nii.gz"))
        assert "adc" not in name.lower()
        assert "rec-FA" not in name
    assert len({case.entities for case in found.cases}) == len(names)


def test_files_of_a_folder_belong_together_by_their_names(tmp_path: Path) -> None:
    touch(
        tmp_path,
        "one/p 1_dwi.nii.gz",
        "one/p 1_flair.nii.gz",
        "one/p 1_adc.nii",
        "one/p 1_b0.nii",
        "one/p 1_msk.nii",
        "p2_TRACE.nii",
        "p2_b0.nii",
        "p3_flair.nii",
        ".hidden/p4_dwi.nii",
        "one/p 1_dwi_lesion_mask.nii.gz",
        "one/p 1_dwi_cnnres_brain.nii.gz",
        "old/sub-p5_space-orig_label-lesion_desc-cnnres_probseg.nii.gz",
    )
    found = find_cases(tmp_path)
    assert [case.name for case in found.cases] == ["sub-p1", "sub-p2"]
    assert set(found.cases[0].inputs) == {"dwi", "flair", "adc"}
    assert set(found.cases[1].inputs) == {"dwi", "b0"}
    with pytest.raises(UsageError, match="no participant p4"):
        find_cases(tmp_path, participants=["p1", "p4"])
    assert not find_cases(tmp_path, participants=["p3"]).cases
    assert {skip.name for skip in found.skipped} == {"p3", "p 1_msk.nii"}


def test_files_without_such_names_are_cases_each(tmp_path: Path) -> None:
    touch(tmp_path, "a.nii", "b-1.nii.gz")
    assert [case.name for case in find_cases(tmp_path).cases] == ["sub-a", "sub-b1"]
    touch(tmp_path, "b1.nii")
    with pytest.raises(UsageError, match=r"b-1.nii.gz and .*b1.nii would both be sub-b1"):
        find_cases(tmp_path)


def test_dicom_studies_are_cases(tmp_path: Path) -> None:
    for name in ("Doe^Jane", "study 2"):
        folder = tmp_path / name / "series"
        folder.mkdir(parents=True)
        (folder / "1").write_bytes(bytes(128) + b"DICM" + bytes(100))
    with ZipFile(tmp_path / "third.zip", "w") as archive:
        archive.writestr("1", b"")
    touch(tmp_path, "empty.zip")
    found = find_cases(tmp_path)
    assert [case.name for case in found.cases] == ["sub-DoeJane", "sub-study2", "sub-third"]
    assert [skip.name for skip in found.skipped] == ["empty.zip"]
    assert find_cases(tmp_path / "study 2").cases[0].volume == tmp_path / "study 2" / "series"


def test_dicom_files_that_are_not_read_are_listed(tmp_path: Path) -> None:
    dicom = bytes(128) + b"DICM" + bytes(100)
    touch(tmp_path, "mixed/localizer.nii.gz", "DICOMDIR")
    for path in (tmp_path / "DICOMDIR", tmp_path / "mixed" / "1", tmp_path / "alone" / "1"):
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(dicom)
    found = find_cases(tmp_path)
    assert [case.name for case in found.cases] == ["sub-alone", "sub-localizer"]
    assert [(skip.name, skip.reason) for skip in found.skipped] == [
        ("mixed", "the DICOM files in it were not read, since localizer.nii.gz is there too")
    ]
    (tmp_path / "2").write_bytes(dicom)
    assert {skip.name for skip in find_cases(tmp_path).skipped} == {"mixed", tmp_path.name}


def test_of_files_for_the_same_role_the_case_names_the_one_used(tmp_path: Path) -> None:
    touch(tmp_path, "x_dwi.nii", "x_dwi.nii.gz", "x_TRACE.nii.gz", "x_adc.nii", "y_dwi.nii")
    one, two = find_cases(tmp_path).cases
    assert set(one.inputs) == {"dwi", "adc"}
    assert one.volume.name == "x_TRACE.nii.gz"
    assert one.notes == ("x_TRACE.nii.gz was used of x_TRACE.nii.gz, x_dwi.nii, x_dwi.nii.gz",)
    assert not two.notes


def test_one_file_is_a_cohort_of_one(tmp_path: Path) -> None:
    path = write_dwi(tmp_path / "x_dwi.nii.gz")
    assert volumes(find_cases(path)) == ["x_dwi.nii.gz"]


@pytest.mark.parametrize("delimiter", [",", ";", "\t"])
def test_tables(tmp_path: Path, delimiter: str) -> None:
    rows = [
        ["participant_id", "session_id", "dwi", "flair", "adc"],
        ["sub-01", "", "a b.nii", "", "n/a"],
        ["02", "ses-x", "/abs/dwi.nii", "f.nii", "m.nii"],
        ["03", "n/a", "", "f.nii", ""],
        ["", "", "", "", ""],
    ]
    table = tmp_path / "cases.csv"
    table.write_text("\ufeff" + "\r\n".join(delimiter.join(row) for row in rows), encoding="utf-8")
    one, two, three = find_cases(table).cases
    assert (one.name, one.inputs) == ("sub-01", {"dwi": tmp_path / "a b.nii"})
    assert (two.name, two.volume) == ("sub-02_ses-x", Path("/abs/dwi.nii"))
    assert set(two.inputs) == {"dwi", "flair", "adc"}
    assert (three.modality, set(three.inputs)) == (Modality.FLAIR, {"flair"})
    assert [case.name for case in find_cases(table, participants=["03"]).cases] == ["sub-03"]
    with pytest.raises(UsageError, match="no participant 99"):
        find_cases(table, participants=["03", "99"])
    with pytest.raises(UsageError, match="no session y"):
        find_cases(table, sessions=["x", "y"])
    # Without a FLAIR there is nothing to segment; the ADC map is of the DWI, and not needed.
    found = find_cases(table, Modality.FLAIR)
    assert [set(case.inputs) for case in found.cases] == [{"flair"}, {"flair"}]
    assert [(skip.name, skip.reason) for skip in found.skipped] == [
        ("sub-01", "no flair in its row")
    ]
    assert not find_cases(table, Modality.FLAIR, participants=["03"]).skipped
    assert not find_cases(table, Modality.FLAIR, sessions=["x"]).skipped


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("participant_id,dwi,flare\n1,a,b\n", "unknown column 'flare'"),
        ("dwi\na.nii\n", "columns are missing"),
        ("participant_id,dwi,dwi\n1,a,b\n", "repeated column 'dwi'"),
        ("participant_id,dwi\n01,\n", "row 2: neither dwi nor flair"),
        ("participant_id,dwi\n1,a,,\n\n2,b,c\n", "row 4: has more cells"),
        ("participant_id,flair,adc\n1,a,b\n", "row 2: adc is given without the dwi"),
        ("participant_id,dwi\n..,a.nii\n", "row 2: '..' has no letters"),
        ("participant_id,dwi\n1,a.nii\n1,b.nii\n", "would both be sub-1"),
        ("participant_id,dwi,adc,b0\n1,a,b,c\n", "row 2: .*alternatives"),
        ('participant_id,dwi\n1,"a\n', "not a table"),
        (b"participant_id,dwi\n\xff,a\n", "not UTF-8"),
        ("participant_id,dwi\n", "no images were found"),
    ],
)
def test_tables_that_are_refused(tmp_path: Path, text: str | bytes, reason: str) -> None:
    table = tmp_path / "cases.csv"
    table.write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(UsageError, match=reason):
        find_cases(table)


def test_no_input(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="does not exist"):
        find_cases(tmp_path / "nowhere")
    with pytest.raises(UsageError, match="no images"):
        find_cases(tmp_path)


@given(st.text())
def test_labels_are_safe_in_file_names(text: str) -> None:
    try:
        made = label(text, "sub-")
    except UsageError:
        return
    assert made.isascii()
    assert made.isalnum()


def test_damaged_sidecars_do_not_end_the_search(tmp_path: Path) -> None:
    touch(tmp_path, "sub-1/dwi/sub-1_dwi.nii.gz")
    for content in (b"{", b"[]", b"\xff", b"[" * 100_000, json.dumps({"ImageType": 3}).encode()):
        (tmp_path / "sub-1/dwi/sub-1_dwi.json").write_bytes(content)
        assert len(find_cases(tmp_path).cases) == 1
