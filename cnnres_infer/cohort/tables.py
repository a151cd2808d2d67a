"""The tables of a cohort, rebuilt from what is on disk: ``cases.tsv`` and ``lesions.tsv``."""

import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cnnres_infer.cohort.derivative import SIDECAR_END, case_of, read_sidecar
from cnnres_infer.cohort.markers import Records
from cnnres_infer.core.jsonable import dumps
from cnnres_infer.core.text import printable

_MISSING = "n/a"
# What spreadsheets take for a formula.
_FORMULA = ("=", "+", "@")

CASE_COLUMNS = {
    "name": {"Description": "Name of the case, from which its files are named."},
    "participant_id": {"Description": "Participant."},
    "session_id": {"Description": "Session; n/a without one."},
    "status": {
        "Description": "What has become of the case.",
        "Levels": {
            "done": "Segmented; there is a mask.",
            "failed": "There is no mask, since the input was refused or something failed.",
            "skipped": "There is no mask, since the input has nothing to segment.",
        },
    },
    "lesions": {"Description": "Number of lesions in the mask."},
    "volume_ml": {"Description": "Total volume of the lesions.", "Units": "mL"},
    "largest_ml": {"Description": "Volume of the largest lesion.", "Units": "mL"},
    "rejected": {
        "Description": "Number of lesions taken out of the mask, since too few of their voxels "
        "restrict diffusion."
    },
    "rejected_ml": {
        "Description": "Total volume of the rejected lesions, which volume_ml leaves out.",
        "Units": "mL",
    },
    "diffusion_checked": {
        "Description": "Whether lesions were checked for restricted diffusion (true, false)."
    },
    "relative_adc_below": {
        "Description": "The model's bound: a voxel restricts diffusion if its ADC is below this "
        "multiple of the brain's median; n/a where the ADC is not known, or the model has none."
    },
    "warnings": {"Description": "Codes of the warnings, separated by commas."},
    "error": {"Description": "Code of the error that the case failed with."},
    "reason": {"Description": "Why the case failed or was skipped."},
    "notes": {"Description": "How the case was put together, where that was not clear."},
    "inputs": {"Description": "Roles of the images that were used, separated by commas."},
    "model": {"Description": "Name and version of the model."},
    "bundle_sha256": {"Description": "SHA-256 of the model bundle's model.json."},
    "backend": {"Description": "Backend that computed the network."},
    "precision": {"Description": "Precision of the computation."},
    "seconds": {"Description": "Time from reading to the mask.", "Units": "s"},
    "mask": {"Description": "Path of the mask, relative to the dataset."},
}
LESION_COLUMNS = {
    "name": {"Description": "Name of the case."},
    "participant_id": {"Description": "Participant."},
    "session_id": {"Description": "Session; n/a without one."},
    "status": {
        "Description": "What has become of the lesion.",
        "Levels": {
            "kept": "It is in the mask.",
            "rejected": "It was taken out of the mask, since too few of its voxels restrict "
            "diffusion.",
        },
    },
    "lesion": {
        "Description": "Number of the lesion among those of its case and status, from the "
        "largest, 1, on."
    },
    "volume_ml": {"Description": "Volume of the lesion.", "Units": "mL"},
    "voxels": {"Description": "Number of its voxels."},
    "centre_x": {"Description": "Centre of mass, towards the right (RAS+).", "Units": "mm"},
    "centre_y": {"Description": "Centre of mass, towards anterior (RAS+).", "Units": "mm"},
    "centre_z": {"Description": "Centre of mass, towards superior (RAS+).", "Units": "mm"},
    "relative_adc": {
        "Description": "Median ADC of the lesion over that of the brain; n/a where not known."
    },
    "adc_mm2_s": {
        "Description": "Median ADC of the lesion; n/a where it or its unit is not known.",
        "Units": "mm^2/s",
    },
    "restricted_share": {
        "Description": "Share of voxels that restrict diffusion, of the lesion's voxels whose ADC "
        "is known: those with an ADC below relative_adc_below (see cases.tsv) times the brain's "
        "median; n/a where not known."
    },
}


@dataclass(frozen=True)
class Entry:
    """What is known of a case.

    Attributes
    ----------
    name
        Name of the case.
    row
        Its row of ``cases.tsv``, by column.
    lesions
        Its rows of ``lesions.tsv``.
    messages
        Texts of its warnings, or of what went wrong.
    made_by
        Version of this program, name and version of the model, and SHA-256 of its
        ``model.json``; None without a mask.
    """

    name: str
    row: dict[str, Any]
    lesions: tuple[dict[str, Any], ...] = ()
    messages: tuple[str, ...] = ()
    made_by: tuple[str, str, str] | None = None

    @property
    def count_of_warnings(self) -> int:
        """Number of things that a person should look at."""
        return len(self.messages)


def read_entries(out: Path) -> list[Entry]:
    """Gather what is known of all cases in an output folder, ordered by name."""
    entries = {}
    for name, record in Records(out):
        if record.get("status") in ("failed", "skipped"):
            entries[name] = _without_mask(name, record)
    for sidecar in _sidecars(out):
        content = read_sidecar(sidecar)
        mask = sidecar.with_name(sidecar.name.removesuffix(".json") + ".nii.gz")
        if content.get("report") and mask.exists():
            name = case_of(sidecar)
            try:
                entries[name] = _segmented(name, content, mask.relative_to(out))
            except (LookupError, TypeError, AttributeError, ValueError):
                entries[name] = _with_unknown_report(name, content, mask.relative_to(out))
    return [entries[name] for name in sorted(entries)]


def table_files(entries: list[Entry]) -> dict[str, bytes]:
    """Content of the tables and their data dictionaries by file name."""
    lesions = [row for entry in entries for row in entry.lesions]
    return {
        "cases.tsv": _tsv(CASE_COLUMNS, [entry.row for entry in entries]),
        "cases.json": f"{dumps(CASE_COLUMNS)}\n".encode(),
        "lesions.tsv": _tsv(LESION_COLUMNS, lesions),
        "lesions.json": f"{dumps(LESION_COLUMNS)}\n".encode(),
    }


def _sidecars(out: Path) -> Iterator[Path]:
    for participant in sorted(out.glob("sub-*")):
        for parent, _, names in os.walk(participant):
            yield from (Path(parent) / name for name in names if name.endswith(SIDECAR_END))


def _segmented(name: str, content: dict[str, Any], mask: Path) -> Entry:
    report = content["report"]
    who = _who(content)
    each, rejected = report["lesions"]["each"], report["lesions"]["rejected"]
    warnings, notes = report["warnings"], content.get("notes", [])
    row = {
        "name": name,
        **who,
        "status": "done",
        "lesions": len(each),
        "volume_ml": _rounded(report["lesions"]["volume_ml"]),
        "largest_ml": _rounded(each[0]["volume_ml"]) if each else 0.0,
        "rejected": len(rejected),
        "rejected_ml": _rounded(sum(lesion["volume_ml"] for lesion in rejected)),
        "diffusion_checked": str(bool(report["diffusion"]["checked"])).lower(),
        "relative_adc_below": report["diffusion"].get("relative_adc_below"),
        "warnings": ",".join(warning["code"] for warning in warnings),
        "notes": "; ".join(notes),
        "inputs": ",".join(report["inputs"]),
        "model": f"{report['model']['name']} {report['model']['version']}",
        "bundle_sha256": report["model"]["bundle_sha256"],
        "backend": report["engine"]["backend"],
        "precision": report["engine"]["precision"],
        "seconds": round(sum(report["timings_s"].values()), 2),
        "mask": mask.as_posix(),
    }
    lesions = tuple(
        {
            "name": name,
            **who,
            "status": status,
            "lesion": number,
            "volume_ml": _rounded(lesion["volume_ml"]),
            "voxels": lesion["voxels"],
            **{
                f"centre_{axis}": _rounded(value)
                for axis, value in zip("xyz", lesion["centre_mm"], strict=True)
            },
            "relative_adc": _rounded(lesion["relative_adc"]),
            "adc_mm2_s": _significant(lesion["adc_mm2_s"]),
            "restricted_share": _rounded(lesion.get("restricted_share")),
        }
        for status, group in (("kept", each), ("rejected", rejected))
        for number, lesion in enumerate(group, start=1)
    )
    texts = tuple(f"{warning['code']}: {warning['text']}" for warning in warnings)
    made_by = (report["versions"]["cnnres-infer"], row["model"], row["bundle_sha256"])
    return Entry(name, row, lesions, (*texts, *notes), made_by)


def _with_unknown_report(name: str, content: dict[str, Any], mask: Path) -> Entry:
    """A case whose sidecar is not as this version writes it."""
    note = "its sidecar lacks what the tables are made from; delete its mask and run again"
    row = {
        "name": name,
        **_who(content),
        "status": "done",
        "notes": note,
        "mask": mask.as_posix(),
    }
    return Entry(name, row, messages=(note,))


def _who(content: dict[str, Any]) -> dict[str, Any]:
    return {key: content.get(key, _MISSING) for key in ("participant_id", "session_id")}


def _without_mask(name: str, record: dict[str, Any]) -> Entry:
    error = record.get("error") or {}
    reason = str(error.get("message") or record.get("reason") or _MISSING)
    row = {
        "name": name,
        "participant_id": record.get("participant_id") or name.partition("_")[0],
        "session_id": record.get("session_id", _MISSING),
        "status": record["status"],
        "error": error.get("code"),
        "reason": reason,
    }
    return Entry(name, row, messages=(f"{error.get('code', 'skipped')}: {reason}",))


def _tsv(columns: Mapping[str, Any], rows: list[dict[str, Any]]) -> bytes:
    lines = ["\t".join(columns)]
    lines += ["\t".join(_cell(row.get(name)) for name in columns) for row in rows]
    return "".join(f"{line}\n" for line in lines).encode()


def _cell(value: Any) -> str:
    if value is None or value == "":
        return _MISSING
    text = printable(str(value))
    return f"'{text}" if text.startswith(_FORMULA) else text


def _rounded(value: float | None) -> float | None:
    return None if value is None else round(value, 4)


def _significant(value: float | None) -> float | None:
    return None if value is None else float(f"{value:.4g}")
