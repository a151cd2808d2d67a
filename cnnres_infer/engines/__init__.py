"""The table of backends."""

from dataclasses import dataclass
from importlib import import_module

from cnnres_infer.engines.base import Engine, Probe
from cnnres_infer.engines.nvidia.device import find_gpu
from cnnres_infer.errors import UsageError

AUTO = "auto"


@dataclass(frozen=True)
class Backend:
    """A row of the table of backends: all that is known without importing the backend.

    Attributes
    ----------
    path
        ``"module:class"`` of its engine.
    needs_gpu
        Whether it runs on an NVIDIA GPU only.
    """

    path: str
    needs_gpu: bool = False


# In order of preference.
BACKENDS = {
    "tensorrt": Backend("cnnres_infer.engines.tensorrt.engine:TensorRtEngine", needs_gpu=True),
    "tensorrt-rtx": Backend(
        "cnnres_infer.engines.tensorrt.engine:TensorRtRtxEngine", needs_gpu=True
    ),
    "ort-tensorrt": Backend(
        "cnnres_infer.engines.onnxruntime.tensorrt:OrtTensorRtEngine", needs_gpu=True
    ),
    "ort-tensorrt-rtx": Backend(
        "cnnres_infer.engines.onnxruntime.tensorrt:OrtTensorRtRtxEngine", needs_gpu=True
    ),
    "ort-cuda": Backend("cnnres_infer.engines.onnxruntime.gpu:OrtCudaEngine", needs_gpu=True),
    "openvino": Backend("cnnres_infer.engines.openvino:OpenVinoEngine"),
    "ort": Backend("cnnres_infer.engines.onnxruntime.cpu:OrtEngine"),
}
NVIDIA = tuple(name for name, row in BACKENDS.items() if row.needs_gpu)


def backend(name: str) -> type[Engine]:
    """Import a backend and return its class.

    Raises
    ------
    UsageError
        If there is no such backend.
    """
    module, _, attribute = _row(name).path.partition(":")
    engine: type[Engine] = getattr(import_module(module), attribute)
    return engine


def probe(name: str) -> Probe:
    """Check whether a backend can be used here, importing one for GPUs only if there is a GPU.

    Raises
    ------
    UsageError
        If there is no such backend.
    """
    if _row(name).needs_gpu:
        gpu = find_gpu()
        if isinstance(gpu, Probe):
            return gpu
    return backend(name).probe()


def _row(name: str) -> Backend:
    if name not in BACKENDS:
        raise UsageError(f"no backend {name!r}; choose from {', '.join((AUTO, *BACKENDS))}")
    return BACKENDS[name]
