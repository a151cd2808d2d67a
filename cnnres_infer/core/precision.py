"""The number formats that the network can be computed in."""

from enum import StrEnum


class Precision(StrEnum):
    """What most of an engine's convolutions are computed in."""

    FP32 = "fp32"
    FP16 = "fp16"
    BF16 = "bf16"
    INT8 = "int8"
