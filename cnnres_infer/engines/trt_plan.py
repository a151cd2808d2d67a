"""The plan for a variant and a device: taken from the cache, or built and kept there."""

import hashlib
from dataclasses import replace
from typing import Any

from cnnres_infer.atomic import write_all
from cnnres_infer.cache import cache_folder
from cnnres_infer.engines import plans
from cnnres_infer.engines.gpu import Gpu, system
from cnnres_infer.engines.plans import ANY, Plan, PlanKey, PlanStore
from cnnres_infer.engines.trt_api import Flavour
from cnnres_infer.engines.trt_build import BatchRange, Progress, build, capabilities
from cnnres_infer.errors import BackendUnavailableError

_FLAGS = "strongly-typed,no-tf32"
_PORTABLE = "portable"


def open_store() -> PlanStore:
    """The store of plans in the user's cache.

    Raises
    ------
    BackendUnavailableError
        If the cache cannot be used, since others could write there or nobody can.
    """
    try:
        return PlanStore(cache_folder(plans.FOLDER))
    except OSError as error:
        raise BackendUnavailableError(f"no cache for engines: {error}") from error


def key_for(
    flavour: Flavour, trt: Any, model: bytes, precision: str, batch: BatchRange, device: Gpu | int
) -> PlanKey:
    """Everything that a plan depends on.

    Parameters
    ----------
    device
        The GPU present, or the compute capability (86 for 8.6) of another.
    """
    sm = target_sm(trt, device)
    packages = flavour.installed()
    gpu = None if flavour.portable or isinstance(device, int) else device
    operating_system, architecture = system()
    return PlanKey(
        backend=flavour.backend,
        version=str(trt.__version__),
        onnx_sha256=hashlib.sha256(model).hexdigest(),
        precision=precision,
        batch=str(batch),
        flags=_FLAGS,
        sm=_PORTABLE if sm is None and flavour.portable else str(sm or device_sm(device)),
        gpu=gpu.name if gpu else ANY,
        driver=gpu.driver if gpu else ANY,
        cuda=gpu.cuda if gpu else next(iter(packages), ANY).rpartition("-")[2],
        system=operating_system,
        architecture=architecture,
    )


def target_sm(trt: Any, device: Gpu | int) -> int | None:
    """The compute capability to name in a build; None where the builder decides.

    TensorRT decides always, by the GPU present; TensorRT-RTX for a GPU that
    it has no name for, and then builds what fits all that it supports.
    """
    if isinstance(device, int):
        return device
    return device.sm if device.sm in capabilities(trt) else None


def device_sm(device: Gpu | int) -> int:
    """Compute capability of a device."""
    return device if isinstance(device, int) else device.sm


def obtain(
    flavour: Flavour,
    model: bytes,
    precision: str,
    device: Gpu | int,
    batch: BatchRange | None = None,
    progress: Progress | None = None,
) -> Plan:
    """The plan for a variant, from the cache or built now.

    Parameters
    ----------
    batch
        The range of batch sizes; by default that of the newest plan that is
        right otherwise, so that what was built for a purpose is used.

    Raises
    ------
    BackendUnavailableError
        If TensorRT is missing, or cannot build this.
    """
    trt = flavour.load()
    store = open_store()
    key = key_for(flavour, trt, model, precision, batch or BatchRange(), device)
    if batch is None:
        key = replace(key, batch=store.newest_batch(key) or key.batch)
    chosen = BatchRange.parse(key.batch)

    def work() -> bytes:
        timing = store.folder / f"timing-{flavour.backend}-{key.version}-sm{key.sm}.cache"
        former = None if flavour.portable else timing.read_bytes() if timing.exists() else b""
        plan, measured = build(trt, model, chosen, target_sm(trt, device), former, progress)
        if measured is not None:
            write_all({timing: measured}, overwrite=True)
        return plan

    return store.get_or_build(key, work)
