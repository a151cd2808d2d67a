"""Fast, verified inference for CNN-Res: stroke lesions on DWI and FLAIR MRI.

Research use only; not a medical device.
"""

import logging
from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from cnnres_infer.bundle.bundle import Bundle
    from cnnres_infer.core.case import Case, Modality
    from cnnres_infer.core.grid import Grid
    from cnnres_infer.core.mask import Lesion, Mask
    from cnnres_infer.core.precision import Precision
    from cnnres_infer.core.result import Result
    from cnnres_infer.core.volume import Probabilities, Volume
    from cnnres_infer.errors import CnnresError
    from cnnres_infer.limits import Limits
    from cnnres_infer.predictor import Predictor

__version__ = "0.1.0"
__all__ = [
    "Bundle",
    "Case",
    "CnnresError",
    "Grid",
    "Lesion",
    "Limits",
    "Mask",
    "Modality",
    "Precision",
    "Predictor",
    "Probabilities",
    "Result",
    "Volume",
    "__version__",
]

_DEFINED_IN = {
    "Bundle": "cnnres_infer.bundle.bundle",
    "Case": "cnnres_infer.core.case",
    "CnnresError": "cnnres_infer.errors",
    "Grid": "cnnres_infer.core.grid",
    "Lesion": "cnnres_infer.core.mask",
    "Limits": "cnnres_infer.limits",
    "Mask": "cnnres_infer.core.mask",
    "Modality": "cnnres_infer.core.case",
    "Precision": "cnnres_infer.core.precision",
    "Predictor": "cnnres_infer.predictor",
    "Probabilities": "cnnres_infer.core.volume",
    "Result": "cnnres_infer.core.result",
    "Volume": "cnnres_infer.core.volume",
}

# Silent unless the application configures logging.
logging.getLogger(__name__).addHandler(logging.NullHandler())


def __getattr__(name: str) -> Any:
    if name not in _DEFINED_IN:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_DEFINED_IN[name]), name)
