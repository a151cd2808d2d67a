"""Mercure's contract with its processing modules.

``MERCURE_IN_DIR`` has the files of one or more series as ``SERIES#FILE.dcm``,
each with a ``.tags`` file, and ``task.json``, whose ``process.settings`` are those
of the module. Objects in ``MERCURE_OUT_DIR`` are sent on; ``result.json`` is kept
with the task, and what stands under ``__mercure_notification`` in it is announced.
Any exit status but 0 is a failure. Source: Mercure's documentation, "Module
Development", and its ``process/process_series.py``.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Self

from cnnres_infer import __version__
from cnnres_infer.batch import CaseReport
from cnnres_infer.core.jsonable import dumps
from cnnres_infer.errors import UsageError
from cnnres_infer.host.atomic import write_all
from cnnres_infer.outputs.writers.report import Refusal
from cnnres_infer.service.contracts.contract import Task, check_apart, check_folders
from cnnres_infer.service.retry_queue import is_part_10
from cnnres_infer.service.settings import AppSettings

INPUT, OUTPUT = "MERCURE_IN_DIR", "MERCURE_OUT_DIR"
TASK, RESULT, NOTIFICATION = "task.json", "result.json", "__mercure_notification"


class Mercure:
    """A module of Mercure.

    Parameters
    ----------
    source, target
        The folders of the contract.
    """

    def __init__(self, source: Path, target: Path) -> None:
        self.source = source
        self._target = target

    @classmethod
    def of(cls, environment: Mapping[str, str]) -> Self | None:
        """The contract in an environment; None if it has none.

        Raises
        ------
        UsageError
            If it has only a part of it, or both folders are the same.
        """
        source, target = environment.get(INPUT), environment.get(OUTPUT)
        if not source and not target:
            return None
        if not source or not target:
            raise UsageError(f"{INPUT} and {OUTPUT} belong together: set both")
        # Not only once there is a task: what is refused then is delivered, into the output.
        check_apart(Path(source), Path(target))
        return cls(Path(source), Path(target))

    def task(self) -> Task:
        """The study, with the settings in ``task.json``; without that file, those by default."""
        check_folders(self.source, self._target)
        settings = AppSettings.of(_settings(self.source / TASK), TASK)
        return Task(self.source, self._target, settings)

    def deliver(self, entry: CaseReport | Refusal) -> tuple[Path, ...]:
        """Name DICOM results as Mercure names files, and write ``result.json``."""
        outputs = () if isinstance(entry, Refusal) else tuple(map(_renamed, entry.outputs))
        result = self._target / RESULT
        write_all({result: f"{dumps(_result(entry, outputs))}\n".encode()}, overwrite=True)
        return (*outputs, result)


def _settings(path: Path) -> Any:
    try:
        content = json.loads(path.read_bytes())
    except FileNotFoundError:
        return {}
    except (OSError, ValueError) as error:
        raise UsageError(f"{path.name} cannot be read ({error}); write it again") from error
    process = content.get("process") if isinstance(content, dict) else None
    # With several steps, each container is given its own.
    if isinstance(process, list):
        process = process[0] if len(process) == 1 else None
    settings = process.get("settings") if isinstance(process, dict) else None
    return {} if settings is None else settings


def _renamed(path: Path) -> Path:
    if not is_part_10(path):
        return path
    from pydicom import dcmread

    found = dcmread(
        path, stop_before_pixels=True, specific_tags=["SeriesInstanceUID", "SOPInstanceUID"]
    )
    target = path.with_name(f"{found.SeriesInstanceUID}#{found.SOPInstanceUID}.dcm")
    path.replace(target)
    return target


def _result(entry: CaseReport | Refusal, outputs: tuple[Path, ...]) -> dict[str, Any]:
    common = {"application": "cnnres-infer", "version": __version__, "research_use_only": True}
    if isinstance(entry, Refusal):
        text = f"cnnres-infer, research use only: no result, {entry.error.code}"
        return {
            **common,
            "status": "failed",
            "error": entry.error,
            NOTIFICATION: {"text": text, "requested": True},
        }
    report = entry.report
    found, codes = len(report.lesions), [warning.code for warning in report.warnings]
    text = f"cnnres-infer, research use only: {found} lesions, {report.volume_ml:.2f} ml"
    return {
        **common,
        "status": "done",
        "lesions": found,
        "volume_ml": round(report.volume_ml, 3),
        "warnings": codes,
        "outputs": [path.name for path in outputs],
        NOTIFICATION: {"text": text, "requested": found > 0},
    }
