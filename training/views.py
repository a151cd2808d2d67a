"""Views: an image in a frame of its own, mirrored or not, and back."""

from dataclasses import dataclass
from typing import Self

import torch
from torch import Generator, Tensor

from training.augment import chance, uniform

_BRAIN = 0.01

# Frames (height, width) in pixels and how often each is drawn: those that brains fit in.
FRAMES = {
    (160, 128): 0.30,
    (128, 128): 0.25,
    (160, 160): 0.13,
    (128, 96): 0.12,
    (96, 96): 0.10,
    (160, 96): 0.04,
    (96, 128): 0.04,
    (128, 160): 0.02,
}


def draw_frame(generator: Generator) -> tuple[int, int]:
    """Draw a frame's height and width."""
    shares = torch.tensor(list(FRAMES.values()), device=generator.device)
    return list(FRAMES)[int(torch.multinomial(shares, 1, generator=generator))]


def brain_boxes(images: Tensor) -> Tensor:
    """(N, 4): first and last-plus-one row, first and last-plus-one column with brain.

    Parameters
    ----------
    images
        (N, 1, H, W). One without brain gets the whole image.
    """
    bounds = []
    for axis in (3, 2):
        occupied = (images[:, 0] > _BRAIN).any(dim=axis - 1)
        extent = occupied.shape[1]
        first = occupied.int().argmax(dim=1)
        last = extent - occupied.flip(1).int().argmax(dim=1)
        bounds += [first, last]
    return torch.stack(bounds, dim=1)


@dataclass(frozen=True)
class View:
    """Where the frames of a batch lie over its images.

    Attributes
    ----------
    frame
        Height and width in pixels.
    top, left
        (N,) row and column of the images at which each frame begins; a frame may
        reach beyond its image, where all is zero.
    mirrored
        (N,) bool: whether columns run the other way.
    """

    frame: tuple[int, int]
    top: Tensor
    left: Tensor
    mirrored: Tensor

    @classmethod
    def draw(
        cls, images: Tensor, frame: tuple[int, int], mirrored: float, generator: Generator
    ) -> Self:
        """Lay a frame around the brain of each image, with random margins.

        Where a frame is too small, it holds a random part of the brain.

        Parameters
        ----------
        mirrored
            Probability of each image to be mirrored.
        """
        count, boxes = len(images), brain_boxes(images)
        begins = []
        for axis, extent in enumerate(frame):
            first, last = boxes[:, 2 * axis], boxes[:, 2 * axis + 1]
            room = extent - (last - first)
            share = uniform(generator, count, 0, 1).view(-1)
            begins.append(first - torch.round(share * room).long())
        flips = chance(generator, count, mirrored).view(-1) > 0
        return cls(frame, begins[0], begins[1], flips)

    def of(self, images: Tensor) -> Tensor:
        """What the frames show of images (N, 1, H, W)."""
        shown = _shifted(images, self.top, self.left, self.frame)
        return torch.where(self.mirrored.view(-1, 1, 1, 1), shown.flip(3), shown)

    def as_seen_by(self, other: "View", answers: Tensor) -> tuple[Tensor, Tensor]:
        """Answers (N, 1, height, width) for this view, as they lie in another.

        Returns
        -------
        answers
            Zero where this view shows nothing.
        known
            1 where this view shows something.
        """
        upright = torch.where(self.mirrored.view(-1, 1, 1, 1), answers.flip(3), answers)
        top, left = other.top - self.top, other.left - self.left
        both = [_shifted(x, top, left, other.frame) for x in (upright, torch.ones_like(upright))]
        moved, known = (torch.where(other.mirrored.view(-1, 1, 1, 1), x.flip(3), x) for x in both)
        return moved, known


def _shifted(images: Tensor, top: Tensor, left: Tensor, frame: tuple[int, int]) -> Tensor:
    """Cut frames out of images (N, 1, H, W); zero beyond their edges."""
    count, _, height, width = images.shape
    device = images.device
    rows = top.view(-1, 1) + torch.arange(frame[0], device=device)
    columns = left.view(-1, 1) + torch.arange(frame[1], device=device)
    inside = ((rows >= 0) & (rows < height))[:, :, None] & ((columns >= 0) & (columns < width))[
        :, None, :
    ]
    number = torch.arange(count, device=device).view(-1, 1, 1)
    cut = images[:, 0][
        number, rows.clamp(0, height - 1)[:, :, None], columns.clamp(0, width - 1)[:, None, :]
    ]
    return (cut * inside)[:, None]
