"""PyTorch with the images and weights of its convolutions rounded to 8 bits."""

from torch import nn

from cnnres_infer.core.arrays import FloatArray
from network.cnnres import CNNRes
from network.engine import TorchEngine
from training.rounding import eight_bits


class EightBitEngine(TorchEngine):
    """CNN-Res as it would be in 8 bits, to measure what rounding changes; see `TorchEngine`."""

    def _compute(self, handle: nn.Module, images: FloatArray) -> FloatArray:
        assert isinstance(handle, CNNRes)
        with eight_bits(handle):
            return super()._compute(handle, images)
