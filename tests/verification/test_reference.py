import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from typer.testing import CliRunner

from cnnres_infer.bundle.bundle import Bundle
from cnnres_infer.cli.app import app
from cnnres_infer.core.arrays import FloatArray
from cnnres_infer.core.case import Case, Modality
from cnnres_infer.core.grid import Grid
from cnnres_infer.core.volume import Volume
from cnnres_infer.engines.onnxruntime.cpu import OrtEngine
from cnnres_infer.errors import ReferenceFileError, VerificationError
from cnnres_infer.readers.case import read_case
from cnnres_infer.readers.nifti.write import save_volume
from cnnres_infer.selection.offers import open_engine
from cnnres_infer.verification.recording import record_case
from cnnres_infer.verification.reference import VolumeReference, compare_volume
from tests.cli.test_cli import run
from tests.conftest import BundleMaker, blob_volume, oriented_affine


def store(folder: Path, case: Case, path: Path) -> Path:
    """Store the outputs of a bundle's network for a case, with ONNX Runtime in place of PyTorch."""
    bundle = Bundle.open(folder)
    with open_engine(bundle, "ort", "fp32") as engine:
        stored = VolumeReference.of(record_case(bundle, engine, case), bundle, engine, case)
    path.write_bytes(stored.to_bytes())
    return path


@pytest.fixture
def volume(tmp_path: Path) -> Path:
    image, _ = blob_volume()
    save_volume(tmp_path / "dwi.nii.gz", image.data, image.grid)
    return tmp_path / "dwi.nii.gz"


@pytest.fixture
def reference(volume: Path, bright_bundle: Path, tmp_path: Path) -> Path:
    return store(bright_bundle, read_case(volume), tmp_path / "ref.npz")


@pytest.mark.parametrize(("order", "signs"), [((0, 1, 2), (-1, 1, 1)), ((2, 0, 1), (1, -1, -1))])
def test_a_recording_contains_the_slices_with_their_outputs(
    bright_bundle: Path, order: tuple[int, ...], signs: tuple[int, ...]
) -> None:
    shape = (30, 30, 30)
    affine = oriented_affine(order, signs, (5.0, 5.0, 5.0), shape=shape)
    image, ball = blob_volume(shape, affine)
    bundle = Bundle.open(bright_bundle)
    with open_engine(bundle, "ort", "fp32") as engine:
        recording = record_case(bundle, engine, Case(Modality.DWI, image))
    assert recording.images.shape == (len(recording.names), 1, 160, 160)
    assert recording.output.shape == recording.images.shape
    assert np.array_equal(recording.output >= 0.5, recording.images >= 0.8)
    lesion = np.flatnonzero(recording.output.max(axis=(1, 2, 3)) >= 0.5)
    named = {int(recording.names[i].split()[-1]) for i in lesion}
    rows, columns, _ = image.grid.orientation.axes
    assert named == set(np.flatnonzero(ball.any(axis=(rows, columns))))
    assert recording.mask.data.any()


def test_two_modalities_are_recorded_in_sequence(bright_bundle: Path) -> None:
    image, _ = blob_volume()
    case = Case(Modality.DWI, image, flair=replace(image, data=2 * image.data))
    bundle = Bundle.open(bright_bundle)
    with open_engine(bundle, "ort", "fp32") as engine:
        names = record_case(bundle, engine, case).names
    half = len(names) // 2
    assert [n.split()[0] for n in names] == ["dwi"] * half + ["flair"] * half
    assert [n.split()[-1] for n in names[:half]] == [n.split()[-1] for n in names[half:]]


def test_two_channels_are_recorded_in_one_pass(make_bundle: BundleMaker) -> None:
    image, _ = blob_volume()
    case = Case(Modality.DWI, image, flair=replace(image, data=2 * image.data))
    bundle = Bundle.open(make_bundle(channels=2))
    with open_engine(bundle, "ort", "fp32") as engine:
        recording = record_case(bundle, engine, case)
    assert recording.images.shape[1] == 2
    assert recording.names[0].startswith("dwi and flair slice ")


def test_a_reference_survives_a_round_trip(reference: Path) -> None:
    stored = VolumeReference.load(reference)
    assert stored.to_bytes() == VolumeReference.load(reference).to_bytes()
    assert stored.mask.any()
    assert stored.mask.shape == (60, 70, 20)
    assert set(stored.volumes) == {"dwi"}
    with np.load(reference, allow_pickle=False) as archive:
        assert set(archive) == {"about", "probabilities", "mask"}


def test_the_volume_of_the_reference_passes(
    volume: Path, reference: Path, bright_bundle: Path
) -> None:
    done = run("verify", volume, "--reference", reference, "--bundle", bright_bundle, "--json")
    assert done.returncode == 0, done.stderr
    entry = json.loads(done.stdout)
    assert entry["status"] == "passed"
    assert entry["agreement"]["dice_volume_mask"] == 1.0
    assert entry["agreement"]["dice_min"] == 1.0
    assert len(entry["agreement"]["slice_names"]) == entry["agreement"]["slices"]
    assert "dwi" in entry["subject"]


def test_file_format_and_compression_do_not_matter(
    volume: Path, reference: Path, bright_bundle: Path, tmp_path: Path
) -> None:
    image, _ = blob_volume()
    save_volume(tmp_path / "plain.nii", image.data.astype(np.int16), image.grid)
    options = ("--reference", reference, "--bundle", bright_bundle)
    done = run("verify", tmp_path / "plain.nii", *options)
    assert done.returncode == 0, done.stderr
    assert "Dice of the volume's masks" in done.stdout


def another_voxel(volume: Volume) -> Volume:
    data = volume.data.copy()
    data[30, 30, 10] += 1
    return Volume(data, volume.grid)


def another_grid(volume: Volume) -> Volume:
    affine = volume.grid.affine.copy()
    affine[0, 3] += 1
    return Volume(volume.data, Grid(volume.grid.shape, affine))


@pytest.mark.parametrize(
    ("change", "message"), [(another_voxel, "voxels differ"), (another_grid, "grid differs")]
)
def test_another_volume_is_refused(
    reference: Path,
    bright_bundle: Path,
    tmp_path: Path,
    change: Callable[[Volume], Volume],
    message: str,
) -> None:
    other = change(blob_volume()[0])
    save_volume(tmp_path / "other.nii.gz", other.data, other.grid)
    options = ("--reference", reference, "--bundle", bright_bundle)
    done = run("verify", tmp_path / "other.nii.gz", *options)
    assert done.returncode == 3
    assert message in done.stderr
    assert done.stderr.count("\n") == 1
    assert done.stdout == ""


def test_another_model_is_refused(volume: Path, reference: Path, make_bundle: BundleMaker) -> None:
    threshold = make_bundle(mask={"threshold": 0.4, "smallest_lesion_ml": 0.0})
    done = run("verify", volume, "--reference", reference, "--bundle", threshold)
    assert done.returncode == 3
    assert "different: mask)" in done.stderr
    weights = run("verify", volume, "--reference", reference)
    assert weights.returncode == 3
    assert "different: weights" in weights.stderr


def test_a_change_outside_the_network_does_not_matter(
    volume: Path, reference: Path, make_bundle: BundleMaker
) -> None:
    later = make_bundle(accuracy={"patients": 1})
    assert run("verify", volume, "--reference", reference, "--bundle", later).returncode == 0


def test_other_modalities_are_refused(reference: Path, volume: Path, bright_bundle: Path) -> None:
    stored, bundle = VolumeReference.load(reference), Bundle.open(bright_bundle)
    with pytest.raises(ReferenceFileError, match="made for a dwi volume, not for flair"):
        stored.check(bundle, read_case(volume, modality=Modality.FLAIR))
    with pytest.raises(ReferenceFileError, match="made for dwi, not for dwi and flair"):
        stored.check(bundle, read_case(volume, flair=volume))
    with pytest.raises(ReferenceFileError, match="brain mask"):
        stored.check(bundle, read_case(volume, brain_mask=volume))


def test_the_modalities_of_the_reference_are_used(
    volume: Path, bright_bundle: Path, tmp_path: Path
) -> None:
    options = ("--bundle", bright_bundle, "--json")
    flair = store(bright_bundle, read_case(volume, modality=Modality.FLAIR), tmp_path / "flair.npz")
    alone = run("verify", volume, "--reference", flair, *options)
    assert alone.returncode == 0, alone.stderr
    assert json.loads(alone.stdout)["agreement"]["slice_names"][0].startswith("flair slice")
    image, _ = blob_volume()
    other = tmp_path / "other.nii.gz"
    save_volume(other, 2 * image.data, image.grid)
    pair = store(bright_bundle, read_case(volume, flair=other), tmp_path / "pair.npz")
    assert run("verify", volume, "--reference", pair, *options).returncode == 3
    both = run("verify", volume, "--flair", other, "--reference", pair, *options)
    assert both.returncode == 0, both.stderr


@pytest.mark.parametrize("extra", [["--flair", "x.nii"], ["--reference", "x.npz"], ["x.nii"]])
def test_a_volume_and_its_reference_are_needed_together(extra: list[str]) -> None:
    done = run("verify", *extra)
    assert done.returncode == 2
    assert "both" in done.stderr
    assert "reference" in done.stderr


@pytest.mark.parametrize(
    "breakage",
    [
        lambda output: output * 0.5,
        lambda output: np.roll(output, 1, axis=3),
        lambda output: np.full_like(output, np.nan),
    ],
)
def test_a_broken_engine_fails(
    volume: Path,
    reference: Path,
    bright_bundle: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    breakage: Callable[[FloatArray], FloatArray],
) -> None:
    honest = OrtEngine.run
    monkeypatch.setattr(OrtEngine, "run", lambda self, images: breakage(honest(self, images)))
    arguments = ["verify", str(volume), "--reference", str(reference)]
    arguments += ["--backend", "ort", "--bundle", str(bright_bundle)]
    arguments += ["--html", str(tmp_path / "r.html")]
    done = CliRunner().invoke(app, arguments)
    assert done.exit_code == 4, done.output
    assert "Failed: ort in fp32" in (tmp_path / "r.html").read_text(encoding="utf-8")


def test_other_slices_than_in_the_reference_fail(
    volume: Path, reference: Path, bright_bundle: Path
) -> None:
    bundle, case = Bundle.open(bright_bundle), read_case(volume)
    stored = VolumeReference.load(reference)
    fewer = VolumeReference(
        stored.network, Modality.DWI, stored.volumes, {}, stored.probabilities[1:], stored.mask
    )
    with (
        open_engine(bundle, "ort", "fp32") as engine,
        pytest.raises(VerificationError, match="brain mask differs"),
    ):
        compare_volume(engine, bundle, case, fewer)


def test_a_missing_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ReferenceFileError, match="No such file") as caught:
        VolumeReference.load(tmp_path / "none.npz")
    assert caught.value.code == "E-REFERENCE"


@given(st.data())
def test_a_damaged_file_is_refused_or_read_correctly(
    tmp_path_factory: pytest.TempPathFactory, damaged: st.DataObject
) -> None:
    stored = VolumeReference(
        {}, Modality.DWI, {}, {}, np.zeros((1, 1, 2, 2), np.float32), np.zeros((2, 2, 1), np.uint8)
    )
    content = bytearray(stored.to_bytes())
    place = damaged.draw(st.integers(0, len(content) - 1))
    content[place] ^= damaged.draw(st.integers(1, 255))
    path = tmp_path_factory.mktemp("damaged") / "ref.npz"
    path.write_bytes(content[: damaged.draw(st.integers(0, len(content)))])
    try:
        read = VolumeReference.load(path)
    except ReferenceFileError:
        return
    assert read.to_bytes() == stored.to_bytes()


def test_pickles_and_other_formats_are_refused(reference: Path, tmp_path: Path) -> None:
    with np.load(reference) as archive:
        parts = dict(archive)
    about = json.loads(str(parts["about"]))
    for name, changed in {
        "format": {**parts, "about": np.array(json.dumps({**about, "format": 2}))},
        "pickle": {**parts, "about": np.array([about], dtype=object)},
        "shape": {**parts, "mask": parts["mask"][0]},
        "missing": {"about": parts["about"]},
    }.items():
        path = tmp_path / f"{name}.npz"
        np.savez(path, **changed)
        with pytest.raises(ReferenceFileError, match="not a file of PyTorch outputs"):
            VolumeReference.load(path)
