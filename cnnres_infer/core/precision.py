"""The numerical precisions that the network can run in."""

from enum import StrEnum


class Precision(StrEnum):
    """The numerical precision of most of an engine's convolutions."""

    FP32 = "fp32"
    FP16 = "fp16"
    BF16 = "bf16"
    INT8 = "int8"
