import numpy as np
import torch
from torch import nn

from cnnres_infer.core.arrays import FloatArray
from network.cnnres import CNNRes
from network.engine import TorchEngine
from training.cropping import CroppedEngine, crop_box
from training.eight_bit_engine import EightBitEngine


class Recorder(TorchEngine):
    """Gives images back and keeps their shapes."""

    def __init__(self) -> None:
        super().__init__(CNNRes(), 1)
        self.shapes: list[tuple[int, ...]] = []

    def _compute(self, handle: nn.Module, images: FloatArray) -> FloatArray:
        self.shapes.append(images.shape)
        return images


def images() -> FloatArray:
    frames = np.zeros((4, 1, 160, 160), np.float32)
    frames[0, 0, 10:150, 30:130] = 0.5
    frames[1, 0, 60:100, 60:100] = 0.7
    frames[2, 0, 0:20, 150:160] = 0.9
    return frames


def test_what_is_computed_lies_where_it_was() -> None:
    engine = Recorder()
    assert np.array_equal(CroppedEngine(engine).run(images()), images())
    assert sorted(engine.shapes) == [(1, 1, 160, 128), (3, 1, 96, 96)]


def test_crops_hold_what_is_visible() -> None:
    for image in images():
        rows, columns = crop_box(image)
        assert image[:, rows, columns].sum() == image.sum()


def test_rounding_ends_with_the_run() -> None:
    network = CNNRes().eval()
    engine = TorchEngine(network, torch.get_num_threads())
    pixels = np.random.default_rng(0).random((1, 1, 64, 64), dtype=np.float32)
    before = engine.run(pixels)
    rounded = EightBitEngine(network, torch.get_num_threads()).run(pixels)
    assert not np.array_equal(rounded, before)
    assert np.array_equal(engine.run(pixels), before)
