"""CNN-Res in PyTorch as an engine, the reference for all other engines."""

from typing import ClassVar, Self

import torch
from torch import nn

from cnnres_infer.core.arrays import FloatArray
from cnnres_infer.core.precision import Precision
from cnnres_infer.core.provenance import EngineInfo
from cnnres_infer.engines.base import ClosedOnExit, ModelFile, Probe, Variants
from cnnres_infer.errors import BackendUnavailableError
from network.cnnres import CNNRes, HalfCNNRes


class TorchEngine(ClosedOnExit):
    """PyTorch in eager mode; see `cnnres_infer.engines.base.Engine`.

    Parameters
    ----------
    network
        The network.
    threads
        Number of CPU threads.
    precision
        ``"fp32"``, or ``"fp16"`` for `HalfCNNRes`, as a reference for the fp16
        variant, which ONNX Runtime cannot compute on a CPU.
    """

    VARIANTS: ClassVar[Variants] = {
        Precision.FP32: ("fp32",),
        Precision.FP16: ("fp16",),
    }
    BATCH: ClassVar[int] = 1
    LEAST: ClassVar[int] = 1

    def __init__(
        self, network: CNNRes, threads: int, precision: Precision = Precision.FP32
    ) -> None:
        half = precision is Precision.FP16
        self._network: nn.Module = HalfCNNRes(network) if half else network.eval()
        self._threads, self._precision = threads, precision
        torch.set_num_threads(threads)

    @classmethod
    def probe(cls) -> Probe:
        return Probe(True, f"torch {torch.__version__}", "", {"torch": torch.__version__}, ("CPU",))

    @classmethod
    def open(cls, model: ModelFile, precision: Precision, threads: int) -> Self:
        raise BackendUnavailableError("PyTorch runs a CNNRes network, not an ONNX file")

    def run(self, images: FloatArray) -> FloatArray:
        with torch.inference_mode():
            output: FloatArray = self._network(torch.from_numpy(images)).numpy()
        return output

    def describe(self) -> EngineInfo:
        versions = {"torch": str(torch.__version__)}
        return EngineInfo(
            "torch", "eager", self._precision, self._precision, self._threads, versions
        )

    def close(self) -> None:
        self._network = CNNRes()
