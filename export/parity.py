"""Comparing every engine of this machine with PyTorch, on one volume."""

from collections.abc import Mapping
from contextlib import ExitStack
from functools import partial
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from cnnres_infer.bundle.bundle import Bundle
from cnnres_infer.core.case import Case
from cnnres_infer.core.grouping import group_names
from cnnres_infer.engines import BACKENDS, backend
from cnnres_infer.engines.base import Engine, run_all
from cnnres_infer.errors import EngineError
from cnnres_infer.host.machine import processor, usable_cores
from cnnres_infer.selection.offers import open_engine
from cnnres_infer.verification.agreement import GATES
from cnnres_infer.verification.recording import Recording, record_case
from cnnres_infer.verification.reference import compare_recordings
from export.timing import median_seconds
from network.engine import TorchEngine

_TORCH = "torch fp32"
_HEADINGS = ("engine", "min", "mean", "masks", "diff.", "time", "speed", "gate")


def parity(bundle: Bundle, reference: TorchEngine, case: Case, repeats: int) -> dict[str, Any]:
    """Compare every backend and precision with PyTorch, and time the network alone.

    Parameters
    ----------
    reference
        PyTorch with the bundle's weights.
    repeats
        Timing rounds, in which the engines take turns; times are medians.

    Returns
    -------
    dict
        The figures of each engine in ``rows``, PyTorch's first. An engine that
        cannot be used has a ``reason`` instead.
    """
    expected = record_case(bundle, reference, case)
    rows: dict[str, dict[str, Any]] = {
        _TORCH: {"backend": "torch", "precision": "fp32", "status": "reference"}
    }
    engines: dict[str, Engine] = {_TORCH: reference}
    with ExitStack() as opened:
        for name in BACKENDS:
            for precision in backend(name).VARIANTS:
                key, row = f"{name} {precision}", {"backend": name, "precision": precision}
                try:
                    engine = opened.enter_context(open_engine(bundle, name, precision))
                    figures = _agreement(bundle, engine, case, expected)
                except EngineError as error:
                    rows[key] = {**row, "status": "not usable", "reason": str(error)}
                    continue
                engines[key], rows[key] = engine, {**row, **figures}
        cases = {key: partial(run_all, engine, expected.images) for key, engine in engines.items()}
        seconds = median_seconds(cases, repeats)
    for key, spent in seconds.items():
        rows[key]["seconds"] = spent
        rows[key]["speed_up"] = seconds[_TORCH] / spent
    return {
        "volume": case.volume.name,
        "slices": len(expected.images),
        "bundle_sha256": bundle.digest,
        "machine": f"{processor()}, {usable_cores()} cores",
        "repeats": repeats,
        "rows": list(rows.values()),
    }


def _agreement(bundle: Bundle, engine: Engine, case: Case, expected: Recording) -> dict[str, Any]:
    recording = record_case(bundle, engine, case)
    comparison = compare_recordings(
        case.volume.name, recording, expected.output, expected.mask.data, bundle
    )
    info = engine.describe()
    return {
        "status": "passed" if comparison.passes(GATES[info.precision]) else "failed",
        "provider": info.provider,
        "versions": info.versions,
        **comparison.to_json(),
    }


def print_parity(figures: dict[str, Any], console: Console) -> None:
    """Print the figures of `parity` as a table."""
    title = f"{figures['volume']}: {figures['slices']} slices, against PyTorch float32"
    table = Table(*_HEADINGS, title=escape(title))
    table.columns[0].no_wrap = True
    for row in figures["rows"]:
        table.add_row(
            f"{row['backend']} {row['precision']}", *_agreed(row), *_speed(row), _gate(row)
        )
    console.print(table)
    console.print(
        "min, mean: Dice of slices with lesion; masks: Dice of the volume's masks; diff.: "
        "largest difference in probability; time: seconds for the network alone, median of "
        f"{figures['repeats']} interleaved rounds; speed: relative to PyTorch; "
        f"{figures['machine']}"
    )
    rows = {f"{row['backend']} {row['precision']}": row for row in figures["rows"]}
    print_not_usable(rows, console)


def print_not_usable(rows: Mapping[str, dict[str, Any]], console: Console) -> None:
    """List the rows that have a ``reason`` instead of figures, one line per reason."""
    lacking = ((name, row["reason"]) for name, row in rows.items() if "reason" in row)
    for reason, names in group_names(lacking).items():
        console.print(escape(f"not usable: {', '.join(names)}: {reason}"))


def _agreed(row: dict[str, Any]) -> list[str]:
    """Cells of the agreement; empty for PyTorch and for engines that did not run."""
    if "dice_mean" not in row:
        return [""] * 4
    dices = [f"{row[key]:.4f}" for key in ("dice_min", "dice_mean", "dice_volume_mask")]
    return [*dices, f"{row['largest_difference']:.2g}"]


def _speed(row: dict[str, Any]) -> list[str]:
    if "seconds" not in row:
        return [""] * 2
    return [f"{row['seconds']:.3f}", f"{row['speed_up']:.2f}"]


def _gate(row: dict[str, Any]) -> str:
    return "" if row["status"] == "reference" else str(row["status"])
