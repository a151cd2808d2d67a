"""The cases of a call, one after another: segmented or refused, and where their outputs go."""

from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, nullcontext, suppress
from dataclasses import dataclass, replace
from os.path import exists
from pathlib import Path
from typing import Any, ClassVar

from cnnres_infer.codes import ErrorCode
from cnnres_infer.core.case import Modality, check_combination
from cnnres_infer.core.failure import Failure
from cnnres_infer.core.jsonable import to_json
from cnnres_infer.core.result import Result
from cnnres_infer.errors import CnnresError, UsageError, VolumeError
from cnnres_infer.host.deadline import time_limit
from cnnres_infer.outputs.save import (
    check_folder,
    check_formats,
    check_identify,
    check_reader,
    make_room,
    plan_all,
    save_refusal,
)
from cnnres_infer.outputs.writers import DEFAULT_FORMATS, WRITERS
from cnnres_infer.outputs.writers.report import Refusal, Report
from cnnres_infer.predictor import Predictor
from cnnres_infer.readers import case_name, reader_of

# Nothing can be written where the mask would be, or nothing was there to be refused.
_WITHOUT_REPORT = (
    ErrorCode.OUTPUT_EXISTS,
    ErrorCode.OUTPUT_WRITE,
    ErrorCode.FILE_NAME,
    ErrorCode.FILE_MISSING,
    ErrorCode.USAGE,
)


@dataclass(frozen=True)
class CaseReport:
    """A segmented case.

    Attributes
    ----------
    input
        The volume.
    report
        What was found in it.
    outputs
        The files that were written, the mask last.
    error
        None, where a `Refusal` has its reason.
    """

    input: Path
    report: Report
    outputs: tuple[Path, ...]
    error: ClassVar[None] = None

    def to_json(self) -> dict[str, Any]:
        """The report, with the input first and the outputs last."""
        return {"input": self.input, **to_json(self.report), "outputs": self.outputs}


@dataclass(frozen=True)
class Job:
    """What is the same for all volumes of a call.

    Attributes
    ----------
    out
        Folder for the outputs; None: beside each volume.
    flair, adc, b0, brain_mask
        What belongs to the one volume of the call; None without.
    modality
        What the volumes are.
    series, bvalue
        What to read of studies and series; see `cnnres_infer.readers.pick`.
    formats
        Names of the outputs to write; see `cnnres_infer.outputs.writers`.
    overwrite
        Whether existing outputs may be replaced.
    identify
        Whether outputs that can name the patient do so.
    wording
        Rewords the errors of refused volumes, which name arguments as in Python.
    """

    out: Path | None = None
    flair: Path | None = None
    adc: Path | None = None
    b0: Path | None = None
    modality: str = "dwi"
    brain_mask: Path | None = None
    series: tuple[str, ...] = ()
    bvalue: float | None = None
    formats: tuple[str, ...] = DEFAULT_FORMATS
    overwrite: bool = False
    identify: bool = False
    wording: Callable[[str], str] = str

    @property
    def others(self) -> list[Path]:
        """What belongs to the volume."""
        return [path for path in (self.flair, self.adc, self.b0, self.brain_mask) if path]

    def folder(self, volume: Path) -> Path:
        """Where the outputs of a volume go."""
        return volume.parent if self.out is None else self.out

    def check(self, volumes: list[Path]) -> None:
        """Raise `UsageError` if inputs do not go together, or outputs would replace any of them."""
        check_combination(
            Modality.parse(self.modality),
            flair=self.flair is not None,
            adc=self.adc is not None,
            b0=self.b0 is not None,
            b_value=self.bvalue is not None,
        )
        check_formats(self.formats)
        check_identify(self.formats, self.identify)
        if any(WRITERS[each].reader for each in self.formats):
            for path in filter(exists, volumes):
                check_reader(self.formats, reader_of(path), path)
        if self.out is not None:
            check_folder(self.out)
        if len(volumes) > 1 and self.others:
            raise UsageError(
                "`flair`, `adc`, `b0` and `brain_mask` belong to one volume: give a single one"
            )
        named = [(path, name) for path in volumes if (name := _name(path))]
        # Some file systems take names for one that differ in case alone.
        outputs = {(_resolved(self.folder(path)), name.lower()) for path, name in named}
        if len(outputs) < len(named):
            raise UsageError(
                "volumes of the same name would write to the same files; segment them one by one, "
                "into different folders"
            )
        inputs = {_resolved(path) for path in (*volumes, *self.others)}
        for volume, name in named:
            planned = plan_all(self.folder(volume), name).values()
            for path in inputs & {_resolved(each) for each in planned}:
                raise UsageError(
                    f"{path} is given as input, but named like an output, which may be replaced or "
                    "deleted: give it another name, or choose another folder for outputs"
                )

    def run(
        self,
        predictor: Predictor,
        volumes: Iterable[Path],
        watch: Callable[[Path], AbstractContextManager[None]] = lambda _: nullcontext(),
    ) -> Iterator[CaseReport | Refusal]:
        """Segment volumes, each as its report is asked for; no error of one ends the others.

        A refused volume gets a report where its mask would be, if one can be written there.

        Parameters
        ----------
        predictor
            The model.
        volumes
            The volumes.
        watch
            Gives a context in which each volume is segmented and its outputs are written.
        """
        for volume in volumes:
            try:
                with watch(volume), time_limit(predictor.limits.timeout):
                    entry: CaseReport | Refusal = self._segment(predictor, volume)
            except Exception as error:
                entry = self.refuse(volume, error)
                self.leave(entry)
            yield entry

    def predict(self, predictor: Predictor, volume: Path) -> Result:
        """Segment a volume with what belongs to it, without writing anything."""
        return predictor.predict(
            volume,
            flair=self.flair,
            adc=self.adc,
            b0=self.b0,
            modality=self.modality,
            brain_mask=self.brain_mask,
            series=self.series or None,
            bvalue=self.bvalue,
        )

    def refuse(self, volume: Path, error: Exception) -> Refusal:
        """Say why a volume has no mask."""
        return Refusal(volume, self._failure(volume, error))

    def _segment(self, predictor: Predictor, path: Path) -> CaseReport:
        folder, name = self.folder(path), case_name(path)
        make_room(folder, name, self.formats, overwrite=self.overwrite)
        result = self.predict(predictor, path)
        saved = result.save(folder, self.formats, overwrite=self.overwrite, identify=self.identify)
        report = Report.of(replace(result, omitted=saved.omitted))
        return CaseReport(path, report, tuple(saved.paths.values()))

    def _failure(self, volume: Path, error: Exception) -> Failure:
        """What went wrong, with the volume's name unless it is about another file of the case."""
        failure = Failure.of(error, self.wording)
        if any(_names(failure.message, path) for path in (volume, *self.others)):
            return failure
        return replace(failure, message=f"{volume}: {failure.message}")

    def leave(self, refusal: Refusal) -> None:
        """Write the report of a refused volume where its mask would be, if that is possible."""
        folder = self.folder(refusal.input)
        if refusal.error.code in _WITHOUT_REPORT:
            return
        if self.out is not None or folder.is_dir():
            with suppress(CnnresError):
                save_refusal(folder, case_name(refusal.input), self._without_folders(refusal))

    def _without_folders(self, refusal: Refusal) -> Refusal:
        """The same refusal with the names of files alone: folders often name people."""
        message = refusal.error.message
        for path in (refusal.input, *self.others):
            message = message.replace(str(path), path.name)
        return Refusal(Path(refusal.input.name), replace(refusal.error, message=message))


def _resolved(path: Path) -> Path:
    """The path without links, if the system can tell."""
    try:
        return path.resolve()
    except (OSError, RuntimeError, ValueError):
        # The working folder was removed, links go in circles, or the name is none.
        return path


def _names(message: str, path: Path) -> bool:
    """Tell whether a message says which file it is about."""
    name = _name(path)
    return str(path) in message or (name is not None and message.startswith(f"{name}:"))


def _name(path: Path) -> str | None:
    """Name of a case; None if it has none, for which it is refused later."""
    try:
        return case_name(path)
    except VolumeError:
        return None
