"""The terminal: what is printed, and how an error becomes a line and an exit status."""

import json
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn

import typer
from rich.console import Console

from cnnres_infer.errors import CnnresError
from cnnres_infer.readers.nifti.stream import stem

INTERNAL_ERROR = 1
OUT = Console(highlight=False, soft_wrap=True)
ERR = Console(stderr=True, highlight=False, soft_wrap=True)


def wide_console() -> Console:
    """A console for wide tables, whose figures are not cut to 80 columns in a file or pipe."""
    return Console(highlight=False, width=None if sys.stdout.isatty() else 200)


def _names(message: str, path: Path) -> bool:
    """Tell whether a message says which file it is about."""
    return str(path) in message or message.lower().startswith(f"{stem(path)}:")


def attempt(
    work: Callable[[], dict[str, Any]], verbose: bool, *inputs: Path
) -> tuple[int, dict[str, Any]]:
    """Run, and turn any error into one line, an exit status and an entry for the report.

    The line names the first of the inputs, unless it is about another of them.
    """
    try:
        return 0, work()
    except Exception as error:
        if isinstance(error, CnnresError):
            status, code, message = error.exit_status, error.code, str(error)
        else:
            status, code = INTERNAL_ERROR, CnnresError.default_code
            message = f"internal error: {error!r}; please report it with what -v prints"
        if inputs and not any(_names(message, path) for path in inputs):
            message = f"{inputs[0]}: {message}"
        if verbose:
            ERR.print(traceback.format_exc(), markup=False)
        ERR.print(f"cnnres-infer: {code}: {message}", markup=False)
        failure = {
            "type": type(error).__name__,
            "code": code,
            "message": message,
            "exit_status": status,
        }
        return status, {"status": "failed", "error": failure}


def show(
    work: Callable[[], dict[str, Any]],
    print_entry: Callable[[dict[str, Any], Console], None],
    as_json: bool,
    verbose: bool,
) -> NoReturn:
    """Run, print what came of it, and exit."""
    status, entry = attempt(work, verbose)
    if as_json:
        typer.echo(json.dumps(entry, indent=2))
    elif status == 0:
        print_entry(entry, OUT)
    raise typer.Exit(status)


def progress(volumes: list[Path], quiet: bool) -> Any:
    """Go through volumes, with a bar where there are several and someone may look."""
    if len(volumes) == 1 or quiet or not sys.stderr.isatty():
        return volumes
    from rich.progress import track

    return track(volumes, "segmenting", console=ERR)


def print_summary(volume: Path, entry: dict[str, Any], verbose: bool) -> None:
    """Print the report of a segmented volume in a few lines."""
    lesions, engine = entry["lesions"], entry["engine"]
    OUT.print(
        f"{volume.name}: {lesions['count']} lesions, {lesions['volume_ml']:.2f} ml "
        f"({engine['backend']}, {engine['precision']}, "
        f"{sum(entry['timings_s'].values()):.2f} s)",
        markup=False,
    )
    for warning in entry["warnings"]:
        OUT.print(f"  warning {warning['code']}: {warning['text']}", markup=False)
    for path in entry["outputs"]:
        OUT.print(f"  {path}", markup=False)
    if verbose:
        for stage, seconds in entry["timings_s"].items():
            OUT.print(f"  {stage:>10} {seconds:8.3f} s")
