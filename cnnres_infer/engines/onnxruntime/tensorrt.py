"""ONNX Runtime's providers for TensorRT, and for TensorRT-RTX, which is a plug-in."""

import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from cnnres_infer.core.arrays import FloatArray
from cnnres_infer.core.precision import Precision
from cnnres_infer.engines.base import ModelFile, Variants, bounds
from cnnres_infer.engines.nvidia.batches import LADDER, split
from cnnres_infer.engines.nvidia.device import Gpu
from cnnres_infer.engines.nvidia.elf import needed_libraries
from cnnres_infer.engines.nvidia.libraries import check_driver, cuda_of_library, missing_libraries
from cnnres_infer.engines.onnxruntime.cpu import (
    DISABLED_OPTIMIZERS,
    PROVIDER,
    declared_shape,
    import_onnxruntime,
)
from cnnres_infer.engines.onnxruntime.gpu import FOLDER, OrtCudaEngine
from cnnres_infer.errors import (
    BackendUnavailableError,
    DeviceUnsupportedError,
    NotInstalledError,
)

_REGISTERING = threading.Lock()
_TF32 = "NVIDIA_TF32_OVERRIDE"
_WITHOUT_TF32 = threading.Lock()
# Read off the machine code: 1.20 and 1.26 create strongly typed networks if neither flag is set,
# and 1.27, 1.29 and 1.31 never do.
_TYPED_BEFORE = (1, 27)
# The compute capabilities in the plug-in's header (0.5).
_PLUG_IN_SMS, _PLUG_IN_ALL_FROM = (86, 89), 120


class OrtTensorRtEngine(OrtCudaEngine):
    """CNN-Res in ONNX Runtime's TensorRT provider; see `Engine`."""

    BACKEND: ClassVar[str] = "ort-tensorrt"
    PROVIDER: ClassVar[str] = "TensorrtExecutionProvider"
    # Its input and output are bound to memory of the CUDA provider.
    LIBRARIES: ClassVar[tuple[str, ...]] = (
        "libonnxruntime_providers_tensorrt.so",
        *OrtCudaEngine.LIBRARIES,
    )
    LIBRARIES_HINT: ClassVar[str] = (
        "install the major version of TensorRT that libnvinfer's name ends with, and CUDA and "
        "cuDNN in the versions named"
    )
    KERNELS: ClassVar[tuple[str, ...]] = (
        *OrtCudaEngine.KERNELS,
        "tensorrt-cu12-libs",
        "tensorrt-cu13-libs",
    )
    CACHE_FOLDER: ClassVar[str | None] = FOLDER
    # One engine spans all shapes, and there are graphs only where there is one shape.
    SESSION_PER_SHAPE: ClassVar[bool] = False
    VARIANTS: ClassVar[Variants] = {
        Precision.FP16: ("fp16",),
        Precision.INT8: ("int8-trt",),
        Precision.FP32: ("fp32",),
    }

    @classmethod
    def _session_of(
        cls,
        onnxruntime: Any,
        model: ModelFile,
        options: Any,
        precision: Precision,
        folder: Path | None,
        gpu: Gpu,
    ) -> Any:
        with _without_tf32():
            return super()._session_of(onnxruntime, model, options, precision, folder, gpu)

    @classmethod
    def _settings(
        cls, onnxruntime: Any, model: ModelFile, precision: Precision, folder: Path | None
    ) -> dict[str, str]:
        # If neither is enabled, layers have the types given by the file. Newer versions always
        # leave these to TensorRT, and without them it would compute everything in float32
        # (microsoft/onnxruntime#29779). The int8 file is in float16 where it is not in 8 bits.
        free = _release(onnxruntime) >= _TYPED_BEFORE
        fp16, int8 = precision != Precision.FP32, precision == Precision.INT8
        return {
            "trt_fp16_enable": str(int(free and fp16)),
            "trt_int8_enable": str(int(free and int8)),
            **({} if folder is None else _caches(folder)),
            # A graph is captured for one size of image only.
            "trt_cuda_graph_enable": str(int(len(model.sides) < 2)),
            **_shapes("trt_profile_{}_shapes", onnxruntime, model),
        }


class OrtTensorRtRtxEngine(OrtCudaEngine):
    """CNN-Res in the TensorRT-RTX provider, a plug-in of ONNX Runtime; see `Engine`."""

    BACKEND: ClassVar[str] = "ort-tensorrt-rtx"
    PROVIDER: ClassVar[str] = "NvTensorRTRTXExecutionProvider"
    SESSION_PER_SHAPE: ClassVar[bool] = False
    KERNELS: ClassVar[tuple[str, ...]] = (
        "onnxruntime-ep-nv-tensorrt-rtx-cu12",
        "onnxruntime-ep-nv-tensorrt-rtx-cu13",
        "tensorrt-rtx-cu12-libs",
        "tensorrt-rtx-cu13-libs",
    )
    CACHE_FOLDER: ClassVar[str | None] = FOLDER
    VARIANTS: ClassVar[Variants] = {
        Precision.FP16: ("fp16",),
        Precision.INT8: ("int8-trt",),
        Precision.FP32: ("fp32",),
    }

    @classmethod
    def _check_installed(cls, versions: dict[str, str], gpu: Gpu) -> None:
        if gpu.sm not in _PLUG_IN_SMS and gpu.sm < _PLUG_IN_ALL_FROM:
            raise DeviceUnsupportedError(
                f"the TensorRT-RTX provider does not exist for compute capability "
                f"{gpu.capability} ({gpu.name})",
                "use another `backend`; this one is for RTX 30 and later",
            )
        try:
            _check_plug_in(gpu)
            devices = _plug_in_devices()
        except ModuleNotFoundError as error:
            raise NotInstalledError(
                f"the TensorRT-RTX provider is not installed ({error})", _install_for(gpu)
            ) from error
        except BackendUnavailableError:
            raise
        except Exception as error:
            raise BackendUnavailableError(
                f"the TensorRT-RTX provider cannot be registered: {error}", _install_for(gpu)
            ) from error
        if not _on_gpu(devices, gpu):
            raise BackendUnavailableError(
                f"the TensorRT-RTX provider does not support this GPU, {gpu}",
                "use another `backend`",
            )

    @classmethod
    def _session_of(
        cls,
        onnxruntime: Any,
        model: ModelFile,
        options: Any,
        _precision: Precision,
        folder: Path | None,
        gpu: Gpu,
    ) -> Any:
        settings = {
            **({} if folder is None else {"nv_runtime_cache_path": str(folder)}),
            **_shapes("nv_profile_{}_shapes", onnxruntime, model),
        }
        options.add_provider_for_devices(_on_gpu(_plug_in_devices(), gpu), settings)
        with _without_tf32():
            return onnxruntime.InferenceSession(
                model.content,
                options,
                disabled_optimizers=list(DISABLED_OPTIMIZERS),
                enable_fallback=0,
            )

    def _batches(self, session: Any, images: FloatArray) -> Iterator[FloatArray]:
        # ONNX Runtime built without CUDA cannot bind the plug-in's memory.
        name = session.get_inputs()[0].name
        for part in split(len(images), self.padded_sizes):
            batch = images[part.rows]
            padding = [(0, part.padded - len(batch)), (0, 0), (0, 0), (0, 0)]
            yield session.run(None, {name: np.pad(batch, padding)})[0][: len(batch)]

    def _close(self) -> None:
        super()._close()
        # The plug-in has stored its kernels when the session ended, with its last reference.
        folder, self._folder = self._folder, None
        if folder is not None:
            folder.seal()

    @classmethod
    def _linked(cls) -> set[str]:
        import onnxruntime_ep_nv_tensorrt_rtx as plug_in

        library = Path(plug_in.get_library_path())
        return set(needed_libraries(library)) if library.exists() else set()


def _install_for(gpu: Gpu) -> str:
    """The command that installs the plug-in for the driver's version of CUDA."""
    cuda = 12 if gpu.cuda_major < 13 else 13
    return f"pip install onnxruntime-ep-nv-tensorrt-rtx-cu{cuda} 'onnxruntime>=1.24'"


def _check_plug_in(gpu: Gpu) -> None:
    """Load what the plug-in needs, or say what is missing; its wheel has parts of that.

    Raises
    ------
    ModuleNotFoundError
        If it is not installed.
    BackendUnavailableError
        If a library is missing or the driver is too old.
    """
    import onnxruntime_ep_nv_tensorrt_rtx as plug_in

    library = Path(plug_in.get_library_path())
    if not library.exists():
        return
    name = f"onnxruntime-ep-nv-tensorrt-rtx {plug_in.__version__}"
    check_driver(gpu, cuda_of_library(library), name, _install_for(gpu))
    missing = missing_libraries(library, [library.parent])
    if missing:
        raise BackendUnavailableError(
            f"the TensorRT-RTX provider lacks {', '.join(missing)}", _install_for(gpu)
        )


def _on_gpu(devices: list[Any], gpu: Gpu) -> list[Any]:
    """Those of the plug-in's devices that are on a GPU, by its PCI address.

    Where an address is unknown, as in some virtual machines, there must be one device only.
    """
    addresses = [str(each.device.metadata.get("pci_bus_id", "")).lower() for each in devices]
    if not (gpu.pci and all(addresses)):
        return devices if len(devices) == 1 else []
    return [each for each, pci in zip(devices, addresses, strict=True) if pci == gpu.pci]


def _plug_in_devices() -> list[Any]:
    """The devices that the TensorRT-RTX plug-in supports."""
    # `cache` alone would let two threads register it at the same time.
    with _REGISTERING:
        return _registered_devices()


@cache
def _registered_devices() -> list[Any]:
    """Register the plug-in, which works only once per process, and list its devices."""
    import onnxruntime_ep_nv_tensorrt_rtx as plug_in

    onnxruntime = import_onnxruntime()
    name = plug_in.get_ep_name()
    onnxruntime.register_execution_provider_library(name, plug_in.get_library_path())
    return [device for device in onnxruntime.get_ep_devices() if device.ep_name == name]


def _caches(folder: Path) -> dict[str, str]:
    """Settings for what the TensorRT provider keeps; without them it keeps nothing."""
    return {
        "trt_engine_cache_enable": "1",
        "trt_engine_cache_path": str(folder),
        "trt_timing_cache_enable": "1",
        "trt_timing_cache_path": str(folder),
    }


def _shapes(name: str, onnxruntime: Any, model: ModelFile) -> dict[str, str]:
    """Minimum, optimum and maximum input shape in the format of the TensorRT providers."""
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = onnxruntime.InferenceSession(model.content, options, providers=[PROVIDER])
    (image,) = session.get_inputs()
    image_bounds = zip(*map(bounds, model.image_shape(declared_shape(session))), strict=True)
    counts = {"min": 1, "opt": LADDER[-1], "max": LADDER[-1]}
    return {
        name.format(which): f"{image.name}:{'x'.join(map(str, (count, *size)))}"
        for (which, count), size in zip(counts.items(), image_bounds, strict=True)
    }


def _release(onnxruntime: Any) -> tuple[int, int]:
    """Major and minor version."""
    major, minor, *_ = onnxruntime.__version__.split(".")
    return int(major), int(minor)


@contextmanager
def _without_tf32() -> Iterator[None]:
    """Keep NVIDIA's libraries from computing float32 in TF32; the providers have no option for it.

    TensorRT reads the variable whenever it builds an engine (measured with TensorRT-RTX 1.7), but
    some library may keep what the first session found (microsoft/onnxruntime#26029). So the
    sessions of all precisions find the same, and all of them compute float32 layers as such.
    """
    # No thread may take the variable away while another builds.
    with _WITHOUT_TF32:
        before = os.environ.get(_TF32)
        os.environ[_TF32] = "0"
        try:
            yield
        finally:
            if before is None:
                del os.environ[_TF32]
            else:
                os.environ[_TF32] = before
