"""What a platform gives to a container, and what it expects back."""

from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from cnnres_infer.batch import CaseReport
from cnnres_infer.codes import ErrorCode
from cnnres_infer.errors import UsageError, VolumeError
from cnnres_infer.outputs.writers.report import Refusal
from cnnres_infer.service.settings import AppSettings


@dataclass(frozen=True)
class Task:
    """One run of a container.

    Attributes
    ----------
    input, output
        Folders of the study and of the results.
    settings
        How it is segmented.
    """

    input: Path
    output: Path
    settings: AppSettings


class Contract(Protocol):
    """A platform's contract.

    Attributes
    ----------
    source
        Folder of the study.
    """

    source: Path

    def task(self) -> Task:
        """What is to be done.

        Raises
        ------
        UsageError
            If the settings are wrong.
        """
        ...

    def deliver(self, entry: CaseReport | Refusal) -> tuple[Path, ...]:
        """Give the results the names that the platform expects; returns all files."""
        ...


def check_apart(source: Path, target: Path) -> None:
    """Raise if outputs would be written to the input.

    Raises
    ------
    UsageError
        If both folders are the same.
    """
    if source.resolve() == target.resolve():
        raise UsageError(f"{source}: the same folder for input and output; give two folders")


def check_folders(source: Path, target: Path) -> None:
    """Raise if the folders of a task are not there.

    Raises
    ------
    VolumeError
        If there is no folder with a study.
    UsageError
        If both folders are the same.
    """
    if not source.is_dir():
        raise VolumeError(
            f"{source}: no such folder; mount that of the study there",
            code=ErrorCode.FILE_MISSING,
        )
    check_apart(source, target)
