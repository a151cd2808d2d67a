"""Building engines before they are needed, on this machine or for another one's GPU."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cnnres_infer.bundle.bundle import Bundle
from cnnres_infer.core.precision import Precision
from cnnres_infer.engines import AUTO
from cnnres_infer.engines.base import Probe
from cnnres_infer.engines.nvidia.device import Gpu, find_gpu
from cnnres_infer.engines.tensorrt.api import FLAVOURS, LICENCE, TENSORRT, TENSORRT_RTX, Flavour
from cnnres_infer.engines.tensorrt.build import BatchRange, Progress
from cnnres_infer.engines.tensorrt.plan import load_or_build
from cnnres_infer.errors import BackendUnavailableError, UsageError
from cnnres_infer.selection.offers import offers

if TYPE_CHECKING:
    from rich.console import Console


def build_plans(
    folder: Path | None,
    backend: str,
    precision: str,
    sms: list[int],
    batch: BatchRange,
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Build a plan for each GPU named, and keep it in the cache.

    Parameters
    ----------
    folder
        The bundle; None: the built-in one.
    backend
        ``"tensorrt"``, ``"tensorrt-rtx"``, or ``"auto"``: the first that can.
    precision
        ``"fp16"``, ``"int8"`` or ``"fp32"``.
    sms
        Compute capabilities (86 for 8.6) to build for; none: the GPU present.
    batch
        The range of batch sizes.
    progress
        See `cnnres_infer.engines.tensorrt.build.build`.

    Returns
    -------
    dict
        Ready for JSON; a plan that was there already took 0 seconds.

    Raises
    ------
    UsageError
        If the backend builds no engines, or not for named GPUs.
    BackendUnavailableError
        If TensorRT is missing, or cannot build this.
    """
    bundle = Bundle.open(folder)
    devices = _devices(sms)
    flavour = _flavour(backend, bool(sms))
    offered = offers(bundle, flavour.backend)
    if precision not in offered:
        raise BackendUnavailableError(
            f"{bundle.folder} has no variant for precision {precision!r} of {flavour.backend}; "
            f"it has those for {', '.join(offered) or 'none'}"
        )
    variant = offered[Precision(precision)]
    model = bundle.model(variant)
    plans = [load_or_build(flavour, model, precision, each, batch, progress) for each in devices]
    return {
        "backend": flavour.backend,
        "precision": precision,
        "variant": variant,
        "batch": str(batch),
        "licence": LICENCE,
        "plans": [
            {
                "path": str(plan.path),
                "sm": plan.key.sm,
                "bytes": len(plan.content),
                "seconds": round(plan.seconds, 3),
                "rebuilt": plan.rebuilt,
            }
            for plan in plans
        ],
    }


def print_plans(entry: dict[str, Any], console: "Console") -> None:
    """Print what `build_plans` built."""
    for plan in entry["plans"]:
        how = f"built in {plan['seconds']:.1f} s" if plan["seconds"] else "was there already"
        console.print(
            f"{entry['backend']} {entry['precision']}, SM {plan['sm']}: "
            f"{plan['bytes'] / 1e6:.1f} MB, {how}\n  {plan['path']}",
            markup=False,
        )
    console.print(f"note: {entry['licence']}", markup=False)


@contextmanager
def progress_bar(console: "Console", quiet: bool) -> Iterator[Progress | None]:
    """A bar of the builder's phases on a terminal; None where nobody looks."""
    if quiet or not sys.stderr.isatty():
        yield None
        return
    from rich.progress import Progress as Bar

    with Bar(console=console, transient=True) as bar:
        tasks: dict[str, Any] = {}

        def show(phase: str, done: int, total: int) -> None:
            if phase not in tasks:
                tasks[phase] = bar.add_task(phase)
            bar.update(tasks[phase], completed=done, total=total, visible=done < total)

        yield show


def _devices(sms: list[int]) -> list[Gpu | int]:
    if sms:
        return list(dict.fromkeys(sms))
    gpu = find_gpu()
    if isinstance(gpu, Probe):
        raise BackendUnavailableError(
            gpu.reason, "name the GPU to build for by its compute capability, as in --sm 86"
        )
    return [gpu]


def _flavour(backend: str, named: bool) -> Flavour:
    if backend == AUTO:
        # Each engine of TensorRT is made on the GPU that it is for.
        return TENSORRT_RTX if named or not TENSORRT.installed() else TENSORRT
    if backend not in FLAVOURS:
        raise UsageError(
            f"backend {backend!r} builds no engines; choose from {', '.join(FLAVOURS)}"
        )
    flavour = FLAVOURS[backend]
    if named and not flavour.portable:
        raise UsageError(
            f"{backend} builds for the GPU present only: leave out --sm, or take tensorrt-rtx"
        )
    return flavour
