"""What is asked for all volumes of a call: how each is segmented and where its outputs go."""

from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cnnres_infer.errors import CnnresError, UsageError
from cnnres_infer.outputs.save import make_room, plan, save_refusal
from cnnres_infer.readers.nifti.stream import stem, volume_name

if TYPE_CHECKING:
    from cnnres_infer.predictor import Predictor

# Nothing can stand where the mask would be, or nothing was there to be refused.
_WITHOUT_REPORT = ("E-OUTPUT-EXISTS", "E-OUTPUT-WRITE", "E-FILE-NAME", "E-FILE-MISSING", "E-USAGE")


@dataclass(frozen=True)
class Job:
    """What is the same for all volumes of a call."""

    out: Path | None
    flair: Path | None
    modality: str
    brain_mask: Path | None
    probabilities: bool
    overlay: bool
    overwrite: bool

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
            planned = plan(self.folder(volume), name, probabilities=True, overlay=True).all()
            for path in inputs & {each.resolve() for each in planned}:
                raise UsageError(f"{path} is given as input and would be overwritten as an output")

    def segment(self, predictor: "Predictor", path: Path) -> dict[str, Any]:
        """Segment a volume, save what is wanted of it, and return its entry for the report."""
        folder, name = self.folder(path), volume_name(path)
        wanted = {"probabilities": self.probabilities, "overlay": self.overlay}
        make_room(folder, name, overwrite=self.overwrite, **wanted)
        result = predictor.predict(
            path, flair=self.flair, modality=self.modality, brain_mask=self.brain_mask
        )
        return result.save(folder, overwrite=self.overwrite, **wanted).entry()

    def leave_refusal(self, path: Path, entry: dict[str, Any]) -> None:
        """Leave a report where the mask would be; standard error has the reason in any case."""
        folder = self.folder(path)
        if entry["error"]["code"] in _WITHOUT_REPORT:
            return
        if self.out is not None or folder.is_dir():
            with suppress(CnnresError):
                save_refusal(folder, volume_name(path), {"input": str(path), **entry})
