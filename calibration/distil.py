"""Fine-tuning of a candidate on training slices, the float network as the teacher."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import onnx
import torch
from rich.progress import Progress
from torch import Generator, Tensor

from calibration.candidate import Candidate
from calibration.data import is_collections
from calibration.fake import Graph
from calibration.finetune import Tuning, finetune
from cnnres_infer.volume import FloatArray
from training import augment
from training.batches import Batches
from training.data import load_collections

_OWN_BATCH = 16


@dataclass(frozen=True, eq=False)
class Distiller:
    """Fine-tunes candidates.

    Attributes
    ----------
    teacher
        The float network.
    draw
        The next batch of images (N, C, H, W).
    """

    teacher: onnx.ModelProto
    draw: Callable[[], Tensor]
    tuning: Tuning
    device: torch.device

    def __call__(self, candidate: Candidate) -> Candidate:
        """Fine-tune a candidate's weights and scales."""
        teacher = Graph(self.teacher).to(self.device)
        with _progress(self.tuning.steps) as report:
            model, plan = finetune(
                candidate.model, candidate.plan, teacher, self.draw, self.tuning, report
            )
        name = f"{candidate.name}, fine-tuned {self.tuning.steps} steps"
        return replace(candidate, name=name, model=model, plan=plan)


def training_images(
    data: Path, own: FloatArray, seed: int, device: torch.device
) -> Callable[[], Tensor]:
    """Batches to fine-tune on: the training's where `data` holds it, else changed `own` images."""
    if is_collections(data) and own.shape[1] == 1:
        batches = Batches(load_collections(data), seed, device)
        return lambda: batches.draw()[0]
    generator = Generator(device).manual_seed(seed)
    images = torch.from_numpy(own).to(device)

    def draw() -> Tensor:
        pick = torch.randint(len(images), (_OWN_BATCH,), generator=generator, device=device)
        chosen = images[pick]
        flipped = augment.chance(generator, len(chosen), 0.5) > 0
        chosen = torch.where(flipped, chosen.flip(3), chosen)
        gain = augment.uniform(generator, len(chosen), 0.85, 1.15)
        return augment.jitter((chosen * gain).clamp(0, 1), generator)

    return draw


@contextmanager
def _progress(steps: int) -> Iterator[Callable[[int, float], None]]:
    with Progress(transient=True) as progress:
        task = progress.add_task("fine-tuning", total=steps)
        yield lambda step, loss: progress.update(task, completed=step)
