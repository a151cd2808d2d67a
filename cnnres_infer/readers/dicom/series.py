"""The series of a study, and what each holds."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from functools import cached_property

from cnnres_infer.errors import InputError
from cnnres_infer.readers.bvalues import LARGEST_B0, listed
from cnnres_infer.readers.dicom.frames import Frame, Image
from cnnres_infer.readers.dicom.kinds import Kind
from cnnres_infer.readers.dicom.vendors import Directionality


@dataclass(frozen=True, eq=False)
class Problem:
    """A file that cannot be used.

    Attributes
    ----------
    name
        The file.
    series
        UID of its series; empty if that is unknown.
    error
        What is wrong with it.
    """

    name: str
    series: str
    error: InputError


@dataclass(frozen=True, eq=False)
class Series:
    """The frames of a series.

    Attributes
    ----------
    image
        One of its files.
    frames
        All its frames, in the order of files.
    problems
        Its files that cannot be used.
    """

    image: Image
    frames: tuple[Frame, ...]
    problems: tuple[Problem, ...] = field(default=())

    @property
    def label(self) -> str:
        """What the user knows it by."""
        number = "without number" if self.image.number is None else str(self.image.number)
        description = f" ({self.image.description})" if self.image.description else ""
        return f"series {number}{description}"

    @property
    def is_diffusion(self) -> bool:
        """Whether any frame is diffusion-weighted."""
        return any(_weighted(frame) for frame in self.frames)

    @cached_property
    def weighted(self) -> tuple[Frame, ...]:
        """Frames with diffusion weighting, maps excluded."""
        return tuple(frame for frame in self.frames if _weighted(frame))

    @cached_property
    def b0(self) -> tuple[Frame, ...]:
        """The frames without weighting.

        In a diffusion series, they may be without b-value; in any other, they
        must state it, and that they are of diffusion.
        """
        plain = [frame for frame in self.frames if frame.kind in (Kind.IMAGE, Kind.FLAIR)]
        stated = [frame for frame in plain if frame.b is not None and frame.b <= LARGEST_B0]
        if not self.is_diffusion:
            return tuple(f for f in stated if f.of_diffusion and f.kind is Kind.IMAGE)
        # An isotropic image without b-value is a map that lost its image type.
        unstated = [
            frame
            for frame in plain
            if frame.b is None and frame.directionality is not Directionality.TRACE
        ]
        return tuple(stated or unstated)

    @cached_property
    def adc(self) -> tuple[Frame, ...]:
        """Frames of an ADC map."""
        return tuple(frame for frame in self.frames if frame.kind is Kind.ADC)

    @cached_property
    def flair(self) -> tuple[Frame, ...]:
        """Frames of a FLAIR."""
        if self.is_diffusion:
            return ()
        return tuple(frame for frame in self.frames if frame.kind is Kind.FLAIR)

    @cached_property
    def images(self) -> tuple[Frame, ...]:
        """All frames that are not skipped, maps included."""
        return tuple(frame for frame in self.frames if frame.kind is not Kind.SKIPPED)

    @property
    def what(self) -> str:
        """What it was taken for."""
        parts = []
        if self.weighted:
            values = listed(round(frame.b or 0) for frame in (*self.b0, *self.weighted))
            kinds = sorted({frame.directionality for frame in self.weighted})
            parts.append(f"DWI, b = {values} ({', '.join(kinds)})")
        elif self.b0:
            parts.append(f"b0, b = {listed(round(frame.b or 0) for frame in self.b0)}")
        if self.adc:
            parts.append("ADC")
        if self.flair:
            parts.append("FLAIR")
        if not parts:
            parts.append("other" if self.images else "skipped")
        return "; ".join(parts)

    @property
    def why(self) -> str:
        """By which attributes it was taken for that."""
        reasons = dict.fromkeys(frame.why for frame in self.frames)
        return "; ".join([*reasons, *(str(problem.error) for problem in self.problems[:1])])


def _weighted(frame: Frame) -> bool:
    return frame.kind in (Kind.IMAGE, Kind.FLAIR) and frame.b is not None and frame.b > LARGEST_B0


def group(frames: Iterable[Frame], problems: Sequence[Problem]) -> list[Series]:
    """Series of frames, in the order of their numbers."""
    found: dict[str, list[Frame]] = {}
    for frame in frames:
        found.setdefault(frame.image.series, []).append(frame)
    series = [
        Series(
            frames[0].image,
            tuple(frames),
            tuple(problem for problem in problems if problem.series == uid),
        )
        for uid, frames in found.items()
    ]
    return sorted(series, key=lambda each: (each.image.number or 0, each.image.series))


def candidates(series: Sequence[Series]) -> str:
    return "; ".join(f"{each.label}: {each.what}" for each in series) or "none"
