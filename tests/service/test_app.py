"""One study in a container, as Mercure and MONAI Deploy start it."""

import json
import os
import shutil
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from cnnres_infer.errors import InputError, UsageError
from cnnres_infer.outputs.writers.report import Refusal
from cnnres_infer.service.app import find_contract, run_app
from cnnres_infer.service.contracts.mercure import Mercure
from cnnres_infer.service.contracts.monai import Monai
from cnnres_infer.service.settings import AppSettings
from tests import commands
from tests.fakes.dicom import encode
from tests.service.studies import images

PATHS = ("MERCURE_IN_DIR", "MERCURE_OUT_DIR", "HOLOSCAN_INPUT_PATH", "HOLOSCAN_OUTPUT_PATH")


def mercure_folder(folder: Path, settings: Mapping[str, Any] | None) -> Path:
    """A folder as Mercure gives it: files of series, their tags and the task."""
    folder.mkdir()
    for image in images():
        name = f"{image.SeriesInstanceUID}#{image.SOPInstanceUID}"
        (folder / f"{name}.dcm").write_bytes(encode(image))
        (folder / f"{name}.tags").write_text(json.dumps({"PatientName": "Secret^Person"}))
    if settings is not None:
        task = {"id": "1", "process": {"module_name": "cnnres", "settings": settings}}
        (folder / "task.json").write_text(json.dumps(task))
    return folder


def run(environment: Mapping[str, object], *options: object) -> subprocess.CompletedProcess[str]:
    kept = {name: value for name, value in os.environ.items() if name not in PATHS}
    given = {name: str(value) for name, value in environment.items()}
    return commands.run("cnnres_infer", "app", *options, env={**kept, **given})


@pytest.mark.slow
def test_mercure(tmp_path: Path, bright_bundle: Path) -> None:
    settings = {"bundle": str(bright_bundle), "backend": "ort", "threads": 1}
    source, target = mercure_folder(tmp_path / "in", settings), tmp_path / "out"
    before = {path.name: path.read_bytes() for path in source.iterdir()}
    # Mercure sets those of MONAI as well.
    done = run(dict(zip(PATHS, (source, target, tmp_path / "x", tmp_path / "y"), strict=True)))
    assert done.returncode == 0, done.stderr
    result = json.loads((target / "result.json").read_text())
    assert result["status"] == "done"
    assert result["lesions"] == 1
    assert result["__mercure_notification"]["requested"] is True
    assert "1 lesion" in result["__mercure_notification"]["text"]
    assert {path.name for path in target.iterdir()} == {*result["outputs"], "result.json"}
    assert "in_lesion_mask.nii.gz" in result["outputs"]
    for name in result["outputs"]:
        assert not name.endswith(".dcm") or "#" in name
    assert "Secret" not in (target / "result.json").read_text() + done.stdout + done.stderr
    assert {path.name: path.read_bytes() for path in source.iterdir()} == before


@pytest.mark.slow
def test_mercure_is_told_of_a_refusal(tmp_path: Path, bright_bundle: Path) -> None:
    source = mercure_folder(tmp_path / "in", {"bundle": str(bright_bundle), "bvalue": 3000})
    done = run(dict(zip(PATHS[:2], (source, tmp_path / "out"), strict=True)))
    assert done.returncode == 3
    assert "E-DICOM-BVALUE" in done.stderr
    result = json.loads((tmp_path / "out" / "result.json").read_text())
    assert result["status"] == "failed"
    assert result["error"]["code"] == "E-DICOM-BVALUE"


@pytest.mark.parametrize(
    ("settings", "code"),
    [({"unknown": 1}, "E-USAGE"), ({"bundle": "/nowhere"}, "E-BUNDLE"), ({"backend": "x"}, "E-")],
)
def test_mercure_is_told_what_is_wrong_with_its_settings(
    tmp_path: Path, settings: Mapping[str, Any], code: str
) -> None:
    (tmp_path / "task.json").write_text(json.dumps({"process": {"settings": settings}}))
    report = run_app(Mercure(tmp_path, tmp_path / "out"))
    assert isinstance(report.entry, Refusal)
    assert report.files == (tmp_path / "out" / "result.json",)
    result = json.loads(report.files[0].read_text())
    assert result["status"] == "failed"
    assert result["error"]["code"] == report.entry.error.code
    assert result["error"]["code"].startswith(code)
    assert result["__mercure_notification"]["requested"] is True


@pytest.mark.slow
def test_monai(tmp_path: Path) -> None:
    shutil.copytree(mercure_folder(tmp_path / "made", None), tmp_path / "work" / "study" / "deep")
    manifest = tmp_path / "app.json"
    stated = {"path": "study", "formats": []}
    environment = {"CNNRES_INFER_SETTINGS": json.dumps({"formats": ["mask", "report"]})}
    content = {"working-directory": f"{tmp_path}/work", "input": stated, "environment": environment}
    manifest.write_text(json.dumps(content))
    done = run({"HOLOSCAN_OUTPUT_PATH": tmp_path / "out"}, "--manifest", manifest)
    assert done.returncode == 0, done.stderr
    names = {path.name for path in (tmp_path / "out").iterdir()}
    assert names == {"study_lesion_mask.nii.gz", "study_report.json"}


def test_without_a_platform_it_says_what_to_set(tmp_path: Path) -> None:
    done = run({}, "--manifest", tmp_path / "none")
    assert done.returncode == 2
    assert "MERCURE_IN_DIR" in done.stderr


def test_mercure_comes_first(tmp_path: Path) -> None:
    both = {name: f"/{name}" for name in PATHS}
    assert isinstance(find_contract(both, tmp_path / "none"), Mercure)
    monai = dict.fromkeys(PATHS[2:], "/somewhere")
    assert isinstance(find_contract(monai, tmp_path / "none"), Monai)
    old = {"MONAI_INPUTPATH": "/a", "MONAI_OUTPUTPATH": "/b"}
    assert isinstance(find_contract(old, tmp_path / "none"), Monai)


@pytest.mark.parametrize("name", [PATHS[0], PATHS[1], PATHS[2], PATHS[3]])
def test_half_a_contract_is_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(UsageError, match="belong together"):
        find_contract({name: "/somewhere"}, tmp_path / "none")


def test_mercure_never_writes_to_its_input(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="the same folder"):
        find_contract(dict.fromkeys(PATHS[:2], str(tmp_path)), tmp_path / "none")


def test_folders_by_default_are_those_of_the_specification(tmp_path: Path) -> None:
    manifest = tmp_path / "app.json"
    manifest.write_text("{}")
    found = Monai.of({}, manifest)
    assert found is not None
    assert (found.source, found._target) == (Path("/var/monai/input"), Path("/var/monai/output"))
    manifest.write_text("[")
    with pytest.raises(UsageError, match="build the image again"):
        Monai.of({}, manifest)


def test_settings_of_monai_are_in_a_variable(tmp_path: Path) -> None:
    name = "CNNRES_INFER_SETTINGS"
    folders = dict(zip(PATHS[2:], map(str, (tmp_path, tmp_path / "out")), strict=True))
    manifest = tmp_path / "app.json"
    manifest.write_text(json.dumps({"environment": {name: '{"bvalue": 800}'}}))

    def settings(text: str | None, manifest: Path = manifest) -> AppSettings:
        given = folders if text is None else {**folders, name: text}
        found = Monai.of(given, manifest)
        assert found is not None
        return found.task().settings

    none = tmp_path / "none"
    assert settings(None, none) == AppSettings()
    assert settings(None).bvalue == 800.0
    assert settings('{"bvalue": 1500}').bvalue == 1500.0, "the manifest does not overrule it"
    assert settings('{"modality": "flair"}', none).modality == "flair"
    for bad in ("{", '{"unknown": 1}', "[]", '{"modality": "ct"}'):
        with pytest.raises(UsageError):
            settings(bad, none)


def test_folders_that_are_not_there_or_the_same(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no such folder"):
        Mercure(tmp_path / "none", tmp_path).task()
    with pytest.raises(UsageError, match="two folders"):
        Mercure(tmp_path, tmp_path).task()


def test_settings_of_a_step_or_of_none(tmp_path: Path) -> None:
    contract = Mercure(tmp_path, tmp_path / "out")
    assert contract.task().settings == AppSettings()
    step = {"settings": {"modality": "flair", "series": 7, "bvalue": 1000, "max_memory": "2G"}}
    for process in (step, [step]):
        (tmp_path / "task.json").write_text(json.dumps({"process": process}))
        settings = contract.task().settings
        assert (settings.modality, settings.series, settings.bvalue) == ("flair", ("7",), 1000.0)
        assert settings.limits.max_memory == 1 << 31


@pytest.mark.parametrize(
    "settings",
    [
        {"unknown": 1}, {"modality": "ct"}, {"bvalue": "1000"}, {"threads": 0}, {"threads": True},
        {"formats": ["nothing"]}, {"formats": []}, {"timeout": -1}, {"max_memory": "much"},
        {"series": [None]}, {"backend": None}, ["modality"],
    ],
)  # fmt: skip
def test_bad_settings_are_refused(tmp_path: Path, settings: Any) -> None:
    (tmp_path / "task.json").write_text(json.dumps({"process": {"settings": settings}}))
    with pytest.raises(UsageError):
        Mercure(tmp_path, tmp_path / "out").task()


def test_a_task_that_cannot_be_read_is_refused(tmp_path: Path) -> None:
    (tmp_path / "task.json").write_text("{")
    with pytest.raises(UsageError, match="write it again"):
        Mercure(tmp_path, tmp_path / "out").task()
