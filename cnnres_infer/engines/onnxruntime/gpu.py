"""ONNX Runtime's provider for CUDA, and what its other providers for GPUs share with it."""

import io
import logging
import sys
from collections.abc import Callable, Iterator
from contextlib import redirect_stdout
from dataclasses import replace
from functools import cache, partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any, ClassVar, Self

import numpy as np

from cnnres_infer.core.arrays import FloatArray
from cnnres_infer.core.precision import Precision
from cnnres_infer.core.provenance import EngineInfo
from cnnres_infer.engines.base import ImageShape, ModelFile, Probe, Variants
from cnnres_infer.engines.compiled import SealedFolder
from cnnres_infer.engines.nvidia import sticky
from cnnres_infer.engines.nvidia.batches import split
from cnnres_infer.engines.nvidia.device import Gpu, find_gpu
from cnnres_infer.engines.nvidia.elf import needed_libraries
from cnnres_infer.engines.nvidia.libraries import (
    check_driver,
    cuda_of_library,
    load_library,
    loaded_versions,
    missing_libraries,
)
from cnnres_infer.engines.nvidia.thread import GpuEngine
from cnnres_infer.engines.nvidia.worker import Worker
from cnnres_infer.engines.onnxruntime.bound import Bound
from cnnres_infer.engines.onnxruntime.cpu import (
    DISABLED_OPTIMIZERS,
    DISTRIBUTIONS,
    declared_shape,
    import_onnxruntime,
)
from cnnres_infer.errors import BackendUnavailableError, EngineRunError, NotInstalledError
from cnnres_infer.host import machine
from cnnres_infer.host.cache import cache_folder
from cnnres_infer.host.digest import json_digest

_log = logging.getLogger(__name__)
FOLDER = "ort-engines"
_FLAGS = "no-tf32 typed"
_SILENT = 4
_OUT_OF_MEMORY = ("allocat", "out of memory")
# The provider opens it by itself (seen in 1.29 and 1.31), so it is in no list of what it links to.
_CUDNN = "libcudnn.so.9"
# 1.27 and later are made for CUDA 13.
_FOR_CUDA_12 = "pip install 'onnxruntime-gpu[cuda,cudnn]<1.27'"


class OrtCudaEngine(GpuEngine[Any]):
    """CNN-Res in ONNX Runtime on a GPU; see `Engine`.

    Batches always have the same size, the last one padded, so one CUDA graph and
    one set of tuned kernels for each size of image serve every volume.

    Opening one silences ONNX Runtime's default logger for the whole process, and for
    good: there is no way to ask for its former level.

    Parameters
    ----------
    handle
        A session.
    info, shape, worker
        See `GpuEngine`.
    gpu
        The GPU that the session is on.
    open_session
        Opens another session like it; None unless `SESSION_PER_SHAPE`.
    folder
        Where the provider keeps what it compiles; None if it keeps nothing.

    Attributes
    ----------
    BACKEND, PROVIDER, DEVICE
        Name in the table of backends, and ONNX Runtime's names for the
        provider and its memory.
    LIBRARIES
        File names of the libraries that it needs of ONNX Runtime, next to which they are.
    LIBRARIES_HINT
        How to fix missing libraries of NVIDIA.
    KERNELS
        Distributions that may provide the kernels that it runs.
    SESSION_PER_SHAPE
        Whether a session may run images of one shape only.
    """

    RUNTIME: ClassVar[str] = "ONNX Runtime"
    BACKEND: ClassVar[str] = "ort-cuda"
    PROVIDER: ClassVar[str] = "CUDAExecutionProvider"
    DEVICE: ClassVar[str] = "cuda"
    LIBRARIES: ClassVar[tuple[str, ...]] = ("libonnxruntime_providers_cuda.so",)
    LIBRARIES_HINT: ClassVar[str] = (
        "pip install 'onnxruntime-gpu[cuda,cudnn]', or CUDA and cuDNN in the versions that it names"
    )
    KERNELS: ClassVar[tuple[str, ...]] = (
        "nvidia-cublas", "nvidia-cublas-cu12", "nvidia-cudnn-cu12", "nvidia-cudnn-cu13",
    )  # fmt: skip
    # The provider's convolutions keep the kernels and the memory for one shape, and replace them
    # when another comes: a graph that was captured before then launches what is gone (1.29).
    SESSION_PER_SHAPE: ClassVar[bool] = True
    VARIANTS: ClassVar[Variants] = {
        Precision.FP16: ("fp16",),
        Precision.FP32: ("fp32",),
    }

    def __init__(
        self,
        handle: Any,
        info: EngineInfo,
        shape: ImageShape,
        worker: Worker,
        gpu: Gpu,
        open_session: Callable[[], Any] | None,
        folder: SealedFolder | None,
    ) -> None:
        super().__init__(handle, info, shape, worker)
        self._gpu = gpu
        self._open_session = open_session
        self._folder = folder
        self._slices = self.BATCH
        self._bound: dict[tuple[int, ...], Bound] = {}
        sticky.watch(self)

    @classmethod
    def probe(cls) -> Probe:
        gpu = find_gpu()
        if isinstance(gpu, Probe):
            return gpu
        versions = machine.versions(*DISTRIBUTIONS, *cls.KERNELS)
        versions |= {"driver": gpu.driver, "cuda": gpu.cuda}
        try:
            cls._check_installed(versions, gpu)
        except BackendUnavailableError as error:
            return Probe.failed(error, versions, (str(gpu),))
        versions |= loaded_versions(cls._linked())
        reason = f"onnxruntime {import_onnxruntime().__version__}, {cls.PROVIDER}"
        return Probe(True, reason, "", versions, (str(gpu),))

    @classmethod
    def _open(cls, model: ModelFile, precision: Precision, worker: Worker) -> Self:
        probe = cls.probe()
        probe.require()
        gpu = find_gpu()
        assert isinstance(gpu, Gpu)
        folder = cls._own_folder(model, precision, probe)
        path = None if folder is None else folder.path
        open_session = partial(cls._checked_session, model, precision, path, gpu)
        session = open_session()
        if folder is not None:
            folder.seal()
        device = f"{cls.PROVIDER} on {probe.devices[0]}"
        info = EngineInfo(cls.BACKEND, device, precision, model.variant, 1, probe.versions)
        shape = model.image_shape(declared_shape(session))
        # It holds the whole file.
        another = open_session if cls.SESSION_PER_SHAPE else None
        return cls(session, info, shape, worker, gpu, another, folder)

    @classmethod
    def _checked_session(
        cls, model: ModelFile, precision: Precision, folder: Path | None, gpu: Gpu
    ) -> Any:
        """Open a session that runs on the provider, and on nothing else."""
        sticky.require_none()
        onnxruntime = import_onnxruntime()
        options = onnxruntime.SessionOptions()
        # cuDNN's front end logs every fusion that it cannot plan as an error and then uses
        # another, and some of that goes to the logger of no session; real failures are raised.
        options.log_severity_level = _SILENT
        onnxruntime.set_default_logger_severity(_SILENT)
        # Operators that the provider cannot run are an error instead of running on the CPU.
        options.add_session_config_entry("session.disable_cpu_ep_fallback", "1")
        try:
            session = cls._session_of(onnxruntime, model, options, precision, folder, gpu)
        except Exception as error:
            raise BackendUnavailableError(
                f"{cls.PROVIDER} of ONNX Runtime rejected the model: {error}"
            ) from error
        provider = session.get_providers()[0]
        if provider != cls.PROVIDER:
            raise BackendUnavailableError(f"ONNX Runtime selected {provider}, not {cls.PROVIDER}")
        return session

    @classmethod
    def _check_installed(cls, versions: dict[str, str], gpu: Gpu) -> None:
        """Raise if the provider is not installed, lacks a library or needs a newer driver.

        Everything that can be read from files is checked before anything is loaded.
        """
        if all(name in versions for name in DISTRIBUTIONS):
            raise BackendUnavailableError(
                "onnxruntime and onnxruntime-gpu are both installed and overwrite each other",
                f"pip uninstall -y {' '.join(DISTRIBUTIONS)}; {_install_for(gpu)}",
            )
        libraries = cls._libraries()
        name = f"onnxruntime-gpu {versions.get('onnxruntime-gpu', '')}".rstrip()
        for library in libraries:
            check_driver(gpu, cuda_of_library(library), name, _FOR_CUDA_12)
        missing = _missing(libraries)
        if missing:
            raise NotInstalledError(
                f"{cls.PROVIDER} lacks {', '.join(missing)}", cls.LIBRARIES_HINT
            )
        try:
            onnxruntime = import_onnxruntime()
        except ImportError as error:
            raise BackendUnavailableError(
                f"onnxruntime cannot be imported ({error})", _install_for(gpu)
            ) from error
        if cls.PROVIDER not in onnxruntime.get_available_providers():
            raise NotInstalledError(
                f"this onnxruntime has no {cls.PROVIDER}",
                f"pip uninstall -y onnxruntime; {_install_for(gpu)}",
            )
        if sys.platform == "win32":
            _preload(onnxruntime)

    @classmethod
    def _libraries(cls) -> list[Path]:
        """The libraries that it needs of ONNX Runtime; none where that was made for CPUs."""
        folder = _native_folder()
        return [path for name in cls.LIBRARIES if (path := folder / name).exists()]

    @classmethod
    def _linked(cls) -> set[str]:
        """Names of the libraries that it links to or opens."""
        linked = (name for library in cls._libraries() for name in needed_libraries(library))
        return {_CUDNN, *linked}

    @classmethod
    def _own_folder(
        cls, model: ModelFile, precision: Precision, probe: Probe
    ) -> SealedFolder | None:
        """The folder for the provider's engines: none are in it but those that it left there.

        It is None where the provider has no cache, the model must not use it, or it cannot be used.
        """
        if cls.CACHE_FOLDER is None:
            return None
        reason = "a signature is required and the cache is not signed"
        if model.use_cache:
            try:
                folder = SealedFolder(_engine_folder(cls.BACKEND, model, precision, probe))
                folder.remove_strangers()
                return folder
            except OSError:
                reason = "the cache cannot be used"
        _log.warning(
            "%s compiles the network at every start, which can take minutes, since %s",
            cls.PROVIDER,
            reason,
        )
        return None

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
        settings = cls._settings(onnxruntime, model, precision, folder)
        return onnxruntime.InferenceSession(
            model.content,
            options,
            providers=[(cls.PROVIDER, {"device_id": str(gpu.index), **settings})],
            disabled_optimizers=list(DISABLED_OPTIMIZERS),
            # Otherwise it prints the reason, and runs on the CPU.
            enable_fallback=0,
        )

    @classmethod
    def _settings(
        cls, _onnxruntime: Any, _model: ModelFile, _precision: Precision, _folder: Path | None
    ) -> dict[str, str]:
        return {"use_tf32": "0", "enable_cuda_graph": "1", "cudnn_conv_algo_search": "HEURISTIC"}

    @property
    def padded_sizes(self) -> tuple[int, ...]:
        # Nothing that it compiles is kept for the next start, so there is one size only.
        return (self._slices,)

    def _compute(self, handle: Any, images: FloatArray) -> FloatArray:
        while True:
            try:
                return np.concatenate(list(self._batches(handle, images)))
            except Exception as error:
                sticky.note(error)
                if sticky.seen():
                    # The error's frames hold what was being made. Its message may speak of
                    # allocating, but no batch is small enough for a GPU that is lost.
                    sticky.keep(handle, error, *self._bound.values())
                    raise
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
            if self._open_session is not None and self._bound:
                try:
                    session = self._open_session()
                except BackendUnavailableError as error:
                    # The engine was open already: this is a failure of the run.
                    raise EngineRunError(str(error)) from error
            device = (self.DEVICE, self._gpu.index)
            self._bound[shape] = Bound(import_onnxruntime(), session, device, shape)
        for part in split(len(images), self.padded_sizes):
            yield self._bound[shape].run(images[part.rows])

    def _release(self, handle: Any) -> None:
        sticky.keep(handle, *self._bound.values())
        self._bound.clear()


def _install_for(gpu: Gpu) -> str:
    """The command that installs what goes with the driver's version of CUDA."""
    return f"pip install 'cnnres-infer[{'gpu-cuda12' if gpu.cuda_major < 13 else 'gpu'}]'"


@cache
def _preload(onnxruntime: Any) -> None:
    """Let Windows find CUDA packages installed by pip, hiding what ONNX Runtime prints."""
    # Once per process, because this also hides what other threads print meanwhile.
    with redirect_stdout(io.StringIO()):
        onnxruntime.preload_dlls()


def _native_folder() -> Path:
    """The folder of ONNX Runtime's libraries, without importing it."""
    spec = find_spec("onnxruntime")
    origin = spec.origin if spec is not None else None
    return Path(origin or "").parent / "capi"


def _missing(libraries: list[Path]) -> tuple[str, ...]:
    """Names of missing libraries among those of a provider, of ONNX Runtime itself and cuDNN."""
    if not libraries:
        return ()
    # Some versions cannot even be imported without CUDA (1.27).
    own = libraries[0].parent.glob("onnxruntime_pybind11_state*.so")
    linked = (name for each in (*own, *libraries) for name in missing_libraries(each))
    cudnn = () if load_library(_CUDNN) else (_CUDNN,)
    return tuple(dict.fromkeys((*linked, *cudnn)))


def _engine_folder(backend: str, model: ModelFile, precision: Precision, probe: Probe) -> Path:
    """The folder for engines that were built from exactly these inputs."""
    inputs: list[Any] = [backend, model.sha256, precision, probe.versions, probe.devices, _FLAGS]
    if len(model.sides) > 1:
        inputs.append(model.sides)
    return cache_folder(FOLDER, f"{backend}-{precision}-{json_digest(inputs)[:16]}")
