"""A network's logits, in the precision that suits the processor."""

import torch
from torch import Tensor

from network.cnnres import CNNRes


def logits_of(network: CNNRes, images: Tensor) -> Tensor:
    """Logits, in bfloat16 where the processor computes it."""
    kind = images.device.type
    with torch.autocast(kind, torch.bfloat16, enabled=kind != "cpu" or has_bfloat16()):
        logits = network.logits(images.to(memory_format=torch.channels_last))
    return logits.float()


def has_bfloat16() -> bool:
    """Whether this processor computes bfloat16 itself: emulated, it is slower than float32."""
    cpu = torch.cpu
    return cpu._is_avx512_bf16_supported() or cpu._is_amx_tile_supported()
