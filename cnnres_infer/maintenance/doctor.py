"""What this machine can run, what it cannot, and how to mend that."""

import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from cnnres_infer import __version__
from cnnres_infer.bundle.bundle import Bundle
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

if TYPE_CHECKING:
    from rich.console import Console

OK, NONE, WARN, FAIL = "OK", "NONE", "WARN", "FAIL"
_COLOURS = {OK: "green", NONE: "dim", WARN: "yellow", FAIL: "red"}
_SURROUNDINGS = {"python", "driver", "cuda", "cuda-bindings", "cuda-python"}


@dataclass(frozen=True)
class Finding:
    """One line of the diagnosis.

    Attributes
    ----------
    subject
        A part of the machine, or a backend.
    status
        ``"OK"``: works; ``"NONE"``: for a device that this machine does not have;
        ``"WARN"``: not here, or not all there; ``"FAIL"``: here, and broken.
    reason
        What was found.
    remedy
        The command or step that mends it; empty where nothing is to be mended.
    """

    subject: str
    status: str
    reason: str
    remedy: str = ""


def examine(folder: Path | None) -> dict[str, Any]:
    """Look at processor, GPU, runtimes and cache, and run a slice on every usable backend.

    Parameters
    ----------
    folder
        The bundle to run; None: the built-in one.

    Returns
    -------
    dict
        Ready for JSON: findings, and what ``--backend auto`` takes.

    Raises
    ------
    BundleError
        If the bundle cannot be opened.
    """
    bundle = Bundle.open(folder)
    findings = [
        _processor(),
        _cores(),
        _gpu(),
        *(_backend(bundle, name) for name in BACKENDS),
        *_conflicts(),
        _cache(folder),
        *_licence(),
    ]
    auto, reason = _auto(bundle)
    findings.append(Finding("auto", FAIL if auto is None else OK, reason))
    return {
        "version": __version__,
        "findings": [asdict(finding) for finding in findings],
        "auto": auto,
    }


def print_findings(entry: dict[str, Any], console: "Console") -> None:
    """Print what `examine` found, a line for each finding, and below it what mends it.

    What is missing for one reason is one line.
    """
    from rich.markup import escape

    subjects: dict[tuple[str, str, str], list[str]] = {}
    for found in entry["findings"]:
        finding = (found["status"], found["reason"], found["remedy"])
        subjects.setdefault(finding, []).append(found["subject"])
    for (status, reason, remedy), names in subjects.items():
        console.print(f"[{_COLOURS[status]}]{status:4}[/] {', '.join(names)}: {escape(reason)}")
        if remedy and status != NONE:
            console.print(f"     to mend it: {escape(remedy)}")


def _processor() -> Finding:
    features = machine.cpu_features()
    found = [name for name, there in features.items() if there]
    absent = [name for name, there in features.items() if not there]
    has = f"{machine.processor()}: {', '.join(found) or 'none of the fast INT8 and BF16 units'}"
    return Finding("processor", OK, f"{has}; not {', '.join(absent)}" if absent else has)


def _cores() -> Finding:
    usable, present = machine.usable_cores(), machine.present_cores()
    reason = f"{usable} of {present} cores are usable"
    if usable == present:
        return Finding("cores", OK, reason)
    return Finding(
        "cores",
        WARN,
        f"{reason}: the rest is withheld by affinity or by a container's quota",
        "raise the quota (docker run --cpus) or the affinity (taskset), if speed matters",
    )


def _gpu() -> Finding:
    gpu = find_gpu()
    if isinstance(gpu, Probe):
        return Finding("GPU", NONE if gpu.absent else WARN, gpu.reason, gpu.remedy)
    driver = f"driver {gpu.driver or 'of unknown version'}, CUDA up to {gpu.cuda}"
    return Finding("GPU", OK, f"{gpu}, {driver}")


def _backend(bundle: Bundle, name: str) -> Finding:
    found = probe(name)
    if not found.usable:
        # What was installed is meant to work; what was not may well be left out.
        broken = bool(set(found.versions) - _SURROUNDINGS)
        status = NONE if found.absent else FAIL if broken else WARN
        return Finding(name, status, found.reason + _can_build(name), found.remedy)
    offered = list(offers(bundle, name))
    if not offered:
        return Finding(name, WARN, f"{found.reason}; the bundle has no variant for it")
    try:
        return _try(bundle, name, offered[0], found)
    except CnnresError as error:
        return Finding(name, FAIL, str(error))


def _try(bundle: Bundle, name: str, precision: str, found: Probe) -> Finding:
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
            FAIL,
            f"{found.reason}: {result}",
            f"cnnres-infer verify --backend {name}; install its runtime again if that fails",
        )
    return Finding(name, OK, f"{found.reason}: {result}")


def _can_build(name: str) -> str:
    """What a backend can do without a GPU."""
    flavour = FLAVOURS.get(name)
    if flavour is None or not flavour.portable or not flavour.installed():
        return ""
    try:
        sms = capabilities(flavour.load())
    except CnnresError:
        return ""
    return f"; it builds engines for other machines (--sm {', '.join(map(str, sms))})"


def _conflicts() -> Iterator[Finding]:
    """What is installed and does not go together, besides what the backends themselves tell."""
    linked, version = _tensorrt_of_onnxruntime(), next(iter(TENSORRT.installed().values()), "")
    if linked and version and linked != version.partition(".")[0]:
        yield Finding(
            "ort-tensorrt",
            WARN,
            f"onnxruntime-gpu links TensorRT {linked}, and TensorRT {version} is installed",
            f"pip install 'tensorrt=={linked}.*' (from NVIDIA's index), or use --backend tensorrt",
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
        plans = cache_contents.describe(folder)["plans"]
    except CnnresError as error:
        return Finding("cache", FAIL, str(error))
    stale = [plan for plan in plans if plan["state"] == "stale"]
    reason = f"{len(plans) - len(stale)} engines valid, {len(stale)} stale"
    if not stale:
        return Finding("cache", OK, reason)
    return Finding("cache", WARN, reason, "cnnres-infer cache list, then cnnres-infer cache clear")


def _licence() -> Iterator[Finding]:
    if any(flavour.installed() for flavour in FLAVOURS.values()):
        yield Finding("licence", OK, LICENCE)


def _auto(bundle: Bundle) -> tuple[dict[str, Any] | None, str]:
    """What ``--backend auto`` takes, and in words."""
    try:
        with (selection := select(bundle)).engine as engine:
            info = engine.describe()
    except CnnresError as error:
        return None, str(error)
    taken = {"backend": info.backend, "precision": info.precision, "provider": info.provider}
    skipped = ", ".join(dict.fromkeys(each.backend for each in selection.skipped))
    reason = f"--backend auto takes {info.backend}, {info.precision} ({info.provider})"
    return taken, f"{reason}, after skipping {skipped}" if skipped else reason
