import hashlib
import json
import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from cnnres_infer.bundle.bundle import Bundle
from cnnres_infer.core.arrays import FloatArray
from cnnres_infer.core.precision import Precision
from cnnres_infer.core.provenance import Verification
from cnnres_infer.engines.base import Engine, ModelFile, run_all
from cnnres_infer.engines.openvino import OpenVinoEngine, _openvino
from cnnres_infer.errors import BackendUnavailableError, PrecisionUnavailableError
from cnnres_infer.host.cache import FOLDER
from cnnres_infer.predictor import Predictor
from cnnres_infer.selection.offers import open_engine
from cnnres_infer.verification.agreement import load_reference
from tests.conftest import bright_model

pytest.importorskip("openvino")

IMAGES = np.random.default_rng(0).random((5, 1, 160, 160), np.float32)
EXPECTED = 1 / (1 + np.exp(-60 * (IMAGES - 0.8)))


def opened(folder: Path, precision: str = "fp32") -> Engine:
    return open_engine(Bundle.open(folder), "openvino", precision, threads=1)


def test_any_number_of_images(bright_bundle: Path) -> None:
    with opened(bright_bundle) as engine:
        for count in (5, 1, 4):
            output = engine.run(IMAGES[:count])
            np.testing.assert_allclose(output, EXPECTED[:count], atol=1e-5)
        info = engine.describe()
    assert output.dtype == np.float32
    assert (info.backend, info.provider, info.precision, info.threads) == (
        ("openvino", "CPU", "fp32", 1)
    )


def has_bfloat16() -> bool:
    try:
        OpenVinoEngine.open(ModelFile("fp32", bright_model()), Precision.BF16, 1).close()
    except PrecisionUnavailableError:
        return False
    return True


def differences(precision: str) -> FloatArray:
    # Whatever the calibration found, this is about what OpenVINO computes.
    bundle = replace(Bundle.open(), failed=frozenset())
    images, expected = load_reference(bundle)
    with open_engine(bundle, "openvino", precision) as engine:
        found: FloatArray = np.abs(run_all(engine, images[::8]) - expected[::8])
    return found


def test_float32_is_float32() -> None:
    assert differences("fp32").max() < 1e-5


@pytest.mark.skipif(not has_bfloat16(), reason="this processor has no bfloat16")
def test_bfloat16_has_a_name_of_its_own() -> None:
    assert 1e-4 < differences("bf16").max() < 0.5


def test_bfloat16_is_refused_where_it_would_be_float32(monkeypatch: pytest.MonkeyPatch) -> None:
    core = _openvino().Core
    asked = core.get_property

    def get_property(self: object, device: str, name: str) -> object:
        return ["FP32"] if name == "OPTIMIZATION_CAPABILITIES" else asked(self, device, name)

    monkeypatch.setattr(core, "get_property", get_property)
    with pytest.raises(BackendUnavailableError, match="no bfloat16"):
        OpenVinoEngine.open(ModelFile("fp32", bright_model()), Precision.BF16, 1)


def test_a_broken_model_is_refused() -> None:
    with pytest.raises(BackendUnavailableError, match="OpenVINO rejected the model"):
        OpenVinoEngine.open(ModelFile("fp32", b"no model"), Precision.FP32, 1)


def test_not_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("cnnres_infer.host.machine.versions", lambda *_names: {})
    probe = OpenVinoEngine.probe()
    assert (probe.usable, probe.reason) == (False, "openvino is not installed")
    assert probe.remedy == "pip install 'cnnres-infer[openvino]'"


def test_the_second_start_takes_the_compiled_model(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(FOLDER, str(tmp_path))
    stamps = []
    for _ in range(2):
        with OpenVinoEngine.open(ModelFile("fp32", bright_model()), Precision.FP32, 1) as engine:
            np.testing.assert_allclose(engine.run(IMAGES), EXPECTED, atol=1e-5)
        (blob,) = tmp_path.rglob("*.blob")
        stamps.append(blob.stat().st_mtime_ns)
    assert stamps[0] == stamps[1]
    assert oct(blob.parent.stat().st_mode)[-3:] == "700"


def _open(content: bytes, use_cache: bool = True) -> OpenVinoEngine:
    model = ModelFile("fp32", content, use_cache=use_cache)
    return OpenVinoEngine.open(model, Precision.FP32, 1)


def _truncate(content: bytes) -> bytes:
    return content[: len(content) // 2]


def _flip_a_byte(content: bytes) -> bytes:
    at = len(content) * 3 // 4
    return content[:at] + bytes([content[at] ^ 64]) + content[at + 1 :]


@pytest.mark.parametrize("damage", [_truncate, _flip_a_byte])
def test_a_damaged_cache_is_compiled_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, damage: Callable[[bytes], bytes]
) -> None:
    monkeypatch.setenv(FOLDER, str(tmp_path))
    _open(bright_model()).close()
    (blob,) = tmp_path.rglob("*.blob")
    blob.write_bytes(damage(blob.read_bytes()))
    with _open(bright_model()) as engine:
        np.testing.assert_allclose(engine.run(IMAGES), EXPECTED, atol=1e-5)


@pytest.mark.parametrize("with_sidecar", [False, True])
def test_the_compiled_network_of_another_bundle_is_not_used(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, with_sidecar: bool
) -> None:
    monkeypatch.setenv(FOLDER, str(tmp_path))
    _open(bright_model(level=0.3)).close()
    (others,) = tmp_path.rglob("*.blob")
    _open(bright_model()).close()
    (own,) = set(tmp_path.rglob("*.blob")) - {others}
    for suffix in (".blob", ".json")[: 1 + with_sidecar]:
        own.with_suffix(suffix).write_bytes(others.with_suffix(suffix).read_bytes())
    with _open(bright_model()) as engine:
        np.testing.assert_allclose(engine.run(IMAGES), EXPECTED, atol=1e-5)


def test_the_cache_is_not_used_where_a_signature_is_required(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever can write to the cache can forge a sidecar, but not a signature."""
    monkeypatch.setenv(FOLDER, str(tmp_path))
    _open(bright_model(level=0.3)).close()
    (others,) = tmp_path.rglob("*.blob")
    _open(bright_model()).close()
    (own,) = set(tmp_path.rglob("*.json")) - {others.with_suffix(".json")}
    own.with_suffix(".blob").write_bytes(others.read_bytes())
    forged = json.loads(own.read_text())
    forged["value"] = hashlib.sha256(others.read_bytes()).hexdigest()
    own.write_text(json.dumps(forged))
    with _open(bright_model(), use_cache=False) as engine:
        np.testing.assert_allclose(engine.run(IMAGES), EXPECTED, atol=1e-5)
        assert engine.describe().compiled_sha256 == ""


def test_what_this_processor_cannot_run_is_compiled_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(FOLDER, str(tmp_path))
    _open(bright_model()).close()

    def mismatch(*_arguments: object) -> None:
        raise RuntimeError("OpenVINO version/isa mismatch")

    monkeypatch.setattr(_openvino().Core, "import_model", mismatch)
    with _open(bright_model()) as engine:
        np.testing.assert_allclose(engine.run(IMAGES), EXPECTED, atol=1e-5)


def test_a_self_check_counts_for_the_bytes_that_passed_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, bright_bundle: Path
) -> None:
    monkeypatch.setenv(FOLDER, str(tmp_path))

    def verification() -> Verification:
        with Predictor.load(bright_bundle, "openvino", "fp32", threads=1) as predictor:
            found = predictor.selection.verification
            assert found is not None
            return found

    assert [verification().cached for _ in range(2)] == [False, True]
    (blob,) = tmp_path.rglob("*.blob")
    sidecar = blob.with_suffix(".json")
    # Other bytes of the same network, as another compilation gives them.
    blob.write_bytes(content := blob.read_bytes() + b"\0")
    sha256 = hashlib.sha256(content).hexdigest()
    sidecar.write_text(json.dumps({**json.loads(sidecar.read_text()), "value": sha256}))
    assert not verification().cached


def test_no_telemetry(bright_bundle: Path, tmp_path: Path) -> None:
    """Nothing of it is loaded, no socket is made, no file is left in the home folder."""
    code = (
        "import json, sys; from pathlib import Path; from cnnres_infer import Predictor\n"
        "from tests.conftest import blob_volume\n"
        "sockets = []\n"
        "sys.addaudithook(lambda event, _: sockets.append(event) if 'socket' in event else None)\n"
        "with Predictor.load(sys.argv[1], 'openvino') as p: p.predict(blob_volume()[0])\n"
        "loaded = [n for n in sys.modules if 'telemetry' in n or 'tools.ovc' in n]\n"
        "print(json.dumps([sockets, loaded, 'openvino' in sys.modules]))"
    )
    environment = {**os.environ, "HOME": str(tmp_path), FOLDER: str(tmp_path / "cache")}
    done = subprocess.run(
        [sys.executable, "-c", code, str(bright_bundle)],
        check=True,
        env=environment,
        cwd=Path(__file__).resolve().parents[2],
        capture_output=True,
        text=True,
    )
    assert json.loads(done.stdout) == [[], [], True]
    assert [path.name for path in tmp_path.iterdir()] == ["cache"]


def test_nothing_is_kept_from_others() -> None:
    """The converter is only out of reach while OpenVINO itself is imported."""
    code = (
        "import sys; from cnnres_infer.engines.openvino import _openvino; _openvino()\n"
        "print('openvino.tools.ovc' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"
