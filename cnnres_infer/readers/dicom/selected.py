"""Frames of a series that make a volume."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

from cnnres_infer.readers.bvalues import in_shell, nearest
from cnnres_infer.readers.dicom.frames import Frame
from cnnres_infer.readers.dicom.geometry import SAME_MM, covers, distances
from cnnres_infer.readers.dicom.series import Series
from cnnres_infer.readers.dicom.vendors import Directionality


@dataclass(frozen=True, eq=False)
class Selected:
    """Frames that make a volume.

    Attributes
    ----------
    series
        Their series.
    frames
        The frames.
    b
        Mean of their b-values in s/mm2; None where they have none.
    single
        Whether there must be one at each position.
    text
        What they are, for people.
    """

    series: Series
    frames: tuple[Frame, ...]
    b: float | None
    single: bool
    text: str


def whole(series: Series, frames: tuple[Frame, ...], what: str) -> Selected:
    """All of some frames of a series as a volume."""
    return Selected(series, frames, None, True, f"{what} of {series.label}")


def plain(series: Series, frames: tuple[Frame, ...]) -> Selected:
    """Frames of a series without diffusion weighting, which are averaged."""
    return Selected(series, frames, None, False, f"b0 of {series.label}")


def best_shell(series: Series, wanted: float | None) -> Selected | None:
    """The diffusion-weighted images of a series that are nearest to what is wanted."""
    values = [frame.b or 0.0 for frame in series.weighted]
    b = nearest(values, wanted)
    if b is None:
        return None
    inside = in_shell(values, b)
    shell = [frame for frame, belongs in zip(series.weighted, inside, strict=True) if belongs]
    traces = _traces(shell)
    frames = traces or tuple(shell)
    mean = sum(frame.b or 0.0 for frame in frames) / len(frames)
    single = bool(traces) or _is_single(frames)
    what = "the trace image" if traces else "the image" if single else "the mean of directions"
    text = f"{what} at b = {mean:g} s/mm2 of {series.label}"
    return Selected(series, frames, mean, single, text)


def _traces(shell: Sequence[Frame]) -> tuple[Frame, ...]:
    """The trace images of a shell; those without direction, where all others have one."""
    by_kind = {
        kind: tuple(frame for frame in shell if frame.directionality is kind)
        for kind in Directionality
    }
    if by_kind[Directionality.TRACE]:
        return by_kind[Directionality.TRACE]
    unknown, others = by_kind[Directionality.UNKNOWN], by_kind[Directionality.DIRECTION]
    if unknown and others and _is_single(unknown) and covers(unknown, others):
        return unknown
    return ()


def _is_single(frames: Sequence[Frame]) -> bool:
    """Whether there is one frame at each position."""
    if any(frame.place is None for frame in frames):
        return True
    place = frames[0].place
    assert place is not None
    along = sorted(distances(frames, place.normal))
    return all(after - before > SAME_MM for before, after in pairwise(along))


def rank(selected: Selected) -> int:
    """0 for trace images, 1 for what is likely to be some, 2 for directions."""
    kinds = {frame.directionality for frame in selected.frames}
    if kinds == {Directionality.TRACE}:
        return 0
    return 1 if selected.single and kinds == {Directionality.UNKNOWN} else 2
