"""CNN-Res in PyTorch behind the engine protocol: what all fast engines are measured by."""

from typing import ClassVar, Self

import torch

from cnnres_infer.engines import EngineInfo, Probe
from cnnres_infer.errors import BackendUnavailableError
from cnnres_infer.volume import FloatArray
from training.network import CNNRes


class TorchEngine:
    """PyTorch eager in float32; see `cnnres_infer.engines.Engine`."""

    VARIANTS: ClassVar[dict[str, str]] = {"fp32": "fp32"}
    BATCH: ClassVar[int] = 1

    def __init__(self, network: CNNRes, threads: int) -> None:
        self._network = network.eval()
        self._threads = threads
        torch.set_num_threads(threads)

    @classmethod
    def probe(cls) -> Probe:
        return Probe(True, f"torch {torch.__version__}", "", {"torch": torch.__version__}, ("CPU",))

    @classmethod
    def open(cls, model: bytes, precision: str, threads: int) -> Self:
        raise BackendUnavailableError("PyTorch runs a CNNRes, not an ONNX file")

    def run(self, images: FloatArray) -> FloatArray:
        with torch.inference_mode():
            output: FloatArray = self._network(torch.from_numpy(images)).numpy()
        return output

    def describe(self) -> EngineInfo:
        return EngineInfo(
            "torch", "eager", "fp32", "fp32", self._threads, {"torch": torch.__version__}
        )

    def close(self) -> None:
        self._network = CNNRes()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()
