"""Fast, verified inference for CNN-Res: stroke lesions on DWI and FLAIR MRI.

Research use only; not a medical device.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from cnnres_infer.bundle.bundle import Bundle
    from cnnres_infer.core.result import Result
    from cnnres_infer.errors import CnnresError
    from cnnres_infer.predictor import Predictor

__version__ = "0.1.0"
__all__ = ["Bundle", "CnnresError", "Predictor", "Result", "__version__"]

_HOMES = {
    "Bundle": "cnnres_infer.bundle.bundle",
    "CnnresError": "cnnres_infer.errors",
    "Predictor": "cnnres_infer.predictor",
    "Result": "cnnres_infer.core.result",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)
