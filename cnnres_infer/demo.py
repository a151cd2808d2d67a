"""A run on a synthetic volume whose lesion is known."""

from pathlib import Path
from typing import Any

import numpy as np

from cnnres_infer.batch import entry
from cnnres_infer.core.volume import Volume
from cnnres_infer.host.atomic import check_free, write_all
from cnnres_infer.outputs.save import plan_all
from cnnres_infer.outputs.writers import WRITERS
from cnnres_infer.phantom.head import make_phantom
from cnnres_infer.predictor import Predictor
from cnnres_infer.readers.nifti.write import volume_bytes
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
    check_free((volume, truth, *plan_all(folder, NAME).values()), overwrite)
    phantom = make_phantom(SEED)
    made = Volume.from_array(phantom.data, phantom.affine, NAME)
    contents = {
        volume: volume_bytes(made.data, made.grid),
        truth: volume_bytes(phantom.truth, made.grid),
    }
    write_all(contents, overwrite)
    result = predictor.predict(volume)
    saved = result.save(folder, tuple(WRITERS), overwrite=overwrite)
    return {
        **entry(result, saved),
        "demo": {
            "volume": str(volume),
            "truth": str(truth),
            "truth_ml": int(np.count_nonzero(phantom.truth)) * made.grid.voxel_ml,
            "dice": dice(result.mask.data > 0, phantom.truth > 0),
        },
    }
