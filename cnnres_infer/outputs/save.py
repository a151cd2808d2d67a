"""Writing the outputs of a case: all of them or none, the mask last."""

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from typing import TypeAlias

from cnnres_infer.core.result import Result, Saved
from cnnres_infer.errors import UsageError
from cnnres_infer.host.atomic import FolderLockedError, check_free, exclusive, unfinished, write_all
from cnnres_infer.host.files import read_regular
from cnnres_infer.outputs.writers import DEFAULT_FORMATS, MASK, WRITERS
from cnnres_infer.outputs.writers.report import Refusal, render_refusal

# Path of each output of a case by its format, in the order of writing.
Paths: TypeAlias = Mapping[str, Path]

_MAX_REPORT_BYTES = 1 << 24
_REFUSAL_PATIENCE_S = 0.1


def check_formats(formats: Sequence[str]) -> None:
    """Raise `UsageError` if there is no such format, or none at all."""
    names = ", ".join(sorted(WRITERS))
    if isinstance(formats, str):
        raise UsageError(f"formats are given as a list, such as [{formats!r}], not as a string")
    if not formats:
        raise UsageError(f"no output format is left; name one of {names}")
    unknown = [each for each in formats if each not in WRITERS]
    if unknown:
        raise UsageError(f"no output format {unknown[0]!r}; choose from {names}")


def check_identify(formats: Sequence[str], identify: bool) -> None:
    """Raise `UsageError` if a patient is to be named, but no format does so."""
    if identify and not any(WRITERS[each].identifies for each in formats):
        able = ", ".join(name for name, writer in WRITERS.items() if writer.identifies)
        raise UsageError(
            f"`identify` names the patient in the format {able} only, which is not written; add "
            "that format, or leave out `identify`"
        )


def check_reader(formats: Sequence[str], reader: str, name: object) -> None:
    """Raise `UsageError` if a format cannot be made of what a reader reads, or not here.

    Parameters
    ----------
    formats
        Output formats.
    reader
        Name of the reader; empty for arrays.
    name
        The input, for messages.
    """
    for each in formats:
        writer = WRITERS[each]
        if writer.reader not in (None, reader):
            raise UsageError(
                f"{name}: {each} can only be written of a DICOM study, whose patient and frame of "
                "reference it repeats; leave it out, or give the study"
            )
        if writer.library and find_spec(writer.library) is None:
            raise UsageError(
                f"{each} needs {writer.library}, which is not installed; run pip install "
                "'cnnres-infer[dicom]'"
            )


def check_folder(folder: Path) -> None:
    """Raise `UsageError` if a folder is named like an output, and does not exist."""
    suffixes = {Path(writer.suffix).suffix for writer in WRITERS.values()} | {".nii", ".html"}
    if Path(folder.name.lower()).suffix in suffixes and not folder.is_dir():
        raise UsageError(
            f"{folder}: named like a file, but outputs go to a folder under names of their own; "
            "give a folder"
        )


def plan(folder: Path, name: str, formats: Sequence[str]) -> Paths:
    """Paths of the outputs of a case.

    Parameters
    ----------
    folder
        Output folder.
    name
        Name of the case.
    formats
        Output formats; see `WRITERS`.

    Raises
    ------
    UsageError
        If a format is unknown, or the name leads out of the folder.
    """
    check_formats(formats)
    if not name or set(name) & set("/\\\0"):
        raise UsageError(
            f"{name!r} cannot be the beginning of a file's name; give the volume another name"
        )
    mask_last = sorted(WRITERS, key=lambda each: each == MASK)
    return {each: folder / f"{name}{WRITERS[each].suffix}" for each in mask_last if each in formats}


def save(
    result: Result,
    folder: Path,
    formats: Sequence[str] | None = None,
    *,
    overwrite: bool = False,
    identify: bool = False,
) -> Saved:
    """Write the outputs of a result: all of them or none, the mask last.

    Parameters
    ----------
    result
        The result.
    folder, formats
        See `plan`.
    overwrite
        Replace all outputs of an earlier run of the case, in any format.
    identify
        Name the patient in formats that can do so.

    Raises
    ------
    UsageError
        If a format is unknown or cannot be made of this input, or no format names the
        patient and `identify` is set.
    OutputExistsError
        If an output already exists and `overwrite` is False; nothing is written.
    OutputError
        If the folder cannot be written to.
    """
    name = result.volume.name
    wanted = DEFAULT_FORMATS if formats is None else formats
    check_formats(wanted)
    check_identify(wanted, identify)
    check_reader(wanted, getattr(result.volume.source, "reader", ""), name)
    planned = make_room(folder, name, wanted, overwrite=overwrite)
    omitted = {each: reason for each in planned if (reason := WRITERS[each].omission(result))}
    outputs = {each: path for each, path in planned.items() if each not in omitted}
    result = replace(result, formats=tuple(outputs), omitted=omitted)
    contents = {
        path: WRITERS[each].render(result, identify=identify) for each, path in outputs.items()
    }
    all_outputs = plan_all(folder, name)
    with exclusive(folder, all_outputs.values()):
        _remove_leftovers(all_outputs)
        write_all(contents, overwrite, former=all_outputs.values())
    return Saved(outputs, omitted)


def make_room(folder: Path, name: str, formats: Sequence[str], *, overwrite: bool) -> Paths:
    """Delete what a failed or killed run left of a case, and check that nothing else exists.

    Parameters
    ----------
    folder, name, formats
        See `plan`.
    overwrite
        Whether outputs of a completed run may exist.

    Returns
    -------
    Paths
        Paths of the outputs to write.

    Raises
    ------
    UsageError
        If a format is unknown, or the folder is named like a file.
    OutputExistsError
        If an output already exists and `overwrite` is False.
    OutputError
        If a path is invalid on this file system.
    """
    check_folder(folder)
    outputs = plan(folder, name, formats)
    all_outputs = plan_all(folder, name)
    if folder.is_dir() and _leftovers(all_outputs):
        with exclusive(folder, all_outputs.values()):
            _remove_leftovers(all_outputs)
    check_free(outputs.values(), overwrite)
    return outputs


def save_refusal(folder: Path, name: str, refusal: Refusal) -> None:
    """Write a report that says why a case has no mask, unless the case already has outputs.

    The next run of the case replaces the report.

    Parameters
    ----------
    folder, name
        See `plan`.
    refusal
        The input and the error.

    Raises
    ------
    OutputError
        If the folder cannot be written to.
    """
    outputs = plan_all(folder, name)
    report, mask = outputs["report"], outputs["mask"]

    def write() -> None:
        if not report.exists() and not mask.exists():
            write_all({report: render_refusal(refusal)})

    try:
        with exclusive(folder, outputs.values(), _REFUSAL_PATIENCE_S):
            _remove_leftovers(outputs)
            write()
    except FolderLockedError:
        # Leftovers may be those of the other process, but a new report replaces nothing.
        write()


def plan_all(folder: Path, name: str) -> Paths:
    """Paths of the outputs of a case in all formats."""
    return plan(folder, name, tuple(WRITERS))


def _remove_leftovers(outputs: Paths) -> None:
    for path in reversed(_leftovers(outputs)):
        path.unlink(missing_ok=True)


def _leftovers(outputs: Paths) -> tuple[Path, ...]:
    """Files that may be deleted without `overwrite`: those of a failed or killed run.

    A killed run is recognised by its unfinished mask; a report without a mask
    may also belong to a completed run whose mask was moved or deleted.
    """
    report, mask = outputs["report"], outputs["mask"]
    if os.path.lexists(mask):
        return ()
    try:
        content = json.loads(read_regular(report, _MAX_REPORT_BYTES))
    except (OSError, ValueError, RecursionError):
        return ()
    if not isinstance(content, dict) or "research_use_only" not in content:
        return ()
    if content.get("status") == "failed":
        return (report,)
    unfinished_masks = unfinished([mask])
    return (*unfinished_masks, *outputs.values()) if unfinished_masks else ()
