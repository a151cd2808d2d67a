"""A reader for napari: open a DWI, and see it with its lesions.

The manifest of a plugin that contains this module says::

    contributions:
      commands:
        - id: cnnres.read
          title: Open a DWI with its lesions
          python_name: examples.napari_reader:napari_get_reader
      readers:
        - command: cnnres.read
          filename_patterns: ["*.nii.gz", "*.nii"]
          accepts_directories: false
"""

from collections.abc import Callable, Sequence
from functools import cache
from typing import Any, TypeAlias

import numpy as np

from cnnres_infer import Predictor

LayerData: TypeAlias = tuple[Any, dict[str, Any], str]


def napari_get_reader(
    path: str | Sequence[str],
) -> Callable[[str | Sequence[str]], list[LayerData]] | None:
    """Return the reader if it can open the path, as napari asks."""
    return read if isinstance(path, str) and path.endswith((".nii", ".nii.gz")) else None


def read(path: str | Sequence[str]) -> list[LayerData]:
    """Layers of a volume: the image, its lesions as labels, and their centres."""
    result = predictor().predict(str(path))
    affine = result.volume.grid.affine
    lesions = result.lesions
    centres = np.array([each.centre_mm for each in lesions]).reshape(-1, 3)
    millilitres = {"ml": [f"{each.volume_ml:.1f} ml" for each in lesions]}
    labels = {"name": "lesions", "affine": affine}
    points = {"name": "lesion volumes", "features": millilitres, "text": "ml"}
    return [
        (result.volume.data, {"name": result.volume.name, "affine": affine}, "image"),
        (result.mask.data, labels, "labels"),
        # Centres are in mm already.
        (centres, points, "points"),
    ]


@cache
def predictor() -> Predictor:
    """The model, loaded when the first volume is opened."""
    return Predictor.load()
