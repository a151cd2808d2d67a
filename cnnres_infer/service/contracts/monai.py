"""MONAI Deploy's contract with application packages.

``HOLOSCAN_INPUT_PATH`` and ``HOLOSCAN_OUTPUT_PATH`` name the folders of the study
and of the results; packages of older versions have ``MONAI_INPUTPATH`` and
``MONAI_OUTPUTPATH``. Without them, the manifest ``/etc/monai/app.json`` has
``input.path`` and ``output.path``, relative to its ``workingDirectory``
(``working-directory`` in older ones). The contract knows no settings: they are
in the variable ``CNNRES_INFER_SETTINGS``, as JSON, of the container or of the
manifest's ``environment``. Source: the MONAI Application Package specification,
versions 0.1 and 1.0.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Self

from cnnres_infer.batch import CaseReport
from cnnres_infer.errors import UsageError
from cnnres_infer.outputs.writers.report import Refusal
from cnnres_infer.service.contracts.contract import Task, check_folders
from cnnres_infer.service.settings import AppSettings

MANIFEST = Path("/etc/monai/app.json")
_INPUTS = ("HOLOSCAN_INPUT_PATH", "MONAI_INPUTPATH")
_OUTPUTS = ("HOLOSCAN_OUTPUT_PATH", "MONAI_OUTPUTPATH")
_SETTINGS = "CNNRES_INFER_SETTINGS"
_WORKING, _INPUT, _OUTPUT = "/var/monai/", "input/", "output/"


class Monai:
    """A MONAI application.

    Parameters
    ----------
    source, target
        The folders of the contract.
    settings
        The settings as JSON; None for those by default.
    """

    def __init__(self, source: Path, target: Path, settings: str | None = None) -> None:
        self.source = source
        self._target = target
        self._settings = settings

    @classmethod
    def of(cls, environment: Mapping[str, str], manifest: Path = MANIFEST) -> Self | None:
        """The contract in an environment or manifest; None if there is none."""
        source, target = _first(environment, _INPUTS), _first(environment, _OUTPUTS)
        settings = environment.get(_SETTINGS)
        if not manifest.is_file():
            if not source and not target:
                return None
            if not source or not target:
                raise UsageError(f"{_INPUTS[0]} and {_OUTPUTS[0]} belong together: set both")
            return cls(Path(source), Path(target), settings)
        content = _read(manifest)
        named = content.get("workingDirectory") or content.get("working-directory")
        folder = Path(named or _WORKING)
        stated = [(content.get(name) or {}).get("path") for name in ("input", "output")]
        return cls(
            Path(source or folder / (stated[0] or _INPUT)),
            Path(target or folder / (stated[1] or _OUTPUT)),
            settings or (content.get("environment") or {}).get(_SETTINGS),
        )

    def task(self) -> Task:
        """The study, with the settings in the variable; without it, those by default."""
        check_folders(self.source, self._target)
        try:
            content = json.loads(self._settings or "{}")
        except (TypeError, ValueError) as error:
            raise UsageError(f"{_SETTINGS}: not JSON ({error}); set it again") from error
        return Task(self.source, self._target, AppSettings.of(content, _SETTINGS))

    def deliver(self, entry: CaseReport | Refusal) -> tuple[Path, ...]:
        """All results stay as they are."""
        return () if isinstance(entry, Refusal) else entry.outputs


def _first(environment: Mapping[str, str], names: tuple[str, ...]) -> str | None:
    return next((environment[name] for name in names if environment.get(name)), None)


def _read(manifest: Path) -> dict[str, Any]:
    try:
        content = json.loads(manifest.read_bytes())
    except (OSError, ValueError) as error:
        raise UsageError(f"{manifest}: cannot be read ({error}); build the image again") from error
    if not isinstance(content, dict):
        raise UsageError(f"{manifest}: no manifest; build the image again")
    return content
