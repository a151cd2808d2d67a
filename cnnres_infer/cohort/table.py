"""Cases listed in a table of paths, CSV or TSV."""

import csv
import io
from dataclasses import replace
from pathlib import Path
from typing import Any

from cnnres_infer.cohort.case import CohortCase, Found, Skip, label
from cnnres_infer.core.case import Modality, check_combination
from cnnres_infer.errors import UsageError
from cnnres_infer.host.files import read_regular

SUFFIXES = (".csv", ".tsv")
IMAGES = ("dwi", "flair", "adc", "b0", "brain_mask")
COLUMNS = ("participant_id", "session_id", *IMAGES)
_MAX_BYTES = 1 << 28
_MISSING = ("", "n/a")


def find_table(path: Path, modality: Modality, *, with_flair: bool = True) -> Found:
    """Find the cases of a table, one a row.

    Parameters
    ----------
    path
        The table: columns `COLUMNS`, of which a row needs ``participant_id`` and
        ``dwi`` (or ``flair``). Paths are relative to the table; an empty cell or
        ``n/a`` is none.
    modality
        What to segment. A row without a DWI is segmented by its FLAIR; one without
        a FLAIR is skipped if FLAIRs are to be segmented.
    with_flair
        Whether the FLAIR of a DWI is wanted.

    Raises
    ------
    UsageError
        If the table cannot be read, has other columns, or a row is incomplete or
        has too many cells.
    """
    columns, rows = _read(path)
    cases, skipped = [], []
    for number, row in enumerate(rows, start=2):
        if not any(row):
            continue
        try:
            if any(row[len(columns) :]):
                raise UsageError("has more cells than the table has columns; quote commas in paths")
            cells = dict(zip(columns, row, strict=False))
            case = _case(path.parent, cells, modality, with_flair)
        except UsageError as error:
            raise UsageError(f"{path}, row {number}: {error}") from error
        if modality is Modality.FLAIR and case.modality is not modality:
            skipped.append(Skip(case.name, "no flair in its row"))
        else:
            cases.append(case)
    return Found.of(cases, skipped)


def _read(path: Path) -> tuple[list[str], list[list[str]]]:
    """The columns of a table, and the cells of its rows."""
    try:
        text = read_regular(path, _MAX_BYTES).decode("utf-8-sig")
    except OSError as error:
        raise UsageError(f"{path}: cannot be read ({error.strerror})") from error
    except UnicodeDecodeError as error:
        raise UsageError(f"{path}: not UTF-8; save it as such") from error
    heading = text.partition("\n")[0]
    delimiter = max("\t;,", key=heading.count)
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)
    try:
        columns, *rows = [[cell.strip() for cell in row] for row in reader] or [[]]
    except csv.Error as error:
        raise UsageError(f"{path}, line {reader.line_num}: not a table ({error})") from error
    wrong = [f"unknown column {name!r}" for name in columns if name not in COLUMNS]
    wrong += [f"repeated column {name!r}" for name in COLUMNS if columns.count(name) > 1]
    if "participant_id" not in columns or not {"dwi", "flair"} & set(columns):
        wrong.append("columns are missing")
    if wrong:
        raise UsageError(
            f"{path}: {wrong[0]}; it needs participant_id and dwi or flair, and may have "
            f"{', '.join(COLUMNS)}"
        )
    return columns, rows


def _case(folder: Path, row: dict[str, str], modality: Modality, with_flair: bool) -> CohortCase:
    images: dict[str, Any] = {
        name: folder / row[name] for name in IMAGES if row.get(name, "") not in _MISSING
    }
    own = next((role for role in (str(modality), "dwi", "flair") if role in images), None)
    if own is None:
        raise UsageError("neither dwi nor flair is given")
    if "dwi" not in images and (lost := {"adc", "b0"} & images.keys()):
        raise UsageError(f"{min(lost)} is given without the dwi that it belongs to")
    volume = images.pop(own)
    if own == Modality.FLAIR:
        images = {name: path for name, path in images.items() if name == "brain_mask"}
    elif not with_flair:
        images.pop("flair", None)
    check_combination(
        Modality.parse(own), flair="flair" in images, adc="adc" in images, b0="b0" in images
    )
    session = row.get("session_id", "")
    case = CohortCase(
        label(row.get("participant_id", ""), "sub-"),
        "" if session in _MISSING else label(session, "ses-"),
        volume,
        Modality.parse(own),
    )
    return replace(case, **images)
