"""The log: silent by default, useful to whoever asks for it, and without anybody's name."""

import logging
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from cnnres_infer import Predictor, engines
from cnnres_infer.core.arrays import FloatArray
from cnnres_infer.core.provenance import EngineInfo
from cnnres_infer.engines import BACKENDS, Backend
from cnnres_infer.engines.onnxruntime.cpu import OrtEngine
from cnnres_infer.errors import EngineRunError, InputError
from cnnres_infer.readers.nifti.write import save_volume
from cnnres_infer.selection import select as selection
from tests.conftest import BundleMaker, blob_volume

NAME = "Hildegard_Doe"


class Lost(OrtEngine):
    """Fails, and blames a file of the user."""

    def describe(self) -> EngineInfo:
        return replace(super().describe(), backend="lost")

    def run(self, images: FloatArray) -> FloatArray:
        raise EngineRunError(f"/home/{NAME}/.cache/kernel.bin is damaged")


@pytest.fixture
def log(caplog: pytest.LogCaptureFixture) -> Iterator[pytest.LogCaptureFixture]:
    with caplog.at_level(logging.DEBUG, "cnnres_infer"):
        yield caplog


def messages(log: pytest.LogCaptureFixture, level: int = logging.DEBUG) -> str:
    return "\n".join(each.getMessage() for each in log.records if each.levelno >= level)


def test_a_volume_tells_engine_stages_and_warnings(
    bright_bundle: Path, log: pytest.LogCaptureFixture
) -> None:
    volume, _ = blob_volume(radius_mm=0.1)
    with Predictor.load(bright_bundle, "ort", "fp32", threads=1) as predictor:
        predictor.predict(volume)
    assert all(each.name.startswith("cnnres_infer.") for each in log.records)
    text = messages(log)
    assert "selected ort fp32 (CPUExecutionProvider, 1 threads, checked" in text
    assert "segmented 60 x 70 x 20 voxels in " in text
    assert all(f"{stage} " in text for stage in ("read", "brain", "slices", "engine", "mask"))
    assert messages(log, logging.WARNING) == "W-MASK-EMPTY: no lesion was found"


def test_a_change_of_engines_is_a_warning(
    bright_bundle: Path, log: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    table = {"lost": Backend(f"{__name__}:Lost"), "ort": BACKENDS["ort"]}
    for module in (engines, selection):
        monkeypatch.setattr(module, "BACKENDS", table)
    with Predictor.load(bright_bundle, precision="fp32", self_check=False) as predictor:
        predictor.predict(blob_volume()[0])
    warnings = messages(log, logging.WARNING)
    assert "lost fp32 failed (E-ENGINE-RUN); trying the next" in warnings
    assert "selected ort fp32" in messages(log)
    assert NAME not in messages(log)


def test_no_record_names_the_user_or_the_patient(
    make_bundle: BundleMaker, log: pytest.LogCaptureFixture, tmp_path: Path
) -> None:
    volume, _ = blob_volume(radius_mm=0.1)
    folder = tmp_path / NAME
    folder.mkdir()
    bundle = make_bundle().rename(folder / "bundle")
    path = folder / f"{NAME}.nii.gz"
    save_volume(path, volume.data, volume.grid)
    flair = folder / f"{NAME}_flair.nii.gz"
    save_volume(flair, 2 * volume.data, volume.grid)
    with Predictor.load(bundle, "ort", "fp32") as predictor:
        predictor.predict(path, flair=flair).save(folder / "out")
    assert "W-MASK-EMPTY" in messages(log)
    for record in log.records:
        assert NAME not in f"{record.getMessage()} {record.args}"
        assert str(tmp_path) not in record.getMessage()


def test_no_record_names_the_patient_of_a_study(
    log: pytest.LogCaptureFixture, tmp_path: Path
) -> None:
    pytest.importorskip("pydicom")
    from cnnres_infer.core.case import Modality
    from cnnres_infer.readers import load_case
    from tests.fakes.dicom import classic_images, save, siemens
    from tests.readers.dicom.scans import B0, TRACE

    study = tmp_path / NAME
    study.mkdir()
    images = classic_images([B0, TRACE], siemens)
    for image in images:
        image.PatientName = NAME.replace("_", "^")
    save(study, images)
    first = next(each for each in study.rglob("*") if each.is_file())
    (study / f"{NAME}.dcm").write_bytes(first.read_bytes()[:400])
    (study / f"{NAME}.txt").write_text("notes")
    (study / "DICOMDIR").write_text("index")
    with pytest.raises(InputError):
        load_case(study, Modality.DWI)
    text = messages(log)
    assert "2 files skipped: not DICOM images" in text
    assert "a file cannot be used: E-" in text
    assert "Doe" not in text
    assert str(tmp_path) not in text


@pytest.mark.parametrize("configure", ["", "logging.basicConfig(); "])
def test_nothing_is_printed_unless_logging_is_configured(
    bright_bundle: Path, configure: str
) -> None:
    code = (
        f"import logging; {configure}import cnnres_infer, numpy\n"
        "from tests.conftest import blob_volume\n"
        f"with cnnres_infer.Predictor.load({str(bright_bundle)!r}, 'ort', 'fp32') as predictor:\n"
        "    predictor.predict(blob_volume(radius_mm=0.1)[0])\n"
    )
    run = [sys.executable, "-c", code]
    done = subprocess.run(run, capture_output=True, text=True, check=True)
    assert done.stdout == ""
    assert ("WARNING:cnnres_infer.predictor:W-MASK-EMPTY" in done.stderr) == bool(configure)
    assert bool(done.stderr) == bool(configure)


def test_the_command_line_prints_what_engines_warn_of() -> None:
    code = (
        "import logging, sys; from cnnres_infer.cli import app\n"
        "app.app = lambda **_: [\n"
        "    logging.getLogger('cnnres_infer.engines.openvino').warning('takes %s', 'minutes'),\n"
        "    logging.getLogger('cnnres_infer.predictor').warning('in the report'),\n"
        "]\n"
        "app.run()"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stderr == "cnnres-infer: takes minutes\n"
