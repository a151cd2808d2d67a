"""Load the plan for a variant and a device from the cache, or build and cache it."""

import logging
import re
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from cnnres_infer.engines.base import ModelFile, Probe
from cnnres_infer.engines.nvidia.device import Gpu, find_gpu, system
from cnnres_infer.engines.nvidia.libraries import cuda_of_packages
from cnnres_infer.engines.tensorrt import store as plans
from cnnres_infer.engines.tensorrt.api import FLAVOURS, Flavour
from cnnres_infer.engines.tensorrt.build import BatchRange, Progress, build
from cnnres_infer.engines.tensorrt.store import ANY, Plan, PlanKey, PlanStore
from cnnres_infer.errors import BackendUnavailableError
from cnnres_infer.host.atomic import write_all
from cnnres_infer.host.cache import cache_folder
from cnnres_infer.host.files import read_regular

_log = logging.getLogger(__name__)
_FLAGS = "strongly-typed,no-tf32,activation-resize"
_MAX_TIMING_BYTES = 1 << 28


def open_store() -> PlanStore:
    """Open the plan store in the user's cache.

    Raises
    ------
    BackendUnavailableError
        If the cache cannot be used: others could write to it, or it is not writable at all.
    """
    try:
        return PlanStore(cache_folder(plans.FOLDER))
    except OSError as error:
        raise BackendUnavailableError(f"the cache for engines cannot be used: {error}") from error


def key_for(
    flavour: Flavour,
    trt: Any,
    model: ModelFile,
    precision: str,
    batch: BatchRange,
    device: Gpu | int,
) -> PlanKey:
    """Collect everything that a plan depends on.

    Parameters
    ----------
    device
        The GPU of this machine, or the compute capability (86 for 8.6) of another.
    """
    return PlanKey(
        backend=flavour.backend,
        onnx_sha256=model.sha256,
        precision=precision,
        batch=str(batch),
        sides=",".join(map(str, model.sides)) if len(model.sides) > 1 else "",
        sm=str(_sm(device)),
        **_environment(flavour, trt, device),
    )


def staleness(key: PlanKey) -> str:
    """Why a plan cannot be used on this machine; empty if it can."""
    flavour = FLAVOURS[key.backend]
    try:
        trt = flavour.load()
    except BackendUnavailableError as error:
        return error.reason
    gpu = find_gpu()
    if flavour.portable:
        return ", ".join(key.differences(replace(key, **_environment(flavour, trt, 0))))
    if isinstance(gpu, Probe):
        return gpu.reason
    now = replace(key, sm=str(gpu.sm), **_environment(flavour, trt, gpu))
    return ", ".join(key.differences(now))


def _environment(flavour: Flavour, trt: Any, device: Gpu | int) -> dict[str, str]:
    """What a plan depends on besides the request; a portable one is independent of the GPU."""
    operating_system, architecture = system()
    gpu = None if flavour.portable or isinstance(device, int) else device
    # There is a package of each version for every major version of CUDA.
    cuda = cuda_of_packages(flavour.installed())
    return {
        "version": f"{trt.__version__}+cu{cuda}" if cuda else str(trt.__version__),
        "flags": _FLAGS,
        # Cards with more or less memory may share a name.
        "gpu": f"{gpu.name}, {gpu.memory / 1e9:.0f} GB" if gpu else ANY,
        "driver": gpu.driver if gpu else ANY,
        "cuda": gpu.cuda if gpu else ANY,
        "system": operating_system,
        "architecture": architecture,
    }


def _slug(name: str) -> str:
    """A name as part of a file name."""
    return re.sub(r"[^A-Za-z0-9]+", "-", name).strip("-")


def _sm(device: Gpu | int) -> int:
    return device if isinstance(device, int) else device.sm


def load_or_build(
    flavour: Flavour,
    model: ModelFile,
    precision: str,
    device: Gpu | int,
    batch: BatchRange | None = None,
    progress: Progress | None = None,
    refused: bytes | None = None,
) -> Plan:
    """Load the plan for a variant from the cache, or build it.

    A model that must not use the cache is built every time, in a folder that is removed again.

    Parameters
    ----------
    batch
        The range of batch sizes; by default that of the newest cached plan that
        otherwise matches, so a plan built with another range is used.
    refused
        A cached plan that TensorRT did not accept, to be replaced.

    Raises
    ------
    BackendUnavailableError
        If TensorRT is missing or cannot build the plan, or the cache cannot be used.
    """
    if not model.use_cache:
        with TemporaryDirectory(prefix="cnnres-infer-") as folder:
            store = PlanStore(Path(folder))
            return _load_or_build(store, flavour, model, precision, device, batch, progress, None)
    return _load_or_build(open_store(), flavour, model, precision, device, batch, progress, refused)


def _load_or_build(
    store: PlanStore,
    flavour: Flavour,
    model: ModelFile,
    precision: str,
    device: Gpu | int,
    batch: BatchRange | None,
    progress: Progress | None,
    refused: bytes | None,
) -> Plan:
    trt = flavour.load()
    key = key_for(flavour, trt, model, precision, batch or BatchRange(), device)
    if batch is None:
        key = replace(key, batch=store.newest_batch(key) or key.batch)
    batch_range = BatchRange.parse(key.batch)

    def work() -> bytes:
        if progress is None and not (flavour.portable and model.use_cache):
            _log.warning(
                "building a TensorRT engine (%s) for %s: this takes minutes, %s",
                precision,
                device,
                "but only once"
                if model.use_cache
                else "at every start, since a signature is required and the cache has none",
            )
        timing = store.folder / f"timing-{flavour.backend}-{key.version}-{_slug(key.gpu)}.cache"
        earlier = (
            None
            if flavour.portable
            else read_regular(timing, _MAX_TIMING_BYTES)
            if timing.exists()
            else b""
        )
        # TensorRT builds for the current GPU only.
        sm = _sm(device) if flavour.portable else None
        plan, measured = build(
            trt, model.content, batch_range, sm, earlier, progress, sides=model.sides
        )
        if measured is not None:
            write_all({timing: measured}, overwrite=True)
        return plan

    try:
        return store.get_or_build(key, work, refused)
    except OSError as error:
        raise BackendUnavailableError(f"the cache for engines cannot be used: {error}") from error
