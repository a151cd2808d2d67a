"""Triton model repositories, read as Triton reads them, and the example of a client."""

import hashlib
import json
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
from google.protobuf import text_format
from tritonclient.grpc import model_config_pb2

from cnnres_infer.bundle.bundle import Bundle
from cnnres_infer.engines.tensorrt.store import PlanKey, PlanStore
from cnnres_infer.errors import BundleError, OutputExistsError, UsageError
from cnnres_infer.predictor import Predictor
from cnnres_infer.readers.nifti.write import save_volume
from export.triton import write_repository
from tests import commands
from tests.conftest import blob_volume

ROOT = Path(__file__).resolve().parents[2]


def parsed(folder: Path) -> Any:
    """The configuration of a model, by NVIDIA's own definition of it."""
    text = (folder / "config.pbtxt").read_text()
    return text_format.Parse(text, model_config_pb2.ModelConfig())


def test_the_built_in_model(default_bundle: Path, tmp_path: Path) -> None:
    bundle = Bundle.open(default_bundle)
    names = write_repository(bundle, tmp_path)
    assert names == [
        "cnnres_dwi_flair_fp32",
        "cnnres_dwi_flair_fp16",
        "cnnres_dwi_flair_fp32_cpu",
    ]
    assert {path.name for path in tmp_path.iterdir()} == set(names)
    for name, variant in zip(names, ("fp32", "fp16", "fp32-cpu"), strict=True):
        model = parsed(tmp_path / name)
        assert (model.name, model.platform) == (name, "onnxruntime_onnx")
        assert (tmp_path / name / "1" / "model.onnx").read_bytes() == bundle.model(variant)
        (image,), (output,) = model.input, model.output
        assert (image.name, list(image.dims)) == ("images", [1, -1, -1])
        assert image.data_type == model_config_pb2.TYPE_FP32
        assert (output.name, list(output.dims)) == ("probabilities", [1, -1, -1])
        assert model.max_batch_size == 16
        assert list(model.dynamic_batching.preferred_batch_size) == [8, 16]
        assert model.dynamic_batching.max_queue_delay_microseconds > 0
        kind = model_config_pb2.ModelInstanceGroup.Kind.Name(model.instance_group[0].kind)
        assert kind == ("KIND_CPU" if variant == "fp32-cpu" else "KIND_AUTO")
        sides = bundle.spec.slices.sides
        warm = {
            (each.batch_size, *each.inputs["images"].dims, each.inputs["images"].zero_data)
            for each in model.model_warmup
        }
        assert warm == {
            (size, 1, side, side, True) for size in (1, 8, 16) for side in (sides[0], sides[-1])
        }


def test_whole_slices_have_their_size(bright_bundle: Path, tmp_path: Path) -> None:
    (name,) = write_repository(Bundle.open(bright_bundle), tmp_path)
    model = parsed(tmp_path / name)
    assert list(model.input[0].dims) == [1, 160, 160]
    assert len(model.model_warmup) == 3
    with pytest.raises(OutputExistsError):
        write_repository(Bundle.open(bright_bundle), tmp_path)
    with pytest.raises(BundleError, match="no variant"):
        write_repository(Bundle.open(bright_bundle), tmp_path / "new", ["int8-trt"])
    assert not (tmp_path / "new").exists()


def key(bundle: Bundle, **changes: str) -> PlanKey:
    known = {
        "backend": "tensorrt",
        "version": "10.16.1",
        "onnx_sha256": bundle.sha256[bundle.variants["fp32"]],
        "precision": "fp16",
        "batch": "1,4,12",
        "flags": "",
        "sm": "86",
        "gpu": "any",
        "driver": "any",
        "cuda": "any",
        "system": "linux",
        "architecture": "x86_64",
    }
    return PlanKey(**{**known, **changes})


def test_engines_of_the_cache(bright_bundle: Path, tmp_path: Path) -> None:
    bundle, store = Bundle.open(bright_bundle), PlanStore(tmp_path / "plans")
    plan = store.put(key(bundle), b"engine", 1.0)
    names = write_repository(bundle, tmp_path / "repository", plan=plan)
    assert names == ["bright_fp32", "bright_fp16_plan"]
    model = parsed(tmp_path / "repository" / "bright_fp16_plan")
    assert model.platform == "tensorrt_plan"
    assert model.max_batch_size == 12
    assert list(model.dynamic_batching.preferred_batch_size) == [4, 12]
    served = tmp_path / "repository" / "bright_fp16_plan" / "1" / "model.plan"
    assert served.read_bytes() == b"engine"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"backend": "tensorrt-rtx"}, "Triton runs engines of TensorRT"),
        ({"onnx_sha256": hashlib.sha256(b"").hexdigest()}, "of another model"),
        ({"batch": "4,8,16"}, "--batch 1,"),
    ],
)
def test_engines_that_triton_cannot_use_are_refused(
    bright_bundle: Path, tmp_path: Path, changes: dict[str, str], message: str
) -> None:
    bundle = Bundle.open(bright_bundle)
    plan = PlanStore(tmp_path).put(key(bundle, **changes), b"engine", 1.0)
    with pytest.raises((UsageError, BundleError), match=message):
        write_repository(bundle, tmp_path / "repository", plan=plan)
    plan.write_bytes(b"altered")
    with pytest.raises(UsageError, match="not an engine with its sidecar"):
        write_repository(bundle, tmp_path / "repository", plan=plan)


class Server(BaseHTTPRequestHandler):
    """As much of Triton as an inference takes; the network runs in ONNX Runtime."""

    session: onnxruntime.InferenceSession

    def do_POST(self) -> None:
        assert self.path == "/v2/models/bright_fp32/infer"
        content = self.rfile.read(int(self.headers["Content-Length"]))
        length = int(self.headers["Inference-Header-Content-Length"])
        (tensor,) = json.loads(content[:length])["inputs"]
        assert tensor["datatype"] == "FP32"
        assert tensor["parameters"]["binary_data_size"] == len(content) - length
        images = np.frombuffer(content, "<f4", offset=length).reshape(tensor["shape"])
        (values,) = self.session.run(["probabilities"], {tensor["name"]: images})
        output = {"name": "probabilities", "datatype": "FP32", "shape": values.shape}
        output["parameters"] = {"binary_data_size": values.nbytes}
        head = json.dumps({"outputs": [output]}).encode()
        self.send_response(200)
        self.send_header("Inference-Header-Content-Length", str(len(head)))
        self.end_headers()
        self.wfile.write(head + values.tobytes())

    def log_message(self, *_: object) -> None: ...


@pytest.fixture
def server(bright_bundle: Path, tmp_path: Path) -> Iterator[str]:
    (name,) = write_repository(Bundle.open(bright_bundle), tmp_path / "repository")
    Server.session = onnxruntime.InferenceSession(
        tmp_path / "repository" / name / "1" / "model.onnx", providers=["CPUExecutionProvider"]
    )
    with ThreadingHTTPServer(("127.0.0.1", 0), Server) as served:
        thread = threading.Thread(target=served.serve_forever, daemon=True)
        thread.start()
        yield f"http://127.0.0.1:{served.server_address[1]}"
        served.shutdown()


def test_the_client_makes_the_same_mask(server: str, bright_bundle: Path, tmp_path: Path) -> None:
    volume, _ = blob_volume()
    path = tmp_path / "dwi.nii.gz"
    save_volume(path, volume.data, volume.grid)
    client = [sys.executable, str(ROOT / "examples" / "triton_client.py"), str(path)]
    options = ["-o", str(tmp_path / "out"), "--model", "bright_fp32", "--server", server]
    done = subprocess.run(
        [*client, *options, "--bundle", str(bright_bundle)],
        capture_output=True,
        text=True,
        check=False,
        cwd=ROOT,
    )
    assert done.returncode == 0, done.stderr
    with Predictor.load(bright_bundle, "ort", "fp32", self_check=False) as predictor:
        expected = predictor.predict(path).save(tmp_path / "expected")["mask"]
    mask = tmp_path / "out" / "dwi_lesion_mask.nii.gz"
    assert mask.read_bytes() == expected.read_bytes()


@pytest.mark.slow
def test_the_command(bright_bundle: Path, tmp_path: Path) -> None:
    out = tmp_path / "repository"
    done = commands.run("export", "triton", bright_bundle, "--out", out, "--variant", "fp32")
    assert done.returncode == 0, done.stderr
    assert parsed(out / "bright_fp32").name == "bright_fp32"
