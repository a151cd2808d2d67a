"""A study: its files parsed, its frames in series."""

import logging
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from cnnres_infer.codes import ErrorCode
from cnnres_infer.errors import InputError, VolumeError
from cnnres_infer.host.deadline import check_time
from cnnres_infer.limits import Limits
from cnnres_infer.readers.dicom.files import StudyFile, study_files
from cnnres_infer.readers.dicom.frames import Frame, Image, frames_of, image_of
from cnnres_infer.readers.dicom.headers import damaged, parse, quiet, require_pydicom
from cnnres_infer.readers.dicom.kinds import Kind
from cnnres_infer.readers.dicom.series import Problem, Series, group

log = logging.getLogger("cnnres_infer.readers.dicom")


@dataclass(frozen=True, eq=False)
class Study:
    """What a folder, archive or file holds.

    Attributes
    ----------
    path
        The folder, archive or file.
    series
        Its series, in the order of their numbers.
    problems
        Files that cannot be used.
    """

    path: Path
    series: tuple[Series, ...]
    problems: tuple[Problem, ...]

    def reason(self, error: InputError) -> str:
        """Message of an error with the files named by their path in the study, for reports."""
        return re.sub(rf"(?<!\S){re.escape(str(self.path))}(?:/|\\|: )", "", str(error))


@contextmanager
def open_study(path: Path, limits: Limits) -> Iterator[Study]:
    """Parse the headers of a study; its pixels can be read until the context ends.

    Raises
    ------
    VolumeError
        If pydicom is missing, or there are no images.
    LimitError
        If there are too many files, or an archive is too large.
    """
    with study_files(path, limits) as files:
        if not files:
            what, code = "an archive", ErrorCode.DICOM_NONE
            if path.is_dir():
                what, code = "a directory", ErrorCode.FILE_KIND
            raise VolumeError(
                f"{path}: {what} without DICOM images; give a file or a study", code=code
            )
        require_pydicom()
        with quiet():
            frames, problems = _read(files, limits)
        for problem in problems:
            # Not the message, which names the file, and so perhaps the patient.
            log.info(
                "a file cannot be used: %s, %s", problem.error.code, problem.error.code.meaning
            )
        series = group(frames, problems)
        for each in series:
            if not each.images:
                reasons = dict.fromkeys(frame.why for frame in each.frames)
                log.info("series %s skipped: %s", each.image.number, "; ".join(reasons))
        yield Study(path, tuple(series), tuple(problems))


def _read(files: list[StudyFile], limits: Limits) -> tuple[list[Frame], list[Problem]]:
    frames: list[Frame] = []
    problems: list[Problem] = []
    seen: dict[str, Image] = {}
    for file in files:
        check_time()
        series = ""
        try:
            dataset = parse(file, limits)
            image = image_of(file, dataset)
            series = image.series
            if not image.sop_class and not series:
                raise damaged(file.name, "no SOP class and no series")
            former = seen.setdefault(image.sop_instance, image) if image.sop_instance else image
            if former is not image:
                _check_copy(former, image, limits)
                log.info("a file skipped: a copy of another")
                continue
            frames += frames_of(image, dataset)
        except Exception as error:
            # pydicom parses values when they are asked for, and raises whatever happens then.
            known = error if isinstance(error, InputError) else damaged(file.name, error)
            problems.append(Problem(file.name, series, known))
            if series:
                frames.append(Frame(image, Kind.SKIPPED, "cannot be used", (0, 0)))
    return frames, problems


def _check_copy(former: Image, image: Image, limits: Limits) -> None:
    """Refuse two different files that claim to be the same image."""
    same_size = former.file.size() == image.file.size()
    if not same_size or former.file.read(limits) != image.file.read(limits):
        raise damaged(
            image.file.name, f"another image than {former.file.name}, with the same instance UID"
        )
