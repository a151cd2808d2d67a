"""Cases listed in a table of paths, CSV or TSV."""

import csv
import io
from dataclasses import replace
from pathlib import Path
from typing import Any

from cnnres_infer.cohort.case import CohortCase, Found, label
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
        What to segment in rows that have both a DWI and a FLAIR.
    with_flair
        Whether the FLAIR of a DWI is wanted.

    Raises
    ------
    UsageError
        If the table cannot be read, has other columns, or a row is incomplete.
    """
    rows = _read(path)
    cases = []
    for number, row in enumerate(rows, start=2):
        try:
            cases.append(_case(path.parent, row, modality, with_flair))
        except UsageError as error:
            raise UsageError(f"{path}, row {number}: {error}") from error
    return Found.of(cases, [])


def _read(path: Path) -> list[dict[str, str]]:
    try:
        text = read_regular(path, _MAX_BYTES).decode("utf-8-sig")
    except OSError as error:
        raise UsageError(f"{path}: cannot be read ({error.strerror})") from error
    except UnicodeDecodeError as error:
        raise UsageError(f"{path}: not UTF-8; save it as such") from error
    heading = text.partition("\n")[0]
    delimiter = max("\t;,", key=heading.count)
    reader = csv.DictReader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)
    try:
        rows = list(reader)
    except csv.Error as error:
        raise UsageError(f"{path}, line {reader.line_num}: not a table ({error})") from error
    columns = [(name or "").strip() for name in reader.fieldnames or ()]
    unknown = [name for name in columns if name not in COLUMNS]
    if unknown or "participant_id" not in columns or not {"dwi", "flair"} & set(columns):
        reason = f"unknown column {unknown[0]!r}" if unknown else "columns are missing"
        raise UsageError(
            f"{path}: {reason}; it needs participant_id and dwi or flair, and may have "
            f"{', '.join(COLUMNS)}"
        )
    return [
        {(name or "").strip(): (cell or "").strip() for name, cell in row.items() if name}
        for row in rows
        if any((cell or "").strip() for cell in row.values() if not isinstance(cell, list))
    ]


def _case(folder: Path, row: dict[str, str], modality: Modality, with_flair: bool) -> CohortCase:
    images: dict[str, Any] = {
        name: folder / row[name] for name in IMAGES if row.get(name, "") not in _MISSING
    }
    own = str(modality) if str(modality) in images else "flair"
    volume = images.pop(own, None)
    if volume is None:
        raise UsageError("neither dwi nor flair is given")
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
