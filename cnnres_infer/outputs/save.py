"""Writing what a result leaves behind: all of it or nothing, the mask last."""

import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TypeAlias

from cnnres_infer.core.result import Result, Saved
from cnnres_infer.errors import UsageError
from cnnres_infer.host.atomic import check_free, exclusive, unfinished, write_all
from cnnres_infer.outputs.writers import WRITERS
from cnnres_infer.outputs.writers.report import Refusal, render_refusal

# Where each output of one case goes, by the name of its format, in the order of writing.
Paths: TypeAlias = Mapping[str, Path]

_LARGEST_REPORT = 1 << 24


def check_formats(formats: Sequence[str]) -> None:
    """Raise `UsageError` if there is no such format."""
    unknown = [each for each in formats if each not in WRITERS]
    if unknown:
        raise UsageError(f"no output format {unknown[0]!r}; choose from {', '.join(WRITERS)}")


def plan(folder: Path, name: str, formats: Sequence[str]) -> Paths:
    """Name the outputs of a case.

    Raises
    ------
    UsageError
        If there is no such format.
    """
    check_formats(formats)
    return {
        each: folder / f"{name}{writer.suffix}"
        for each, writer in WRITERS.items()
        if each in formats
    }


def save(result: Result, folder: Path, formats: Sequence[str], *, overwrite: bool) -> Saved:
    """Write the outputs of a result, all of them or none, the mask last.

    With `overwrite`, whatever an earlier run left for this case goes first.

    Raises
    ------
    UsageError
        If there is no such format.
    OutputExistsError
        If an output already exists and `overwrite` is False; none is written then.
    OutputError
        If the folder cannot be written to.
    """
    name = result.volume.name
    outputs = make_room(folder, name, formats, overwrite=overwrite)
    contents = {path: WRITERS[each].render(result) for each, path in outputs.items()}
    every = plan_all(folder, name)
    with exclusive(folder, every.values()):
        _remove_leftovers(every)
        write_all(contents, overwrite, former=every.values())
    return Saved(dict(outputs))


def make_room(folder: Path, name: str, formats: Sequence[str], *, overwrite: bool) -> Paths:
    """Plan the outputs of a case, and remove what a refused or killed run left of them.

    Raises
    ------
    UsageError
        If there is no such format.
    OutputExistsError
        If an output already exists and `overwrite` is False.
    OutputError
        If one cannot be a path here.
    """
    outputs = plan(folder, name, formats)
    every = plan_all(folder, name)
    if folder.is_dir() and _leftovers(every):
        with exclusive(folder, every.values()):
            _remove_leftovers(every)
    check_free(outputs.values(), overwrite)
    return outputs


def save_refusal(folder: Path, name: str, refusal: Refusal) -> None:
    """Leave a report of why a case has no mask, unless outputs of it exist.

    The next run of the case replaces it.

    Raises
    ------
    OutputError
        If the folder cannot be written to.
    """
    outputs = plan_all(folder, name)
    report, mask = outputs["report"], outputs["mask"]
    with exclusive(folder, outputs.values()):
        _remove_leftovers(outputs)
        if not report.exists() and not mask.exists():
            write_all({report: render_refusal(refusal)})


def plan_all(folder: Path, name: str) -> Paths:
    """Name every output that a case may have."""
    return plan(folder, name, tuple(WRITERS))


def _remove_leftovers(outputs: Paths) -> None:
    for path in reversed(_leftovers(outputs)):
        path.unlink(missing_ok=True)


def _leftovers(outputs: Paths) -> tuple[Path, ...]:
    """Name what may go unasked: the report of a refusal, or what a killed run left.

    A finished run whose mask was taken away since has a report as a killed one
    has, but no unfinished mask.
    """
    report, mask = outputs["report"], outputs["mask"]
    if os.path.lexists(mask):
        return ()
    try:
        with report.open("rb") as file:
            found = json.loads(file.read(_LARGEST_REPORT))
    except (OSError, ValueError, RecursionError):
        return ()
    if not isinstance(found, dict) or "research_use_only" not in found:
        return ()
    if found.get("status") == "failed":
        return (report,)
    masks = unfinished([mask])
    return (*masks, *outputs.values()) if masks else ()
