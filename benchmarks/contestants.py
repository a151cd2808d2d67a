"""Ways to compute slices: PyTorch, plain ONNX Runtime, and each of our engines."""

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from functools import partial

import numpy as np
import torch
from torch import nn

from benchmarks.unet import UNet
from cnnres_infer.bundle.bundle import Bundle
from cnnres_infer.core.arrays import FloatArray
from cnnres_infer.core.crops import computed
from cnnres_infer.engines import BACKENDS
from cnnres_infer.engines.base import run_all
from cnnres_infer.pipeline.infer import Network
from cnnres_infer.selection.offers import offers, open_engine
from export.onnx_model import to_onnx
from network.checkpoint import load_checkpoint

EAGER = "PyTorch eager, batch 1"


@dataclass(frozen=True)
class Contestant:
    """One way to compute.

    Attributes
    ----------
    network
        ``"CNN-Res"`` or ``"U-Net"``.
    rate
        The matrix-product rate that it is compared with: ``"float32"``,
        ``"int8"`` (for bfloat16 too), or ``""`` for none.
    open
        Loads it, and returns what maps images (N, 1, H, W) to probabilities.
    """

    network: str
    rate: str
    open: Callable[[], Network]


def contestants(bundle: Bundle, threads: int) -> dict[str, Contestant]:
    """All contestants by name, PyTorch eager on single slices first."""
    torch.set_num_threads(threads)

    sides = bundle.spec.slices.sides

    def cut(open_it: Callable[[], Network]) -> Network:
        """A network for the same images as our engines compute: whole, or cut to the brain."""
        network = open_it()
        if len(sides) == 1:
            return network
        return lambda images: computed(network, images, sides, len(images))

    def cnnres() -> nn.Module:
        return load_checkpoint(bundle.folder / bundle.variants["fp32"]).eval()

    def ours(name: str, precision: str) -> Network:
        return partial(run_all, open_engine(bundle, name, precision, threads))

    float32 = partial(Contestant, "CNN-Res", "float32")
    found = {
        EAGER: float32(lambda: _torch(cnnres(), 1)),
        "PyTorch eager, batch 8": float32(lambda: _torch(cnnres(), 8)),
        "PyTorch channels-last, batch 8": float32(lambda: _torch(cnnres(), 8, channels_last=True)),
        "PyTorch bfloat16, channels-last, batch 8": Contestant(
            "CNN-Res", "", lambda: _torch(cnnres(), 8, channels_last=True, bfloat16=True)
        ),
        "torch.compile, batch 8": float32(lambda: _torch(torch.compile(cnnres()), 8)),
        "ONNX Runtime fp32, default options, batch 1": float32(
            lambda: _onnxruntime(bundle.model("fp32"))
        ),
    }
    for name in BACKENDS:
        for precision in offers(bundle, name):
            rate = {"fp32": "float32", "bf16": "int8", "int8": "int8"}.get(precision, "")
            found[f"ours: {name} {precision}"] = Contestant(
                "CNN-Res", rate, partial(ours, name, precision)
            )
    unet = partial(Contestant, "U-Net", "float32")
    found["U-Net, PyTorch eager, batch 1"] = unet(lambda: _torch(_unet(), 1))
    found["U-Net, ONNX Runtime fp32"] = unet(lambda: _onnxruntime(to_onnx(_unet(), 1, sides)))
    return {
        name: each if name.startswith("ours") else replace(each, open=partial(cut, each.open))
        for name, each in found.items()
    }


def multiply_adds(network: nn.Module, size: int) -> int:
    """Multiply-adds of the convolutions of a network for one slice."""
    total = 0

    def count(module: nn.Module, _: object, output: torch.Tensor) -> None:
        nonlocal total
        assert isinstance(module, nn.Conv2d)
        total += module.weight.numel() * output.shape[2] * output.shape[3]

    convs = [module for module in network.modules() if isinstance(module, nn.Conv2d)]
    hooks = [conv.register_forward_hook(count) for conv in convs]
    with torch.inference_mode():
        network(torch.zeros(1, 1, size, size))
    for hook in hooks:
        hook.remove()
    return total


def _unet() -> UNet:
    torch.manual_seed(0)
    return UNet().eval()


def _torch(
    network: Callable[[torch.Tensor], torch.Tensor],
    batch: int,
    channels_last: bool = False,
    bfloat16: bool = False,
) -> Network:
    layout = torch.channels_last if channels_last else torch.contiguous_format
    if channels_last and isinstance(network, nn.Module):
        network = nn.Module.to(network, memory_format=layout)  # type: ignore[call-overload]

    def compute(images: FloatArray) -> FloatArray:
        autocast: AbstractContextManager[object] = (
            torch.autocast("cpu", torch.bfloat16) if bfloat16 else nullcontext()
        )
        with torch.inference_mode(), autocast:
            parts = [
                network(part.contiguous(memory_format=layout)).float()
                for part in torch.from_numpy(images).split(batch)
            ]
        output: FloatArray = torch.cat(parts).numpy()
        return output

    return compute


def _onnxruntime(model: bytes) -> Network:
    import onnxruntime

    session = onnxruntime.InferenceSession(model, providers=["CPUExecutionProvider"])
    name = session.get_inputs()[0].name

    def compute(images: FloatArray) -> FloatArray:
        return np.concatenate(
            [session.run(None, {name: images[i : i + 1]})[0] for i in range(len(images))]
        )

    return compute
