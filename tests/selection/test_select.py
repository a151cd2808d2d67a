import json
from dataclasses import replace
from pathlib import Path
from typing import Any, Self

import pytest

from cnnres_infer import Predictor, engines
from cnnres_infer.bundle.bundle import Bundle
from cnnres_infer.core.arrays import FloatArray
from cnnres_infer.core.precision import Precision
from cnnres_infer.core.provenance import EngineInfo
from cnnres_infer.engines.base import ModelFile, Probe
from cnnres_infer.engines.onnxruntime.cpu import OrtEngine
from cnnres_infer.errors import (
    BackendUnavailableError,
    EngineRunError,
    UsageError,
    VerificationError,
)
from cnnres_infer.host.cache import FOLDER
from cnnres_infer.readers.nifti.write import save_volume
from cnnres_infer.selection import select as choice
from cnnres_infer.selection.select import select
from tests.cli.test_cli import run
from tests.conftest import BundleMaker, blob_volume


class Absent(OrtEngine):
    """A backend that is not installed."""

    @classmethod
    def probe(cls) -> Probe:
        return Probe(False, "absent is not installed", "pip install absent")

    @classmethod
    def open(cls, model: ModelFile, precision: Precision, threads: int) -> Self:
        raise BackendUnavailableError("absent is not installed; to fix it: pip install absent")


class Crashing(OrtEngine):
    """A backend that opens and then fails."""

    closed = 0

    def describe(self) -> EngineInfo:
        return replace(super().describe(), backend="crashing")

    def run(self, images: FloatArray) -> FloatArray:
        raise EngineRunError("out of memory")

    def close(self) -> None:
        type(self).closed += 1
        super().close()


class Dying(OrtEngine):
    """A backend that passes its check, then loses its device during the first volume."""

    left = 0

    def describe(self) -> EngineInfo:
        return replace(super().describe(), backend="crashing")

    def run(self, images: FloatArray) -> FloatArray:
        if not type(self).left:
            raise EngineRunError("the device was lost")
        type(self).left -= 1
        return 1 - super().run(images)

    def close(self) -> None:
        super().close()
        raise RuntimeError("what is lost cannot be closed")


@pytest.fixture
def others(monkeypatch: pytest.MonkeyPatch) -> dict[str, engines.Backend]:
    """A table with two backends that are preferred to ONNX Runtime; tests may change it."""
    table = {
        "absent": engines.Backend(f"{__name__}:Absent"),
        "crashing": engines.Backend(f"{__name__}:Crashing"),
        "ort": engines.BACKENDS["ort"],
    }
    for module in (engines, choice):
        monkeypatch.setattr(module, "BACKENDS", table)
    return table


@pytest.fixture
def bundle(bright_bundle: Path) -> Bundle:
    return Bundle.open(bright_bundle)


@pytest.mark.usefixtures("others")
def test_auto_reports_what_it_skipped(bundle: Bundle) -> None:
    before = Crashing.closed
    chosen = select(bundle)
    with chosen.engine as engine:
        assert engine.describe().backend == "ort"
    assert Crashing.closed == before + 1
    absent, crashing = chosen.skipped
    assert (absent.backend, absent.precision, absent.expected) == ("absent", "auto", False)
    assert (crashing.backend, crashing.reason) == ("crashing", "out of memory")
    assert crashing.expected
    (warning,) = chosen.warnings
    assert warning.code == "W-BACKEND-PASSED"
    assert "crashing fp32 should run here" in warning.text


def test_strict_refuses_broken_but_not_absent_backends(
    bundle: Bundle, others: dict[str, engines.Backend]
) -> None:
    with pytest.raises(EngineRunError, match="out of memory"):
        select(bundle, strict=True)
    del others["crashing"]
    with select(bundle, strict=True).engine as engine:
        assert engine.describe().backend == "ort"


@pytest.mark.usefixtures("others")
def test_a_named_backend_is_never_replaced(bundle: Bundle) -> None:
    with pytest.raises(BackendUnavailableError, match="pip install absent"):
        select(bundle, "absent")
    with pytest.raises(EngineRunError, match="out of memory"):
        select(bundle, "crashing", "fp32")
    with pytest.raises(UsageError, match="choose from auto, absent"):
        select(bundle, "abacus")


@pytest.mark.usefixtures("others")
def test_without_the_check_a_broken_engine_is_selected(bundle: Bundle) -> None:
    chosen = select(bundle, check=False)
    assert isinstance(chosen.engine, Crashing)
    assert chosen.verification is None


@pytest.fixture
def dying(
    others: dict[str, engines.Backend], monkeypatch: pytest.MonkeyPatch
) -> dict[str, engines.Backend]:
    """The table with a backend that fails after two batches instead of at once."""
    others["crashing"] = engines.Backend(f"{__name__}:Dying")
    monkeypatch.setattr(Dying, "left", 2)
    return others


@pytest.mark.usefixtures("dying")
@pytest.mark.parametrize("left", [2, 6])
def test_after_a_failure_mid_volume_the_next_engine_starts_over(
    bright_bundle: Path, monkeypatch: pytest.MonkeyPatch, left: int
) -> None:
    """With six batches the DWI is complete but the FLAIR is not; one engine still does both."""
    monkeypatch.setattr(Dying, "left", left)
    volume, _ = blob_volume()
    flair = replace(volume, data=2 * volume.data)
    with Predictor.load(bright_bundle, "ort") as alone:
        expected = alone.predict(volume, flair=flair)
    with Predictor.load(bright_bundle, self_check=False) as predictor:
        assert isinstance(predictor.engine, Dying)
        result = predictor.predict(volume, flair=flair)
        later = predictor.predict(volume)
    assert Dying.left == 0
    assert (result.probabilities.data == expected.probabilities.data).all()
    for each in (result, later):
        assert each.provenance.engine.backend == "ort"
        passed = each.provenance.skipped[-1]
        assert (passed.backend, passed.reason) == ("crashing", "the device was lost")
        assert passed.expected
        assert "W-BACKEND-PASSED" in [notice.code for notice in each.warnings]
    assert [each.backend for each in result.provenance.skipped] == ["absent", "crashing"]


@pytest.mark.usefixtures("dying")
@pytest.mark.parametrize("options", [{"strict_backend": True}, {"backend": "crashing"}])
def test_strict_and_named_backends_are_not_replaced_mid_volume(
    bright_bundle: Path, options: dict[str, Any]
) -> None:
    predictor = Predictor.load(bright_bundle, self_check=False, **options)
    with pytest.raises(EngineRunError, match="the device was lost") as caught:
        predictor.predict(blob_volume()[0])
    assert caught.value.code == "E-ENGINE-RUN"


def test_a_failure_mid_volume_without_another_backend(
    bright_bundle: Path, dying: dict[str, engines.Backend]
) -> None:
    dying["ort"] = dying["absent"]
    predictor = Predictor.load(bright_bundle, self_check=False)
    for _ in range(2):
        with pytest.raises(EngineRunError, match="crashing fp32: the device was lost") as caught:
            predictor.predict(blob_volume()[0])
        assert caught.value.code == "E-ENGINE-RUN"
        assert "absent, ort: absent is not installed" in str(caught.value)


def test_no_backend_offers_the_bundles_variants(make_bundle: BundleMaker) -> None:
    bundle = Bundle.open(make_bundle(variants={"fp16": "model.fp32.onnx"}))
    with pytest.raises(BackendUnavailableError, match=r"no backend can be used: .*ort: "):
        select(bundle)


def test_skipping_a_precision_that_fails_its_check_is_reported(broken_int8_bundle: Path) -> None:
    with Predictor.load(broken_int8_bundle, "ort") as predictor:
        result = predictor.predict(blob_volume()[0])
    assert result.provenance.engine.precision == "fp32"
    assert result.provenance.verification is not None
    assert result.provenance.verification.passed
    (passed,) = [each for each in result.provenance.skipped if each.expected]
    assert (passed.backend, passed.precision, passed.expected) == ("ort", "int8", True)
    assert any("int8 should run here but was skipped" in str(each) for each in result.warnings)


def test_a_named_precision_and_strict_refuse_a_failed_check(broken_int8_bundle: Path) -> None:
    with pytest.raises(VerificationError, match="disagrees"):
        Predictor.load(broken_int8_bundle, "ort", "int8")
    with pytest.raises(VerificationError, match="disagrees"):
        Predictor.load(broken_int8_bundle, "ort", strict_backend=True)
    with Predictor.load(broken_int8_bundle, precision="fp32", strict_backend=True) as predictor:
        assert not any(each.expected for each in predictor.selection.skipped)


def test_all_engines_fail_their_checks(broken_int8_bundle: Path, tmp_path: Path) -> None:
    """The fp32 variant is broken as well, so nothing can run."""
    for path in broken_int8_bundle.iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    manifest = json.loads((tmp_path / "model.json").read_text())
    manifest["variants"]["fp32"] = manifest["variants"]["int8-cpu"]
    (tmp_path / "model.json").write_text(json.dumps(manifest))
    with pytest.raises(VerificationError, match=r"ort int8: .*; ort fp32: "):
        Predictor.load(tmp_path)


@pytest.fixture
def volume(tmp_path: Path) -> Path:
    image, _ = blob_volume()
    save_volume(tmp_path / "dwi.nii.gz", image.data, image.grid)
    return tmp_path / "dwi.nii.gz"


def test_the_command_reports_what_it_skipped(volume: Path, broken_int8_bundle: Path) -> None:
    done = run(volume, "--bundle", broken_int8_bundle, "--backend", "ort")
    assert done.returncode == 0, done.stderr
    assert "W-BACKEND-PASSED: ort int8 should run here but was skipped" in done.stdout
    report = json.loads((volume.parent / "dwi_report.json").read_text())
    assert report["engine"]["precision"] == "fp32"
    expected = [each for each in report["passed_over"] if each["expected"]]
    assert [(each["backend"], each["precision"]) for each in expected] == [("ort", "int8")]
    assert report["verification"]["dice_mean"] == 1.0
    assert report["verification"]["slices"] >= 7


@pytest.mark.parametrize("options", [["--strict-backend"], ["--precision", "int8"]])
def test_the_command_refuses(volume: Path, broken_int8_bundle: Path, options: list[str]) -> None:
    done = run(volume, "--bundle", broken_int8_bundle, "--backend", "ort", *options)
    assert done.returncode == 4
    assert "disagrees with the network on this machine" in done.stderr
    assert done.stderr.count("\n") == 1
    assert [path.name for path in volume.parent.iterdir()] == ["dwi.nii.gz"]


def test_the_command_without_the_check(volume: Path, broken_int8_bundle: Path) -> None:
    options = ("--bundle", broken_int8_bundle, "--backend", "ort")
    done = run(volume, *options, "--no-self-check", "--json")
    assert done.returncode == 0, done.stderr
    entry = json.loads(done.stdout)
    assert entry["engine"]["precision"] == "int8"
    assert "not checked" in entry["verification"]["skipped"]
    assert not any(each["expected"] for each in entry["passed_over"])


def test_the_command_stores_and_shows_the_verification(
    volume: Path, bright_bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(FOLDER, str(tmp_path / "cache"))
    options = ("--json", "--bundle", bright_bundle, "--backend", "ort")

    def verification() -> dict[str, object]:
        entry = json.loads(run(volume, "--overwrite", *options).stdout)
        found: dict[str, object] = entry["verification"]
        return found

    first, second = verification(), verification()
    assert (first["cached"], second["cached"]) == (False, True)
    assert second["key"] == first["key"]
    assert run("verify", *options).returncode == 0
    third = verification()
    assert third["cached"]
    assert third["slices"] == 10
    shown = json.loads(run("info", *options[:3]).stdout)["backends"]["ort"]["verifications"]
    assert shown["fp32"] == third
    assert "fp32: passed" in run("info", "--bundle", bright_bundle).stdout


def test_a_cache_that_cannot_be_written_is_a_warning(
    volume: Path, bright_bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv(FOLDER, str(tmp_path / "file"))
    done = run(volume, "--bundle", bright_bundle)
    assert done.returncode == 0, done.stderr
    assert "self-check could not be saved" in done.stdout
    report = json.loads((volume.parent / "dwi_report.json").read_text())
    assert report["verification"]["cached"] is False
    (warning,) = report["warnings"]
    assert warning["code"] == "W-CHECK-UNSAVED"
    assert "could not be saved" in warning["text"]
