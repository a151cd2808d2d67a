"""A run on a synthetic volume whose lesion is known."""

from pathlib import Path
from typing import Any

import numpy as np

from cnnres_infer.core.volume import volume_bytes
from cnnres_infer.host.atomic import check_free, write_all
from cnnres_infer.outputs.save import plan
from cnnres_infer.phantom.head import make_phantom
from cnnres_infer.predictor import Predictor
from cnnres_infer.verification.agreement import dice

NAME = "demo"
SEED = 3


def run_demo(predictor: Predictor, folder: Path, *, overwrite: bool = False) -> dict[str, Any]:
    """Write a phantom and its truth into a folder, segment it there, and compare.

    Returns
    -------
    dict
        The report, with an entry ``demo`` for the known lesion.

    Raises
    ------
    OutputExistsError
        If something of it stands already and `overwrite` is False.
    """
    volume, truth = folder / f"{NAME}.nii.gz", folder / f"{NAME}_truth.nii.gz"
    planned = plan(folder, NAME, probabilities=True, overlay=True)
    check_free((volume, truth, *planned.all()), overwrite)
    phantom = make_phantom(SEED)
    grid = phantom.volume.grid
    contents = {
        volume: volume_bytes(phantom.volume.data, grid),
        truth: volume_bytes(phantom.truth, grid),
    }
    write_all(contents, overwrite)
    result = predictor.predict(volume)
    saved = result.save(folder, probabilities=True, overwrite=overwrite)
    return {
        **saved.entry(),
        "demo": {
            "volume": str(volume),
            "truth": str(truth),
            "truth_ml": int(np.count_nonzero(phantom.truth)) * phantom.volume.grid.voxel_ml,
            "dice": dice(result.mask.data > 0, phantom.truth > 0),
        },
    }
