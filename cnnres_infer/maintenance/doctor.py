"""What this machine can run, what it cannot, and how to fix that."""

import time
from collections.abc import Iterator
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

import numpy as np

from cnnres_infer import __version__
from cnnres_infer.bundle.bundle import Bundle
from cnnres_infer.core.precision import Precision
from cnnres_infer.engines import BACKENDS, probe
from cnnres_infer.engines.base import Probe
from cnnres_infer.engines.nvidia.device import find_gpu
from cnnres_infer.engines.nvidia.elf import needed_libraries
from cnnres_infer.engines.tensorrt.api import FLAVOURS, LICENCE, TENSORRT
from cnnres_infer.engines.tensorrt.build import capabilities
from cnnres_infer.errors import CnnresError
from cnnres_infer.host import machine
from cnnres_infer.maintenance import cache as cache_contents
from cnnres_infer.selection.offers import offers, open_engine
from cnnres_infer.selection.select import select
from cnnres_infer.verification.agreement import GATES, dice, load_reference

_SURROUNDINGS = {"python", "driver", "cuda", "cuda-bindings", "cuda-python"}


class Status(StrEnum):
    """How a part of the machine is.

    It works; it is for a device that this machine does not have; it is not
    installed, or incomplete; it is installed, but broken.
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
        How it is.
    reason
        What was found.
    remedy
        The command or step that fixes it; empty where nothing needs fixing.
    """

    subject: str
    status: Status
    reason: str
    remedy: str = ""


@dataclass(frozen=True)
class Selected:
    """The engine that is selected unless another is asked for."""

    backend: str
    precision: Precision
    provider: str


@dataclass(frozen=True)
class DoctorReport:
    """The diagnosis of a machine.

    Attributes
    ----------
    version
        Of this package.
    findings
        The parts of the machine, the backends, and what would be selected.
    auto
        What would be selected; None if nothing can run.
    """

    version: str
    findings: tuple[Finding, ...]
    auto: Selected | None


def examine(folder: Path | None) -> DoctorReport:
    """Look at processor, GPU, runtimes and cache, and run a slice on every usable backend.

    Parameters
    ----------
    folder
        The bundle to run; None: the built-in one.

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
        _cache(folder),
        *_licence(),
    )
    auto, selection = _auto(bundle)
    return DoctorReport(__version__, (*findings, selection), auto)


def _processor() -> Finding:
    features = machine.cpu_features()
    found = [name for name, there in features.items() if there]
    absent = [name for name, there in features.items() if not there]
    has = f"{machine.processor()}: {', '.join(found) or 'none of the fast INT8 and BF16 units'}"
    return Finding("processor", Status.OK, f"{has}; not {', '.join(absent)}" if absent else has)


def _cores() -> Finding:
    usable, present = machine.usable_cores(), machine.present_cores()
    reason = f"{usable} of {present} cores are usable"
    if usable == present:
        return Finding("cores", Status.OK, reason)
    return Finding(
        "cores",
        Status.WARN,
        f"{reason}: the rest is withheld by affinity or by a container's quota",
        "raise the quota (docker run --cpus) or the affinity (taskset), if speed matters",
    )


def _gpu() -> Finding:
    gpu = find_gpu()
    if isinstance(gpu, Probe):
        return Finding("GPU", Status.NONE if gpu.absent else Status.WARN, gpu.reason, gpu.remedy)
    driver = f"driver {gpu.driver or 'of unknown version'}, CUDA up to {gpu.cuda}"
    return Finding("GPU", Status.OK, f"{gpu}, {driver}")


def _backend(bundle: Bundle, name: str) -> Finding:
    found = probe(name)
    if not found.usable:
        # What was installed is meant to work; what was not may well be left out.
        broken = bool(set(found.versions) - _SURROUNDINGS)
        status = Status.NONE if found.absent else Status.FAIL if broken else Status.WARN
        return Finding(name, status, found.reason + _can_build(name), found.remedy)
    offered = list(offers(bundle, name))
    if not offered:
        return Finding(name, Status.WARN, f"{found.reason}; the bundle has no variant for it")
    try:
        return _try(bundle, name, offered[0], found)
    except CnnresError as error:
        return Finding(name, Status.FAIL, str(error))


def _try(bundle: Bundle, name: str, precision: Precision, found: Probe) -> Finding:
    """Run the reference slices with the largest lesions, as many as the engine takes at once."""
    images, reference = load_reference(bundle)
    mask = bundle.spec.mask
    with open_engine(bundle, name, precision) as engine:
        rising = np.argsort(mask.apply(reference).sum(axis=(1, 2, 3)), kind="stable")
        largest = rising[-engine.BATCH :]
        engine.run(images[largest])
        started = time.perf_counter()
        output = engine.run(images[largest])
        milliseconds = 1e3 * (time.perf_counter() - started) / len(largest)
    agreement = dice(mask.apply(output), mask.apply(reference[largest]))
    result = f"{precision}, a slice in {milliseconds:.1f} ms, Dice with PyTorch {agreement:.4f}"
    if agreement < GATES[precision].tail:
        return Finding(
            name,
            Status.FAIL,
            f"{found.reason}: {result}",
            f"cnnres-infer verify --backend {name}; install its runtime again if that fails",
        )
    return Finding(name, Status.OK, f"{found.reason}: {result}")


def _can_build(name: str) -> str:
    """What a backend can do without a GPU."""
    flavour = FLAVOURS.get(name)
    if flavour is None or not flavour.portable or not flavour.installed():
        return ""
    try:
        sms = capabilities(flavour.load())
    except CnnresError:
        return ""
    return f"; it builds engines for GPUs of other machines (SM {', '.join(map(str, sms))})"


def _conflicts() -> Iterator[Finding]:
    """What is installed and does not go together, besides what the backends themselves tell."""
    linked, version = _tensorrt_of_onnxruntime(), next(iter(TENSORRT.installed().values()), "")
    if linked and version and linked != version.partition(".")[0]:
        yield Finding(
            "ort-tensorrt",
            Status.WARN,
            f"onnxruntime-gpu links TensorRT {linked}, and TensorRT {version} is installed",
            f"pip install 'tensorrt=={linked}.*' (from NVIDIA's index), or use "
            '`backend="tensorrt"`',
        )


def _tensorrt_of_onnxruntime() -> str:
    """Major version of TensorRT that the installed onnxruntime links; empty if none."""
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
    reason = f"{len(plans) - stale} engines valid, {stale} stale"
    if not stale:
        return Finding("cache", Status.OK, reason)
    remedy = "cnnres-infer cache list, then cnnres-infer cache clear"
    return Finding("cache", Status.WARN, reason, remedy)


def _licence() -> Iterator[Finding]:
    if any(flavour.installed() for flavour in FLAVOURS.values()):
        yield Finding("licence", Status.OK, LICENCE)


def _auto(bundle: Bundle) -> tuple[Selected | None, Finding]:
    """What is selected unless another backend is asked for."""
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
