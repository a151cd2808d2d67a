import subprocess
import sys

import pytest

HEAVY = {
    *("torch", "onnxruntime", "openvino", "tensorrt", "tensorrt_rtx", "cuda", "onnx"),
    *("nibabel", "scipy", "cc3d", "PIL"),
}


@pytest.mark.parametrize(
    "module", ["predictor", "engines.onnxruntime.cpu", "engines.openvino", "cli.app"]
)
def test_imports_stay_light(module: str) -> None:
    code = f"import sys, cnnres_infer.{module}; print(*{{n.split('.')[0] for n in sys.modules}})"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert not HEAVY & set(run.stdout.split())


def test_the_package_itself_needs_nothing() -> None:
    code = "import sys, cnnres_infer; print(*sys.modules)"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "numpy" not in run.stdout.split()


def test_public_names() -> None:
    import cnnres_infer

    for name in cnnres_infer.__all__:
        assert getattr(cnnres_infer, name)
    with pytest.raises(AttributeError, match="nothing"):
        cnnres_infer.nothing  # noqa: B018
