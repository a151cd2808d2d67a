"""A run on a synthetic volume whose lesion is known."""

from pathlib import Path
from typing import Any

import numpy as np

from cnnres_infer.outputs import check_free, make_folder, plan, report
from cnnres_infer.phantom import make_phantom
from cnnres_infer.predictor import Predictor
from cnnres_infer.verify import dice
from cnnres_infer.volume import save_volume

NAME = "demo"


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
    check_free(plan(folder, NAME, probabilities=True, overlay=True), overwrite)
    make_folder(folder)
    phantom = make_phantom()
    volume, truth = folder / f"{NAME}.nii.gz", folder / f"{NAME}_truth.nii.gz"
    save_volume(volume, phantom.volume.data, phantom.volume.grid, overwrite)
    save_volume(truth, phantom.truth, phantom.volume.grid, overwrite)
    result = predictor.predict(volume)
    saved = result.save(folder, probabilities=True, overwrite=overwrite)
    return {
        **report(result),
        "outputs": [str(path) for path in saved.all()],
        "demo": {
            "volume": str(volume),
            "truth": str(truth),
            "truth_ml": int(np.count_nonzero(phantom.truth)) * phantom.volume.grid.voxel_ml,
            "dice": dice(result.mask.data > 0, phantom.truth > 0),
        },
    }
