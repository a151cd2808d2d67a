"""The programs in `examples/` do what they show."""

import json
import runpy
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import nibabel
import numpy as np
import pytest

from cnnres_infer import Predictor
from cnnres_infer.readers.nifti.write import save_volume
from cnnres_infer.verification.agreement import dice
from tests.conftest import blob_volume, oriented_affine
from tests.threads import PATIENCE_S

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"
SHAPE = (60, 70, 20)
TILTED = oriented_affine((1, 0, 2), (-1, 1, 1), (2.5, 2.5, 5.0), (0.05, -0.1, 0.08), SHAPE)
VOLUME, BALL = blob_volume(SHAPE, TILTED)


@pytest.fixture
def dwi(tmp_path: Path) -> Path:
    path = tmp_path / "dwi.nii.gz"
    save_volume(path, VOLUME.data, VOLUME.grid)
    return path


@pytest.fixture
def bright(bright_bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the examples load a model that knows the lesions of the tests' volumes."""
    load = Predictor.load
    monkeypatch.setattr(
        Predictor, "load", lambda **options: load(bright_bundle, "ort", "fp32", 1, **options)
    )


def example(name: str) -> SimpleNamespace:
    return SimpleNamespace(**runpy.run_path(str(EXAMPLES / f"{name}.py")))


def mask_of(path: Path) -> np.ndarray[Any, Any]:
    image: Any = nibabel.load(path)
    return np.asarray(image.dataobj)


@pytest.mark.slow
def test_plain_python(dwi: Path, tmp_path: Path) -> None:
    command = [sys.executable, str(EXAMPLES / "plain_python.py"), str(dwi), str(tmp_path / "out")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    mask = Path(done.stdout.splitlines()[-1])
    assert mask_of(mask).shape == SHAPE
    assert "mask: 1 of 1" in done.stderr
    assert "INFO:cnnres_infer.selection.select:selected" in done.stderr
    again = subprocess.run(command, capture_output=True, text=True, check=False)
    assert again.returncode == 3
    assert "E-OUTPUT-EXISTS" in again.stderr


@pytest.mark.usefixtures("bright")
def test_a_bids_app(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    dataset, out = tmp_path / "bids", tmp_path / "derivatives"
    folders = [dataset / "sub-01" / "dwi", dataset / "sub-02" / "ses-1" / "dwi"]
    for folder in (*folders, dataset / "sub-03" / "dwi"):
        folder.mkdir(parents=True)
    save_volume(folders[0] / "sub-01_dwi.nii.gz", VOLUME.data, VOLUME.grid)
    save_volume(folders[1] / "sub-02_ses-1_dwi.nii.gz", VOLUME.data, VOLUME.grid)
    (dataset / "sub-03" / "dwi" / "sub-03_dwi.nii.gz").write_bytes(b"")
    main = example("bids_app").main
    call = [str(dataset), str(out), "participant"]
    assert main([*call, "--participant-label", "01", "02"]) == 0
    masks = sorted(each.relative_to(out).as_posix() for each in out.rglob("*_mask.nii.gz"))
    assert masks == [
        "sub-01/dwi/sub-01_dwi_lesion_mask.nii.gz",
        "sub-02/ses-1/dwi/sub-02_ses-1_dwi_lesion_mask.nii.gz",
    ]
    assert dice(mask_of(out / masks[0]) > 0, BALL) > 0.88
    assert json.loads((out / "dataset_description.json").read_text())["DatasetType"] == "derivative"
    assert main(call) == 1
    assert "sub-03_dwi.nii.gz: E-FILE-EMPTY" in capsys.readouterr().err
    for wrong in ([*call, "--participant-label", "9"], [str(dataset), str(dataset), "participant"]):
        with pytest.raises(SystemExit):
            main(wrong)
    assert not (dataset / "dataset_description.json").exists()


@contextmanager
def serving(app: Any) -> Iterator[str]:
    """A real server on a port of its own, in a thread."""
    import uvicorn

    server = uvicorn.Server(uvicorn.Config(app, port=0, log_level="warning"))
    thread = threading.Thread(target=server.run)
    thread.start()
    try:
        deadline = time.monotonic() + PATIENCE_S
        while not server.started and thread.is_alive() and time.monotonic() < deadline:
            time.sleep(0.01)
        yield f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}"
    finally:
        server.should_exit = True
        thread.join(PATIENCE_S)
    assert not thread.is_alive()


@pytest.mark.usefixtures("bright")
def test_a_service_shares_one_predictor_between_threads(
    dwi: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for library in ("fastapi", "uvicorn"):
        pytest.importorskip(library)
    httpx = pytest.importorskip("httpx")
    loads: list[Predictor] = []
    load: Any = Predictor.load

    def counted(**options: Any) -> Predictor:
        loads.append(load(**options))
        return loads[-1]

    monkeypatch.setattr(Predictor, "load", counted)
    service = example("fastapi_service")
    content = dwi.read_bytes()
    with serving(service.app) as url, ThreadPoolExecutor(3) as pool:
        post = partial(httpx.post, f"{url}/lesions", timeout=PATIENCE_S)
        answers = list(pool.map(lambda _: post(content=content), range(3)))
        refused = post(content=content[:-9])
    assert [each.status_code for each in answers] == [200] * 3
    assert len({each.text for each in answers}) == 1
    found = answers[0].json()
    assert np.linalg.norm(np.array(found["lesions"][0]["centre_mm"]) - (20.0, 10.0, 5.0)) < 2.5
    assert (refused.status_code, refused.json()["code"]) == (422, "E-NIFTI-TRUNCATED")
    (predictor,) = loads
    assert predictor.closed


class Matrix:
    """Stands in for VTK's."""

    elements: np.ndarray[Any, Any]


class Node:
    """Stands in for a volume node: what the example uses of one, and nothing else."""

    def __init__(self, name: str) -> None:
        self.voxels: np.ndarray[Any, Any] = np.zeros(0)
        self.name, self.affine, self.transform = name, np.eye(4), ""

    def GetName(self) -> str:
        return self.name

    def GetTransformNodeID(self) -> str:
        return self.transform

    def GetIJKToRASMatrix(self, matrix: Matrix) -> None:
        matrix.elements = self.affine

    def SetIJKToRASMatrix(self, matrix: Matrix) -> None:
        self.affine = matrix.elements

    def SetAndObserveTransformNodeID(self, transform: str) -> None:
        self.transform = transform


class Scene:
    """Stands in for the scene."""

    def __init__(self) -> None:
        self.kinds: list[str] = []

    def AddNewNodeByClass(self, kind: str, name: str) -> Node:
        self.kinds.append(kind)
        return Node(name)


@pytest.fixture
def slicer(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Stands in for Slicer, which cannot be installed from PyPI.

    Arrays are (K, J, I) and matrices map I, J, K to RAS, as Slicer documents them. Whether
    Slicer does so is not tested here; what the example makes of it is.
    """
    slicer: Any = ModuleType("slicer")
    slicer.messages, slicer.layers = [], {}
    slicer.mrmlScene = Scene()
    slicer.app = SimpleNamespace(processEvents=lambda: None)
    slicer.util = SimpleNamespace(
        arrayFromVolume=lambda node: node.voxels,
        arrayFromVTKMatrix=lambda matrix: matrix.elements,
        updateVolumeFromArray=lambda node, voxels: setattr(node, "voxels", voxels),
        setSliceViewerLayers=lambda **layers: slicer.layers.update(layers),
        showStatusMessage=slicer.messages.append,
    )
    base: Any = ModuleType("slicer.ScriptedLoadableModule")
    base.ScriptedLoadableModuleLogic = type("ScriptedLoadableModuleLogic", (), {})
    vtk: Any = ModuleType("vtk")
    vtk.vtkMatrix4x4 = Matrix
    for module in (slicer, base, vtk):
        monkeypatch.setitem(sys.modules, module.__name__, module)
    return slicer


@pytest.mark.usefixtures("bright")
def test_the_logic_of_a_slicer_module(slicer: Any) -> None:
    dwi = Node("dwi")
    dwi.voxels, dwi.affine = VOLUME.data.T, VOLUME.grid.affine
    dwi.transform = "vtkMRMLTransformNode1"
    lesions = example("slicer_module").CnnResLogic().segment(dwi)
    assert slicer.mrmlScene.kinds == ["vtkMRMLLabelMapVolumeNode"]
    assert lesions.voxels.shape == dwi.voxels.shape
    assert dice(lesions.voxels.T > 0, BALL) > 0.88
    assert np.array_equal(lesions.affine, dwi.affine)
    assert lesions.transform == dwi.transform
    assert slicer.layers == {"background": dwi, "label": lesions}
    assert slicer.messages[-1] == "CNN-Res, mask: 1 of 1"


@pytest.mark.usefixtures("bright")
def test_a_napari_reader(dwi: Path) -> None:
    """By the contract of readers: a function or None, and a list of layer data tuples."""
    reader = example("napari_reader").napari_get_reader
    assert reader("image.png") is None
    assert reader([str(dwi), str(dwi)]) is None
    layers = reader(str(dwi))(str(dwi))
    assert [kind for _, _, kind in layers] == ["image", "labels", "points"]
    (image, image_of, _), (labels, labels_of, _), (centres, points, _) = layers
    assert image.shape == labels.shape == SHAPE
    assert labels.dtype == np.uint8
    assert dice(labels > 0, BALL) > 0.88
    for each in (image_of, labels_of):
        assert np.allclose(each["affine"], TILTED)
    assert np.linalg.norm(centres[0] - (20.0, 10.0, 5.0)) < 2.5
    assert len(points["features"]["ml"]) == len(centres) == 1
