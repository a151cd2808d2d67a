import numpy as np
import pytest
import torch

from cnnres_infer.errors import EngineRunError
from network.cnnres import CNNRes
from network.engine import TorchEngine


def test_it_computes_the_network_until_it_is_closed() -> None:
    network = CNNRes()
    images = np.random.default_rng(0).random((2, 1, 64, 64), np.float32)
    with TorchEngine(network, 1) as engine:
        # With the engine's number of threads, and so in the same order of sums.
        with torch.inference_mode():
            expected = network(torch.from_numpy(images)).numpy()
        assert np.array_equal(engine.run(images), expected)
    with pytest.raises(EngineRunError, match="closed"):
        engine.run(images)


def test_a_size_that_the_network_cannot_halve_is_our_error() -> None:
    with TorchEngine(CNNRes(), 1) as engine:
        with pytest.raises(EngineRunError, match="PyTorch failed"):
            engine.run(np.zeros((1, 1, 10, 64), np.float32))
        assert engine.run(np.zeros((1, 1, 32, 64), np.float32)).shape == (1, 1, 32, 64)
