"""ONNX Runtime's providers for NVIDIA GPUs: TensorRT, TensorRT-RTX and CUDA."""

import io
import itertools
import logging
import threading
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any, ClassVar, Self

import numpy as np

from cnnres_infer.core.arrays import FloatArray
from cnnres_infer.core.precision import Precision
from cnnres_infer.core.provenance import EngineInfo
from cnnres_infer.engines.base import ImageShape, ModelFile, Probe, Variants, bounds
from cnnres_infer.engines.compiled import SealedFolder
from cnnres_infer.engines.nvidia.device import find_gpu
from cnnres_infer.engines.nvidia.elf import missing_libraries
from cnnres_infer.engines.nvidia.thread import GpuEngine
from cnnres_infer.engines.nvidia.worker import Worker
from cnnres_infer.engines.onnxruntime.cpu import (
    DISABLED_OPTIMIZERS,
    DISTRIBUTIONS,
    declared_shape,
    import_onnxruntime,
)
from cnnres_infer.errors import BackendUnavailableError
from cnnres_infer.host import machine
from cnnres_infer.host.cache import cache_folder
from cnnres_infer.host.digest import json_digest

_log = logging.getLogger(__name__)
_FOLDER = "ort-engines"
_CPU = "CPUExecutionProvider"
_SLICES = 16
_GRAPHS = itertools.count(1)
_REGISTERING = threading.Lock()
_OUT_OF_MEMORY = ("allocat", "out of memory")


class OrtCudaEngine(GpuEngine[Any]):
    """CNN-Res in ONNX Runtime on a GPU; see `Engine`.

    Batches always have the same size, the last one padded, so one CUDA graph and
    one set of tuned kernels for each size of image serve every volume.

    Attributes
    ----------
    BACKEND, PROVIDER, DEVICE
        Name in the table of backends, and ONNX Runtime's names for the
        provider and its memory.
    LIBRARY
        File name of the provider's library, next to ONNX Runtime's own.
    INSTALL, LIBRARIES_HINT
        How to fix a missing provider, and one with missing libraries.
    """

    RUNTIME: ClassVar[str] = "ONNX Runtime"
    BACKEND: ClassVar[str] = "ort-cuda"
    PROVIDER: ClassVar[str] = "CUDAExecutionProvider"
    DEVICE: ClassVar[str] = "cuda"
    LIBRARY: ClassVar[str] = "libonnxruntime_providers_cuda.so"
    INSTALL: ClassVar[str] = "pip uninstall -y onnxruntime; pip install 'cnnres-infer[gpu]'"
    LIBRARIES_HINT: ClassVar[str] = (
        "pip install 'onnxruntime-gpu[cuda,cudnn]', or CUDA and cuDNN in the versions that it names"
    )
    VARIANTS: ClassVar[Variants] = {
        Precision.FP16: ("fp16",),
        Precision.FP32: ("fp32",),
    }
    BATCH: ClassVar[int] = 64
    # Activations are in the GPU's memory.
    LEAST: ClassVar[int] = 1

    def __init__(self, handle: Any, info: EngineInfo, shape: ImageShape, worker: Worker) -> None:
        super().__init__(handle, info, shape, worker)
        self._slices = _SLICES
        self._bound: dict[tuple[int, ...], _Bound] = {}

    @classmethod
    def probe(cls) -> Probe:
        gpu = find_gpu()
        if isinstance(gpu, Probe):
            return gpu
        versions = machine.versions(*DISTRIBUTIONS, *cls._extra_distributions())
        versions |= {"driver": gpu.driver, "cuda": gpu.cuda}
        try:
            cls._check_installed(versions)
        except BackendUnavailableError as error:
            return Probe(False, error.reason, error.remedy, versions, (str(gpu),))
        reason = f"onnxruntime {import_onnxruntime().__version__}, {cls.PROVIDER}"
        return Probe(True, reason, "", versions, (str(gpu),))

    @classmethod
    def _open(cls, model: ModelFile, precision: Precision, worker: Worker) -> Self:
        probe = cls.probe()
        probe.require()
        onnxruntime = import_onnxruntime()
        options = onnxruntime.SessionOptions()
        # cuDNN's front end logs every fusion that it cannot plan as an error and then uses
        # another; real failures are raised.
        options.log_severity_level = 4
        # Operators that the provider cannot run are an error instead of running on the CPU.
        options.add_session_config_entry("session.disable_cpu_ep_fallback", "1")
        try:
            with cls._sealed(model, precision, probe) as folder:
                session = cls._session_of(onnxruntime, model, options, precision, folder)
        except Exception as error:
            raise BackendUnavailableError(
                f"{cls.PROVIDER} of ONNX Runtime rejected the model: {error}"
            ) from error
        provider = session.get_providers()[0]
        if provider != cls.PROVIDER:
            raise BackendUnavailableError(f"ONNX Runtime selected {provider}, not {cls.PROVIDER}")
        device = f"{provider} on {probe.devices[0]}"
        info = EngineInfo(cls.BACKEND, device, precision, model.variant, 1, probe.versions)
        return cls(session, info, model.image_shape(declared_shape(session)), worker)

    @classmethod
    def _extra_distributions(cls) -> tuple[str, ...]:
        return ()

    @classmethod
    def _check_installed(cls, versions: dict[str, str]) -> None:
        """Raise if the provider is not installed or lacks a library."""
        try:
            onnxruntime = import_onnxruntime()
        except ImportError as error:
            raise BackendUnavailableError(
                f"onnxruntime cannot be imported ({error})", cls.INSTALL
            ) from error
        if all(name in versions for name in DISTRIBUTIONS):
            raise BackendUnavailableError(
                "onnxruntime and onnxruntime-gpu are both installed and overwrite each other",
                f"pip uninstall -y {' '.join(DISTRIBUTIONS)}; pip install 'cnnres-infer[gpu]'",
            )
        if cls.PROVIDER not in onnxruntime.get_available_providers():
            raise BackendUnavailableError(f"this onnxruntime has no {cls.PROVIDER}", cls.INSTALL)
        _preload(onnxruntime)
        library = Path(onnxruntime.__file__).parent / "capi" / cls.LIBRARY
        missing = missing_libraries(library) if library.exists() else ()
        if missing:
            raise BackendUnavailableError(
                f"{cls.PROVIDER} lacks {', '.join(missing)}", cls.LIBRARIES_HINT
            )

    @classmethod
    @contextmanager
    def _sealed(cls, model: ModelFile, precision: Precision, probe: Probe) -> Iterator[Path | None]:
        """The folder for the provider's engines: none are in it but those that it left there.

        It is None where the provider has no cache, or the model must not use it.
        """
        if cls.CACHE_FOLDER is None:
            yield None
            return
        if not model.use_cache:
            _log.warning(
                "%s compiles the network at every start, which can take minutes, since a "
                "signature is required and the cache is not signed",
                cls.PROVIDER,
            )
            yield None
            return
        folder = SealedFolder(_engine_folder(cls.BACKEND, model, precision, probe))
        folder.remove_strangers()
        yield folder.path
        folder.seal()

    @classmethod
    def _session_of(
        cls,
        onnxruntime: Any,
        model: ModelFile,
        options: Any,
        precision: Precision,
        folder: Path | None,
    ) -> Any:
        settings = cls._settings(onnxruntime, model, precision, folder)
        return onnxruntime.InferenceSession(
            model.content,
            options,
            providers=[(cls.PROVIDER, settings)],
            disabled_optimizers=list(DISABLED_OPTIMIZERS),
        )

    @classmethod
    def _settings(
        cls, _onnxruntime: Any, _model: ModelFile, _precision: Precision, _folder: Path | None
    ) -> dict[str, str]:
        return {"use_tf32": "0", "enable_cuda_graph": "1", "cudnn_conv_algo_search": "HEURISTIC"}

    def _compute(self, handle: Any, images: FloatArray) -> FloatArray:
        while True:
            try:
                return np.concatenate(list(self._batches(handle, images)))
            except Exception as error:
                # Never launch a graph again whose capture or launch has failed.
                self._bound.clear()
                full = any(word in str(error).lower() for word in _OUT_OF_MEMORY)
                if not full or self._slices == 1:
                    raise
                self._slices //= 2
                warning = (
                    f"the GPU's memory is full: continuing with batches of {self._slices} slices"
                )
                self._info = replace(self._info, warnings=(*self._info.warnings, warning))

    def _batches(self, session: Any, images: FloatArray) -> Iterator[FloatArray]:
        shape = (self._slices, *images.shape[1:])
        if shape not in self._bound:
            self._bound[shape] = _Bound(import_onnxruntime(), session, self.DEVICE, shape)
        for first in range(0, len(images), self._slices):
            yield self._bound[shape].run(images[first : first + self._slices])

    def _release(self, handle: Any) -> None:
        self._bound.clear()


class OrtTensorRtEngine(OrtCudaEngine):
    """CNN-Res in ONNX Runtime's TensorRT provider; see `Engine`."""

    BACKEND: ClassVar[str] = "ort-tensorrt"
    PROVIDER: ClassVar[str] = "TensorrtExecutionProvider"
    LIBRARY: ClassVar[str] = "libonnxruntime_providers_tensorrt.so"
    LIBRARIES_HINT: ClassVar[str] = (
        "install the major version of TensorRT that libnvinfer's name ends with, and CUDA and "
        "cuDNN in the versions named"
    )
    CACHE_FOLDER: ClassVar[str | None] = _FOLDER
    VARIANTS: ClassVar[Variants] = {
        Precision.FP16: ("fp16",),
        Precision.INT8: ("int8-trt",),
        Precision.FP32: ("fp32",),
    }

    @classmethod
    def _settings(
        cls, onnxruntime: Any, model: ModelFile, precision: Precision, folder: Path | None
    ) -> dict[str, str]:
        return {
            "trt_fp16_enable": str(int(precision == Precision.FP16)),
            "trt_int8_enable": str(int(precision == Precision.INT8)),
            **({} if folder is None else _caches(folder)),
            # A graph is captured for one size of image only.
            "trt_cuda_graph_enable": str(int(len(model.sides) < 2)),
            **_shapes("trt_profile_{}_shapes", onnxruntime, model),
        }


class OrtTensorRtRtxEngine(OrtCudaEngine):
    """CNN-Res in the TensorRT-RTX provider, a plug-in of ONNX Runtime; see `Engine`."""

    BACKEND: ClassVar[str] = "ort-tensorrt-rtx"
    PROVIDER: ClassVar[str] = "NvTensorRTRTXExecutionProvider"
    INSTALL: ClassVar[str] = "pip install onnxruntime-ep-nv-tensorrt-rtx 'onnxruntime>=1.24'"
    CACHE_FOLDER: ClassVar[str | None] = _FOLDER
    VARIANTS: ClassVar[Variants] = {
        Precision.FP16: ("fp16",),
        Precision.INT8: ("int8-trt",),
        Precision.FP32: ("fp32",),
    }

    @classmethod
    def _extra_distributions(cls) -> tuple[str, ...]:
        stem = "onnxruntime-ep-nv-tensorrt-rtx"
        return (f"{stem}-cu12", f"{stem}-cu13")

    @classmethod
    def _check_installed(cls, versions: dict[str, str]) -> None:
        try:
            devices = _plug_in_devices()
        except ImportError as error:
            raise BackendUnavailableError(
                f"the TensorRT-RTX provider is not installed ({error})", cls.INSTALL
            ) from error
        except Exception as error:
            raise BackendUnavailableError(
                f"the TensorRT-RTX provider cannot be registered: {error}", cls.INSTALL
            ) from error
        if not devices:
            raise BackendUnavailableError(
                "the TensorRT-RTX provider does not support the GPU of this machine",
                "use another `backend`; TensorRT-RTX is for GeForce and RTX cards",
            )

    @classmethod
    def _session_of(
        cls,
        onnxruntime: Any,
        model: ModelFile,
        options: Any,
        _precision: Precision,
        folder: Path | None,
    ) -> Any:
        settings = {
            **({} if folder is None else {"nv_runtime_cache_path": str(folder)}),
            **_shapes("nv_profile_{}_shapes", onnxruntime, model),
        }
        options.add_provider_for_devices(_plug_in_devices()[:1], settings)
        return onnxruntime.InferenceSession(
            model.content, options, disabled_optimizers=list(DISABLED_OPTIMIZERS)
        )

    def _batches(self, session: Any, images: FloatArray) -> Iterator[FloatArray]:
        # ONNX Runtime built without CUDA cannot bind the plug-in's memory.
        name = session.get_inputs()[0].name
        for first in range(0, len(images), self._slices):
            part = images[first : first + self._slices]
            padding = [(0, self._slices - len(part)), (0, 0), (0, 0), (0, 0)]
            yield session.run(None, {name: np.pad(part, padding)})[0][: len(part)]


class _Bound:
    """A session with its input and output bound to fixed GPU memory, as CUDA graphs require."""

    def __init__(self, onnxruntime: Any, session: Any, device: str, shape: tuple[int, ...]) -> None:
        image, probabilities = session.get_inputs()[0], session.get_outputs()[0]
        self._session = session
        self._images = np.zeros(shape, np.float32)
        self._input = onnxruntime.OrtValue.ortvalue_from_numpy(self._images, device, 0)
        result = (shape[0], 1, *shape[2:])
        self._output = onnxruntime.OrtValue.ortvalue_from_shape_and_type(
            result, np.float32, device, 0
        )
        # A graph contains the addresses that it was captured with, so none may be shared.
        self._options = onnxruntime.RunOptions()
        self._options.add_run_config_entry("gpu_graph_id", str(next(_GRAPHS)))
        self._binding = session.io_binding()
        self._binding.bind_ortvalue_input(image.name, self._input)
        self._binding.bind_ortvalue_output(probabilities.name, self._output)

    def run(self, images: FloatArray) -> FloatArray:
        count = len(images)
        self._images[:count] = images
        self._input.update_inplace(self._images)
        self._session.run_with_iobinding(self._binding, self._options)
        return np.array(self._output.numpy()[:count])


@cache
def _preload(onnxruntime: Any) -> None:
    """Let ONNX Runtime find CUDA packages installed by pip, hiding what it prints.

    Called once per process, because this also hides what other threads print meanwhile.
    """
    if hasattr(onnxruntime, "preload_dlls"):
        with redirect_stdout(io.StringIO()):
            onnxruntime.preload_dlls()


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


def _engine_folder(backend: str, model: ModelFile, precision: Precision, probe: Probe) -> Path:
    """The folder for engines that were built from exactly these inputs."""
    inputs: list[Any] = [backend, model.sha256, precision, probe.versions, probe.devices]
    if len(model.sides) > 1:
        inputs.append(model.sides)
    return cache_folder(_FOLDER, f"{backend}-{precision}-{json_digest(inputs)[:16]}")


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
    session = onnxruntime.InferenceSession(model.content, options, providers=[_CPU])
    (image,) = session.get_inputs()
    image_bounds = zip(*map(bounds, model.image_shape(declared_shape(session))), strict=True)
    counts = {"min": 1, "opt": _SLICES, "max": _SLICES}
    return {
        name.format(which): f"{image.name}:{'x'.join(map(str, (count, *size)))}"
        for (which, count), size in zip(counts.items(), image_bounds, strict=True)
    }
