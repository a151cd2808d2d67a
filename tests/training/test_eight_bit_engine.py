import numpy as np
import torch

from network.cnnres import CNNRes
from network.engine import TorchEngine
from training.eight_bit_engine import EightBitEngine


def test_rounding_ends_with_the_run() -> None:
    network = CNNRes().eval()
    engine = TorchEngine(network, torch.get_num_threads())
    pixels = np.random.default_rng(0).random((1, 1, 64, 64), dtype=np.float32)
    before = engine.run(pixels)
    rounded = EightBitEngine(network, torch.get_num_threads()).run(pixels)
    assert not np.array_equal(rounded, before)
    assert np.array_equal(engine.run(pixels), before)
