"""CNN-Res in PyTorch as an engine, the reference for all other engines."""

from typing import Any, ClassVar, Self

import numpy as np
import torch
from torch import nn

from cnnres_infer.core.arrays import FloatArray
from cnnres_infer.core.precision import Precision
from cnnres_infer.core.provenance import EngineInfo
from cnnres_infer.engines.base import ModelFile, Probe, SharedEngine, Variants
from cnnres_infer.errors import BackendUnavailableError


class TorchEngine(SharedEngine[nn.Module]):
    """PyTorch in eager mode; see `cnnres_infer.engines.base.Engine`.

    Its number of threads is a setting of the whole process.

    Parameters
    ----------
    network
        The network, with its number of channels as ``in_channels``.
    threads
        Number of CPU threads.
    sides
        Heights and widths that images may have, in ascending order; by default any.
    precision
        What the network computes in.
    """

    RUNTIME: ClassVar[str] = "PyTorch"
    VARIANTS: ClassVar[Variants] = {
        Precision.FP32: ("fp32",),
        Precision.FP16: ("fp16",),
        Precision.INT8: ("int8-trt",),
    }
    BATCH: ClassVar[int] = 1
    LEAST: ClassVar[int] = 1

    def __init__(
        self,
        network: nn.Module,
        threads: int,
        precision: Precision = Precision.FP32,
        sides: tuple[int, ...] = (),
    ) -> None:
        versions = {"torch": str(torch.__version__)}
        extent = sides if len(sides) > 1 else None
        channels: Any = network.in_channels
        (variant,) = self.VARIANTS[precision]
        super().__init__(
            network.eval(),
            EngineInfo("torch", "eager", precision, variant, threads, versions),
            (channels, extent, extent),
        )
        torch.set_num_threads(threads)

    @classmethod
    def probe(cls) -> Probe:
        return Probe(True, f"torch {torch.__version__}", "", {"torch": torch.__version__}, ("CPU",))

    @classmethod
    def open(cls, model: ModelFile, precision: Precision, threads: int) -> Self:
        raise BackendUnavailableError("PyTorch runs a CNNRes network, not an ONNX file")

    def _compute(self, handle: nn.Module, images: FloatArray) -> FloatArray:
        with torch.inference_mode():
            # PyTorch warns of memory that is read-only, and takes none that runs backwards.
            output: FloatArray = handle(
                torch.from_numpy(np.require(images, None, ["C", "W"]))
            ).numpy()
        return output
