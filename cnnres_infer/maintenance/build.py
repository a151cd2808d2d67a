"""Building engines ahead of time, for the GPU of this machine or of another one."""

from contextlib import closing
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from cnnres_infer.bundle.bundle import Bundle
from cnnres_infer.core.precision import Precision
from cnnres_infer.engines import AUTO
from cnnres_infer.engines.base import ModelFile, Probe
from cnnres_infer.engines.nvidia.device import Gpu, find_gpu
from cnnres_infer.engines.nvidia.worker import Worker
from cnnres_infer.engines.tensorrt.api import FLAVOURS, LICENCE, TENSORRT, TENSORRT_RTX, Flavour
from cnnres_infer.engines.tensorrt.build import BatchRange, Progress
from cnnres_infer.engines.tensorrt.cuda import Cuda, load_runtime
from cnnres_infer.engines.tensorrt.plan import load_or_build
from cnnres_infer.engines.tensorrt.store import Plan
from cnnres_infer.errors import BackendUnavailableError, UsageError
from cnnres_infer.selection.offers import model_file, offers


@dataclass(frozen=True)
class BuiltPlan:
    """An engine that was built or found in the cache.

    Attributes
    ----------
    path
        Path of its file.
    sm
        Compute capability that it was built for: ``"86"`` for 8.6.
    bytes
        Size in bytes.
    seconds
        Duration of the build in seconds; 0 if the engine was in the cache.
    rebuilt
        Why an earlier engine was not used; empty if there was none.
    """

    path: Path
    sm: str
    bytes: int
    seconds: float
    rebuilt: str

    @classmethod
    def of(cls, plan: Plan) -> "BuiltPlan":
        """Describe a plan."""
        seconds = round(plan.seconds, 3)
        return cls(plan.path, plan.key.sm, len(plan.content), seconds, plan.rebuilt)


@dataclass(frozen=True)
class BuildReport:
    """The engines that a build produced.

    Attributes
    ----------
    backend, precision
        The backend and precision that the engines are for.
    variant
        The bundle's variant that they were built from.
    batch
        The range of batch sizes, such as ``"1,16,16"``.
    licence
        A note on NVIDIA's licence for its builder.
    plans
        One engine per GPU.
    """

    backend: str
    precision: Precision
    variant: str
    batch: str
    licence: str
    plans: tuple[BuiltPlan, ...]


def build_plans(
    folder: Path | None,
    backend: str,
    precision: str,
    sms: list[int],
    batch: BatchRange,
    progress: Progress | None = None,
) -> BuildReport:
    """Build an engine for each GPU, and store it in the cache.

    Parameters
    ----------
    folder
        The bundle; None for the built-in one.
    backend
        ``"tensorrt"``, ``"tensorrt-rtx"``, or ``"auto"`` for the first that can
        build this.
    precision
        ``"fp16"``, ``"int8"`` or ``"fp32"``.
    sms
        Compute capabilities to build for, such as 86 for 8.6; empty for the GPU
        of this machine.
    batch
        The range of batch sizes.
    progress
        See `cnnres_infer.engines.tensorrt.build.build`.

    Returns
    -------
    BuildReport
        The engines.

    Raises
    ------
    UsageError
        If the backend does not build engines, or only for the GPU of this machine.
    BundleError
        If the bundle cannot be opened or trusted.
    BackendUnavailableError
        If there is no GPU to build for, TensorRT is missing, or it cannot build this.
        `PrecisionUnavailableError` if it has no kernels of this precision for one of `sms`.
    """
    bundle = Bundle.open(folder)
    devices = _devices(sms)
    flavour = _flavour(backend, bool(sms))
    offered = offers(bundle, flavour.backend)
    if precision not in offered:
        raise BackendUnavailableError(
            f"{bundle.folder} has no variant for precision {precision!r} with {flavour.backend}; "
            f"it has variants for {', '.join(offered) or 'none'}"
        )
    wanted = Precision(precision)
    variant = offered[wanted]
    for device in devices:
        flavour.check_precision(wanted, device if isinstance(device, int) else device.sm)
    model = model_file(bundle, variant)
    build_one = partial(_build, flavour, model, wanted, batch, progress)
    plans = [build_one(device) for device in devices]
    built = tuple(BuiltPlan.of(plan) for plan in plans)
    return BuildReport(flavour.backend, wanted, variant, str(batch), LICENCE, built)


def _build(
    flavour: Flavour,
    model: ModelFile,
    precision: Precision,
    batch: BatchRange,
    progress: Progress | None,
    device: Gpu | int,
) -> Plan:
    """Build one engine; TensorRT builds for the GPU that is current on the thread that calls it."""
    work = partial(load_or_build, flavour, model, precision, device, batch, progress)
    if isinstance(device, int) or flavour.portable:
        return work()
    worker = Worker("build")
    try:
        with closing(worker.submit(partial(Cuda, load_runtime(), device.index)).result()):
            return worker.submit(work).result()
    finally:
        worker.stop(wait=False)


def _devices(sms: list[int]) -> list[Gpu | int]:
    if sms:
        return list(dict.fromkeys(sms))
    gpu = find_gpu()
    if isinstance(gpu, Probe):
        raise BackendUnavailableError(
            gpu.reason, "pass the compute capability to build for as `sms`, such as 86 for 8.6"
        )
    return [gpu]


def _flavour(backend: str, named: bool) -> Flavour:
    if backend == AUTO:
        # TensorRT itself builds each engine on the GPU that it is for.
        return TENSORRT_RTX if named or not TENSORRT.installed() else TENSORRT
    if backend not in FLAVOURS:
        raise UsageError(
            f"backend {backend!r} does not build engines; choose from {', '.join(FLAVOURS)}"
        )
    flavour = FLAVOURS[backend]
    if named and not flavour.portable:
        raise UsageError(
            f"{backend} builds for the GPU of this machine only: "
            "leave out `sms`, or use tensorrt-rtx"
        )
    return flavour
