"""A second reader is a module and a row: nothing else needs to know it."""

import sys
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType

import pytest

from cnnres_infer import Predictor, readers
from cnnres_infer.batch import CaseReport, Job
from cnnres_infer.core.case import Case, Modality
from cnnres_infer.core.volume import Volume
from cnnres_infer.outputs.writers import DEFAULT_FORMATS
from cnnres_infer.readers import Reader, case_name, load_volume
from tests.conftest import blob_volume

MAGIC = b"STUDY"


class StudyReader(ModuleType):
    """Reads folders that hold a file ``study``, and files that begin with a magic word."""

    @staticmethod
    def recognises(path: Path, head: bytes) -> bool:
        return head.startswith(MAGIC) or (path / "study").is_file()

    @staticmethod
    def case_name(path: Path) -> str:
        return f"study-{path.name}"

    @classmethod
    def load_volume(cls, path: Path, *_options: object, **_more: object) -> Volume:
        volume, _ = blob_volume()
        return Volume(volume.data, volume.grid, cls.case_name(path))

    @classmethod
    def load_case(cls, path: Path, modality: Modality, *_options: object) -> Case:
        volume = cls.load_volume(path)
        return Case(modality, volume, flair=Volume(2 * volume.data, volume.grid, "its-flair"))


@dataclass
class Study:
    folder: Path
    file: Path


@pytest.fixture
def study(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Study:
    monkeypatch.setitem(sys.modules, "study_reader", StudyReader("study_reader"))
    monkeypatch.setitem(readers.READERS, "study", Reader("study_reader"))
    folder = tmp_path / "scan"
    folder.mkdir()
    (folder / "study").write_bytes(b"")
    file = tmp_path / "scan.dat"
    file.write_bytes(MAGIC)
    return Study(folder, file)


def test_readers_are_chosen_by_content(study: Study) -> None:
    for path in (study.folder, study.file):
        assert load_volume(path).name == case_name(path) == f"study-{path.name}"


def test_a_case_comes_whole_from_its_reader(study: Study, bright_bundle: Path) -> None:
    with Predictor.load(bright_bundle, "ort", self_check=False) as predictor:
        result = predictor.predict(study.folder)
    assert result.provenance.inputs == {"dwi": "study-scan", "flair": "its-flair"}


def test_a_batch_takes_what_a_reader_takes(
    study: Study, bright_bundle: Path, tmp_path: Path
) -> None:
    job = Job(out=tmp_path / "out")
    job.check([study.folder, study.file])
    with Predictor.load(bright_bundle, "ort", self_check=False) as predictor:
        reports = list(job.run(predictor, [study.folder, study.file]))
    assert all(isinstance(report, CaseReport) for report in reports)
    names = {path.name for path in (tmp_path / "out").iterdir()}
    assert len(names) == 2 * len(DEFAULT_FORMATS)
    assert "study-scan_lesion_mask.nii.gz" in names
