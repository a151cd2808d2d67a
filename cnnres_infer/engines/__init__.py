"""The table of backends."""

from importlib import import_module

from cnnres_infer.engines.base import Engine, Probe
from cnnres_infer.engines.nvidia.device import find_gpu
from cnnres_infer.errors import UsageError

AUTO = "auto"
BACKENDS = {
    "tensorrt": "cnnres_infer.engines.tensorrt.engine:TensorRtEngine",
    "tensorrt-rtx": "cnnres_infer.engines.tensorrt.engine:TensorRtRtxEngine",
    "ort-tensorrt": "cnnres_infer.engines.onnxruntime.gpu:OrtTensorRtEngine",
    "ort-tensorrt-rtx": "cnnres_infer.engines.onnxruntime.gpu:OrtTensorRtRtxEngine",
    "ort-cuda": "cnnres_infer.engines.onnxruntime.gpu:OrtCudaEngine",
    "openvino": "cnnres_infer.engines.openvino:OpenVinoEngine",
    "ort": "cnnres_infer.engines.onnxruntime.cpu:OrtEngine",
}
NVIDIA = ("tensorrt", "tensorrt-rtx", "ort-tensorrt", "ort-tensorrt-rtx", "ort-cuda")


def backend(name: str) -> type[Engine]:
    """Class of a backend; its module is imported only here.

    Raises
    ------
    UsageError
        If there is no such backend.
    """
    if name not in BACKENDS:
        raise UsageError(f"no backend {name!r}; choose from {', '.join((AUTO, *BACKENDS))}")
    module, _, attribute = BACKENDS[name].partition(":")
    engine: type[Engine] = getattr(import_module(module), attribute)
    return engine


def probe(name: str) -> Probe:
    """Tell whether a backend can be used here; without a GPU, those for GPUs are not even imported.

    Raises
    ------
    UsageError
        If there is no such backend.
    """
    if name in NVIDIA:
        gpu = find_gpu()
        if isinstance(gpu, Probe):
            return gpu
    return backend(name).probe()
