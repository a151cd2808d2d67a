"""TensorRT and TensorRT-RTX on an NVIDIA GPU."""

import hashlib
from contextlib import suppress
from dataclasses import replace
from typing import ClassVar, Self

from cnnres_infer.core.arrays import FloatArray
from cnnres_infer.core.precision import Precision
from cnnres_infer.core.provenance import EngineInfo
from cnnres_infer.engines.base import ImageShape, ModelFile, Probe, Variants
from cnnres_infer.engines.compiled import CompiledCache
from cnnres_infer.engines.nvidia.device import Gpu, find_gpu
from cnnres_infer.engines.nvidia.thread import GpuEngine
from cnnres_infer.engines.nvidia.worker import Worker
from cnnres_infer.engines.tensorrt.api import TENSORRT, TENSORRT_RTX, Flavour
from cnnres_infer.engines.tensorrt.build import BatchRange
from cnnres_infer.engines.tensorrt.cuda import Cuda, check_bindings, load_runtime
from cnnres_infer.engines.tensorrt.plan import load_or_build
from cnnres_infer.engines.tensorrt.runner import PlanRefusedError, PlanRunner
from cnnres_infer.engines.tensorrt.store import FOLDER, Plan
from cnnres_infer.errors import BackendUnavailableError, EngineError
from cnnres_infer.host import machine

_KERNELS = CompiledCache(FOLDER)


class TensorRtEngine(GpuEngine[PlanRunner]):
    """CNN-Res in a TensorRT engine built for this GPU; see `Engine`."""

    RUNTIME: ClassVar[str] = "TensorRT"
    FLAVOUR: ClassVar[Flavour] = TENSORRT
    VARIANTS: ClassVar[Variants] = {
        Precision.FP16: ("fp16",),
        Precision.INT8: ("int8-trt",),
        Precision.FP32: ("fp32",),
    }
    CACHE_FOLDER: ClassVar[str | None] = FOLDER

    def __init__(
        self,
        handle: PlanRunner,
        info: EngineInfo,
        shape: ImageShape,
        worker: Worker,
        kernels: dict[str, str] | None,
    ) -> None:
        super().__init__(handle, info, shape, worker)
        self._warnings = handle.warnings
        self._kernels = kernels
        self._compiled = handle.runtime_cache()

    @classmethod
    def probe(cls) -> Probe:
        gpu = find_gpu()
        if isinstance(gpu, Probe):
            return gpu
        versions = machine.versions(*cls.FLAVOUR.distributions, "cuda-bindings", "cuda-python")
        versions |= {"driver": gpu.driver, "cuda": gpu.cuda}
        try:
            trt = cls.FLAVOUR.load()
            versions[cls.FLAVOUR.module] = trt.__version__
            cls.FLAVOUR.check(trt, gpu)
            versions["cuda-runtime"] = check_bindings(load_runtime(), gpu)
        except BackendUnavailableError as error:
            return Probe.failed(error, versions, (str(gpu),))
        return Probe(True, f"{cls.FLAVOUR.module} {trt.__version__}", "", versions, (str(gpu),))

    @classmethod
    def _open(cls, model: ModelFile, precision: Precision, worker: Worker) -> Self:
        probe = cls.probe()
        probe.require()
        gpu = find_gpu()
        assert isinstance(gpu, Gpu)
        cls.FLAVOUR.check_precision(precision, gpu.sm)
        # Before the plan, since TensorRT builds for the GPU that is current.
        cuda = Cuda(load_runtime(), gpu.index)
        try:
            plan = load_or_build(cls.FLAVOUR, model, precision, gpu)
            try:
                runner, kernels = cls._load(plan, cuda, gpu, model.use_cache)
            except PlanRefusedError:
                if plan.seconds:
                    raise
                # It was in the cache. What makes TensorRT refuse it is not all in its key.
                refused = plan.content
                plan = load_or_build(cls.FLAVOUR, model, precision, gpu, refused=refused)
                runner, kernels = cls._load(plan, cuda, gpu, model.use_cache)
        except Exception as error:
            cuda.close()
            if isinstance(error, EngineError):
                raise
            raise BackendUnavailableError(
                f"{cls.FLAVOUR.module} cannot load the engine: {error}"
            ) from error
        shape = model.image_shape(runner.image)
        warnings = (f"the engine was rebuilt: {plan.rebuilt}",) if plan.rebuilt else ()
        return cls(
            runner,
            EngineInfo(
                cls.FLAVOUR.backend,
                f"{cls.FLAVOUR.module} on {gpu}",
                precision,
                model.variant,
                1,
                probe.versions,
                warnings,
                kernels["plan"],
            ),
            shape,
            worker,
            kernels if model.use_cache else None,
        )

    @classmethod
    def _load(
        cls, plan: Plan, cuda: Cuda, gpu: Gpu, use_cache: bool
    ) -> tuple[PlanRunner, dict[str, str]]:
        """Load a plan and, with TensorRT-RTX, the kernels compiled from it for this GPU.

        Returns
        -------
        runner
        kernels
            What the kernels depend on.
        """
        sha256 = hashlib.sha256(plan.content).hexdigest()
        kernels = {"plan": sha256, "gpu": gpu.name, "driver": gpu.driver}
        found = _KERNELS.get(kernels) if use_cache else None
        batch = BatchRange.parse(plan.key.batch).largest
        compiled = b"" if found is None else found.content
        return PlanRunner(cls.FLAVOUR.load(), cuda, plan.content, batch, compiled), kernels

    @property
    def padded_sizes(self) -> tuple[int, ...]:
        handle = self._handle
        return () if handle is None else handle.sizes

    def _warm_up(self) -> None:
        super()._warm_up()
        if self._handle is not None:
            self._handle.settle()
            # Not only at the end, which a process that is killed does not reach.
            self._save_kernels(self._handle)

    def describe(self) -> EngineInfo:
        return replace(self._info, warnings=(*self._info.warnings, *self._warnings))

    def _compute(self, handle: PlanRunner, images: FloatArray) -> FloatArray:
        return handle.run(images)

    def _release(self, handle: PlanRunner) -> None:
        self._save_kernels(handle)
        handle.close()

    def _save_kernels(self, handle: PlanRunner) -> None:
        # They only speed up the next start: a lost GPU or a full disk must not stop anything.
        with suppress(Exception):
            compiled = handle.runtime_cache()
            if self._kernels is not None and compiled != self._compiled:
                _KERNELS.put(self._kernels, compiled)
                self._compiled = compiled


class TensorRtRtxEngine(TensorRtEngine):
    """CNN-Res in a TensorRT-RTX engine, completed on this GPU; see `Engine`."""

    FLAVOUR: ClassVar[Flavour] = TENSORRT_RTX
