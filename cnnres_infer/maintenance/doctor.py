"""Diagnosing what this machine can run, what it cannot run, and how to fix that."""

import time
from collections.abc import Iterator
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

import numpy as np

from cnnres_infer import __version__
from cnnres_infer.bundle.bundle import Bundle
from cnnres_infer.core.precision import Precision
from cnnres_infer.engines import BACKENDS, backend, probe
from cnnres_infer.engines.base import Probe, run_all
from cnnres_infer.engines.nvidia.device import DEVICE, find_gpu, find_gpus
from cnnres_infer.engines.nvidia.elf import needed_libraries
from cnnres_infer.engines.tensorrt.api import FLAVOURS, LICENCE, TENSORRT, capabilities
from cnnres_infer.errors import CnnresError
from cnnres_infer.host import machine
from cnnres_infer.maintenance import cache as cache_contents
from cnnres_infer.outputs.viewer import version_or_problem
from cnnres_infer.selection.offers import offers, open_engine
from cnnres_infer.selection.select import select
from cnnres_infer.verification.agreement import GATES, dice, load_reference

# Versions that a probe reports although they are not part of the backend itself.
_ENVIRONMENT = {"python", "driver", "cuda", "cuda-runtime", "cuda-bindings", "cuda-python"}


class Status(StrEnum):
    """The state of a part of the machine.

    Attributes
    ----------
    OK
        It works.
    NONE
        It needs a device that this machine does not have, or does not exist for its GPU.
    WARN
        It is not installed, or a part of it is not.
    FAIL
        It is installed, but broken.
    """

    OK = "OK"
    NONE = "NONE"
    WARN = "WARN"
    FAIL = "FAIL"


@dataclass(frozen=True)
class Finding:
    """One finding of the diagnosis.

    Attributes
    ----------
    subject
        A part of the machine, or a backend.
    status
        The state that it is in.
    reason
        What was found.
    remedy
        The command or step that fixes it; empty if nothing needs fixing or no fix is known.
    """

    subject: str
    status: Status
    reason: str
    remedy: str = ""


@dataclass(frozen=True)
class Selected:
    """The engine that ``"auto"`` selects."""

    backend: str
    precision: Precision
    provider: str


@dataclass(frozen=True)
class DoctorReport:
    """The diagnosis of a machine.

    Attributes
    ----------
    version
        Version of this package.
    findings
        Findings on the parts of the machine, the backends and ``"auto"``.
    auto
        The engine that ``"auto"`` selects; None if nothing can run.
    """

    version: str
    findings: tuple[Finding, ...]
    auto: Selected | None


def examine(folder: Path | None) -> DoctorReport:
    """Examine the processor, GPU, runtimes and cache, and try every usable backend.

    Parameters
    ----------
    folder
        The bundle to run; None for the built-in one.

    Returns
    -------
    DoctorReport
        The diagnosis.

    Raises
    ------
    BundleError
        If the bundle cannot be opened.
    """
    bundle = Bundle.open(folder)
    findings = (
        _processor(),
        _cores(),
        _gpu(),
        *(_backend(bundle, name) for name in BACKENDS),
        *_conflicts(),
        _viewer(),
        _cache(folder),
        *_licence(),
    )
    auto, selection = _auto(bundle)
    return DoctorReport(__version__, (*findings, selection), auto)


def _viewer() -> Finding:
    version, problem = version_or_problem()
    if version:
        return Finding("report viewer", Status.OK, version)
    remedy = "install a wheel that has it, or build again with access to the npm registry"
    return Finding("report viewer", Status.WARN, problem, remedy)


def _processor() -> Finding:
    features = machine.cpu_features()
    found = [name for name, present in features.items() if present]
    absent = [name for name, present in features.items() if not present]
    has = f"{machine.processor()}: {', '.join(found) or 'no fast INT8 or BF16 instructions'}"
    return Finding("processor", Status.OK, f"{has}; lacks {', '.join(absent)}" if absent else has)


def _cores() -> Finding:
    usable, present = machine.usable_cores(), machine.present_cores()
    reason = f"{usable} of {present} cores are usable"
    if usable == present:
        return Finding("cores", Status.OK, reason)
    return Finding(
        "cores",
        Status.WARN,
        f"{reason}: the others are excluded by CPU affinity or a container's CPU quota",
        "if speed matters, raise the quota (docker run --cpus) or widen the affinity (taskset)",
    )


def _gpu() -> Finding:
    gpu = find_gpu()
    if isinstance(gpu, Probe):
        if gpu.absent:
            return Finding("GPU", Status.NONE, gpu.reason)
        return Finding("GPU", Status.WARN, gpu.reason, gpu.remedy)
    driver = f"driver {gpu.driver or '(unknown version)'}, CUDA up to {gpu.cuda}"
    others = find_gpus()
    listed = "".join(
        f"; {DEVICE}={each.index} is {each}"
        for each in (() if isinstance(others, Probe) else others)
        if each != gpu
    )
    return Finding("GPU", Status.OK, f"{gpu}, {driver}{listed}")


def _backend(bundle: Bundle, name: str) -> Finding:
    found = probe(name)
    if not found.usable:
        reason = found.reason + _can_build(name)
        if found.absent:
            return Finding(name, Status.NONE, reason)
        # What is installed is meant to work; what is not may be missing on purpose.
        broken = bool(set(found.versions) - _ENVIRONMENT) and not found.incomplete
        return Finding(name, Status.FAIL if broken else Status.WARN, reason, found.remedy)
    offered = list(offers(bundle, name))
    if not offered:
        return Finding(
            name, Status.WARN, f"{found.reason}; the bundle has no variant for this backend"
        )
    try:
        return _try(bundle, name, offered[0], found)
    except CnnresError as error:
        return Finding(name, Status.FAIL, str(error))


def _try(bundle: Bundle, name: str, precision: Precision, found: Probe) -> Finding:
    """Run one batch of the reference slices with the largest lesions."""
    images, reference = load_reference(bundle)
    mask = bundle.spec.mask
    with open_engine(bundle, name, precision) as engine:
        rising = np.argsort(mask.apply(reference).sum(axis=(1, 2, 3)), kind="stable")
        largest = rising[-engine.BATCH :]
        run_all(engine, images[largest])
        started = time.perf_counter()
        output = run_all(engine, images[largest])
        milliseconds = 1e3 * (time.perf_counter() - started) / len(largest)
    agreement = dice(mask.apply(output), mask.apply(reference[largest]))
    result = (
        f"{precision}, {milliseconds:.1f} ms per slice, Dice with PyTorch {agreement:.4f} on the "
        f"{len(largest)} reference slices with the largest lesions"
    )
    if failed := [each for each in backend(name).VARIANTS if each in bundle.failed]:
        result += f"; not used after missing the bundle's accuracy gate: {', '.join(failed)}"
    if agreement < GATES[precision].tail:
        return Finding(
            name,
            Status.FAIL,
            f"{found.reason}: {result}",
            f"cnnres-infer verify --backend {name}; if that fails, reinstall its runtime",
        )
    return Finding(name, Status.OK, f"{found.reason}: {result}")


def _can_build(name: str) -> str:
    """Describe what a backend that cannot run here can still build."""
    flavour = FLAVOURS.get(name)
    if flavour is None or not flavour.portable or not flavour.installed():
        return ""
    try:
        sms = capabilities(flavour.load())
    except CnnresError:
        return ""
    return f"; it can build engines for GPUs of other machines (SM {', '.join(map(str, sms))})"


def _conflicts() -> Iterator[Finding]:
    """Find installed packages that conflict, other than those that the probes report."""
    linked, version = _tensorrt_of_onnxruntime(), next(iter(TENSORRT.installed().values()), "")
    if linked and version and linked != version.partition(".")[0]:
        yield Finding(
            "ort-tensorrt",
            Status.WARN,
            f"onnxruntime-gpu links TensorRT {linked}, but TensorRT {version} is installed",
            f"pip install 'tensorrt=={linked}.*' (from NVIDIA's index), or use "
            '`backend="tensorrt"`',
        )


def _tensorrt_of_onnxruntime() -> str:
    """Major version of TensorRT that the installed onnxruntime links to; empty if none."""
    from importlib.util import find_spec

    spec = find_spec("onnxruntime")
    if spec is None or spec.origin is None:
        return ""
    library = Path(spec.origin).parent / "capi" / "libonnxruntime_providers_tensorrt.so"
    names = needed_libraries(library) if library.exists() else ()
    return next((n.rpartition(".")[2] for n in names if n.startswith("libnvinfer.so.")), "")


def _cache(folder: Path | None) -> Finding:
    try:
        plans = cache_contents.describe(folder).plans
    except CnnresError as error:
        return Finding("cache", Status.FAIL, str(error))
    stale = sum(plan.state == "stale" for plan in plans)
    reason = f"{len(plans) - stale} valid engines, {stale} stale"
    if not stale:
        return Finding("cache", Status.OK, reason)
    remedy = "cnnres-infer cache list, then cnnres-infer cache clear"
    return Finding("cache", Status.WARN, reason, remedy)


def _licence() -> Iterator[Finding]:
    if any(flavour.installed() for flavour in FLAVOURS.values()):
        yield Finding("licence", Status.OK, LICENCE)


def _auto(bundle: Bundle) -> tuple[Selected | None, Finding]:
    """Find out which engine ``"auto"`` selects."""
    try:
        with (selection := select(bundle)).engine as engine:
            info = engine.describe()
    except CnnresError as error:
        return None, Finding("auto", Status.FAIL, str(error))
    skipped = ", ".join(dict.fromkeys(each.backend for each in selection.skipped))
    reason = f'`backend="auto"` selects {info.backend}, {info.precision} ({info.provider})'
    if skipped:
        reason += f", after skipping {skipped}"
    return Selected(info.backend, info.precision, info.provider), Finding("auto", Status.OK, reason)
