"""The cases of a call, one after another: segmented or refused, and where their outputs go."""

import json
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cnnres_infer.codes import ErrorCode
from cnnres_infer.core.result import DEFAULT_FORMATS, Result, Saved
from cnnres_infer.errors import CnnresError, UsageError
from cnnres_infer.outputs.save import make_room, plan_all, save_refusal
from cnnres_infer.outputs.writers.report import report
from cnnres_infer.predictor import Predictor
from cnnres_infer.readers.nifti.stream import stem, volume_name

# Nothing can be written where the mask would be, or nothing was there to be refused.
_WITHOUT_REPORT = (
    ErrorCode.OUTPUT_EXISTS,
    ErrorCode.OUTPUT_WRITE,
    ErrorCode.FILE_NAME,
    ErrorCode.FILE_MISSING,
    ErrorCode.USAGE,
)


@dataclass(frozen=True)
class Job:
    """What is the same for all volumes of a call.

    Attributes
    ----------
    out
        Folder for the outputs; None: beside each volume.
    flair, brain_mask
        What belongs to the one volume of the call; None without.
    modality
        What the volumes are.
    formats
        Names of the outputs to write; see `cnnres_infer.outputs.writers`.
    overwrite
        Whether existing outputs may be replaced.
    """

    out: Path | None = None
    flair: Path | None = None
    modality: str = "dwi"
    brain_mask: Path | None = None
    formats: tuple[str, ...] = DEFAULT_FORMATS
    overwrite: bool = False

    @property
    def others(self) -> list[Path]:
        """What belongs to the volume."""
        return [path for path in (self.flair, self.brain_mask) if path]

    def folder(self, volume: Path) -> Path:
        """Where the outputs of a volume go."""
        return volume.parent if self.out is None else self.out

    def check(self, volumes: list[Path]) -> None:
        """Raise `UsageError` if outputs would overwrite each other or an input."""
        if len(volumes) > 1 and self.others:
            raise UsageError("--flair and --brain-mask belong to one volume: give one VOLUME")
        outputs = [(self.folder(path).resolve(), stem(path)) for path in volumes]
        if len(set(outputs)) < len(outputs):
            raise UsageError("outputs of volumes of the same name would overwrite each other")
        inputs = {path.resolve() for path in (*volumes, *self.others)}
        for volume in volumes:
            name = volume.name[: len(stem(volume))]
            planned = plan_all(self.folder(volume), name).values()
            for path in inputs & {each.resolve() for each in planned}:
                raise UsageError(f"{path} is given as input and would be overwritten as an output")

    def segment(self, predictor: Predictor, path: Path) -> dict[str, Any]:
        """Segment a volume, save what is wanted of it, and return its entry for the report."""
        folder, name = self.folder(path), volume_name(path)
        make_room(folder, name, self.formats, overwrite=self.overwrite)
        result = predictor.predict(
            path, flair=self.flair, modality=self.modality, brain_mask=self.brain_mask
        )
        return entry(result, result.save(folder, self.formats, overwrite=self.overwrite))

    def leave_refusal(self, path: Path, entry: dict[str, Any]) -> None:
        """Leave a report where the mask would be; standard error has the reason in any case."""
        folder = self.folder(path)
        if entry["error"]["code"] in _WITHOUT_REPORT:
            return
        if self.out is not None or folder.is_dir():
            with suppress(CnnresError):
                save_refusal(folder, volume_name(path), {"input": str(path), **entry})


def entry(result: Result, saved: Saved) -> dict[str, Any]:
    """The report of a result as it was written, and where everything is."""
    written = saved.paths.get("report")
    content = report(result) if written is None else json.loads(written.read_bytes())
    return {**content, "outputs": [str(path) for path in saved.paths.values()]}
