"""Fine-tuning candidates on training slices, with the float network as the teacher."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import onnx
import torch
from rich.progress import Progress
from torch import Generator, Tensor

from calibration.candidate import Candidate
from calibration.data import is_collections
from calibration.fake_quant import TorchGraph
from calibration.finetune import Tuning, finetune
from cnnres_infer.core.arrays import FloatArray
from training import augment
from training.data import load_collections

_BATCH = 8
_SOOP_EVERY = 10
_VOLUME_SHARE = 3


@dataclass(frozen=True, eq=False)
class Distiller:
    """Fine-tunes candidates by distillation.

    Attributes
    ----------
    teacher
        The float network.
    draw
        Returns the next batch of images (N, C, H, W).
    tuning
        How to fine-tune.
    device
        Where to.
    """

    teacher: onnx.ModelProto
    draw: Callable[[], Tensor]
    tuning: Tuning
    device: torch.device

    def __call__(self, candidate: Candidate) -> Candidate:
        """Fine-tune a candidate's weights and scales."""
        teacher = TorchGraph(self.teacher).to(self.device)
        with _progress(self.tuning.steps) as report:
            model, plan = finetune(
                candidate.model, candidate.plan, teacher, self.draw, self.tuning, report
            )
        name = f"{candidate.name}, fine-tuned {self.tuning.steps} steps"
        return replace(candidate, name=name, model=model, plan=plan)


def training_images(
    data: Path, own: FloatArray, seed: int, device: torch.device
) -> Callable[[], Tensor]:
    """Batches to fine-tune on, drawn from the training slices if `data` has them, else from `own`.

    They are hardly augmented, since agreement on images like these is the aim.
    """
    generator = Generator(device).manual_seed(seed)
    images = torch.from_numpy(
        _training_slices(data) if is_collections(data) and own.shape[1] == 1 else own
    )

    def draw() -> Tensor:
        pick = torch.randint(len(images), (_BATCH,), generator=generator, device=device)
        chosen = images[pick.cpu()].to(device)
        flipped = augment.chance(generator, _BATCH, 0.5) > 0
        chosen = torch.where(flipped, chosen.flip(3), chosen)
        return (chosen * augment.uniform(generator, _BATCH, 0.9, 1.1)).clamp(0, 1)

    return draw


def _training_slices(data: Path) -> FloatArray:
    """Slices of all collections; those of the whole volume, mostly without lesion, three times."""
    c = load_collections(data)
    soop = c.soop.pixels[::_SOOP_EVERY]
    volume = [c.volume.pixels] * _VOLUME_SHARE
    parts = [c.dwi.pixels, c.flair.pixels, *volume, c.healthy.pixels, soop]
    return np.concatenate(parts)[:, None]


@contextmanager
def _progress(steps: int) -> Iterator[Callable[[int, float], None]]:
    with Progress(transient=True) as progress:
        task = progress.add_task("fine-tuning", total=steps)
        yield lambda step, loss: progress.update(task, completed=step)
