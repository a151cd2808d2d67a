"""The table of backends, and the one place that opens them."""

from importlib import import_module

import numpy as np

from cnnres_infer.bundle.bundle import Bundle
from cnnres_infer.core.volume import FloatArray
from cnnres_infer.engines.base import Engine, EngineInfo, Probe
from cnnres_infer.engines.nvidia.device import find_gpu
from cnnres_infer.errors import BackendUnavailableError, UsageError
from cnnres_infer.host.machine import usable_cores

__all__ = [
    "AUTO",
    "BACKENDS",
    "NVIDIA",
    "Engine",
    "EngineInfo",
    "Probe",
    "backend",
    "open_engine",
    "precisions",
    "probe",
    "run_all",
    "variant_in",
]

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


def precisions(bundle: Bundle, name: str) -> dict[str, str]:
    """Precisions that a backend has with a bundle, the preferred first, and their variants."""
    offered = {
        precision: variant_in(bundle, variant)
        for precision, variant in backend(name).VARIANTS.items()
    }
    return {precision: v for precision, v in offered.items() if v in bundle.variants}


def variant_in(bundle: Bundle, variant: str) -> str:
    """What a bundle has for a variant: in those exported without ``fp32-cpu``, ``fp32`` serves."""
    absent = variant == "fp32-cpu" and variant not in bundle.variants
    return "fp32" if absent else variant


def open_engine(bundle: Bundle, name: str, precision: str, threads: int | None = None) -> Engine:
    """Open a backend with one of the bundle's variants, unchecked.

    Parameters
    ----------
    name, precision
        What to open and nothing else.
    threads
        Threads to compute with; by default one for each usable core.

    Raises
    ------
    UsageError
        If there is no such backend.
    BackendUnavailableError
        If it cannot be used here, or not with this precision.
    """
    if threads is not None and threads < 1:
        raise UsageError(f"threads is {threads}; give 1 or more")
    offered = precisions(bundle, name)
    if precision not in offered:
        for_gpus = precision == "fp16" and name not in NVIDIA
        raise BackendUnavailableError(
            f"backend {name} with this bundle has no precision {precision!r}"
            + (", which is for GPUs" if for_gpus else "")
            + f"; it has {', '.join(offered) or 'none'}"
        )
    # Reading and hashing a variant takes longer than finding out that it is not needed.
    probe(name).require()
    model = bundle.model(offered[precision])
    return backend(name).open(model, precision, threads or usable_cores())


def run_all(engine: Engine, images: FloatArray) -> FloatArray:
    """Run images (N, C, H, W) in batches of the engine's liking; returns (N, 1, H, W)."""
    first = range(0, len(images), engine.BATCH)
    return np.concatenate([engine.run(images[i : i + engine.BATCH]) for i in first])
