"""A run on a synthetic volume whose lesion is known."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from cnnres_infer.core.jsonable import to_json
from cnnres_infer.core.volume import Volume
from cnnres_infer.host.atomic import check_free, write_all
from cnnres_infer.outputs.save import plan_all
from cnnres_infer.outputs.writers import UNIVERSAL_FORMATS
from cnnres_infer.outputs.writers.report import Report
from cnnres_infer.phantom.head import make_phantom
from cnnres_infer.predictor import Predictor
from cnnres_infer.readers.nifti.write import volume_bytes
from cnnres_infer.verification.agreement import dice

NAME = "demo"
SEED = 13


@dataclass(frozen=True)
class KnownLesions:
    """The truth of a synthetic volume, and how well it was found.

    Attributes
    ----------
    volume, truth
        Files of the volume and of its true lesions.
    truth_ml
        Volume of the true lesions in ml.
    dice
        Dice coefficient of the mask with the true lesions.
    """

    volume: Path
    truth: Path
    truth_ml: float
    dice: float


@dataclass(frozen=True)
class DemoReport:
    """A run of the demo.

    Attributes
    ----------
    report
        What was found in the volume.
    outputs
        The files that were written of it, the mask last.
    demo
        The truth beside it.
    """

    report: Report
    outputs: tuple[Path, ...]
    demo: KnownLesions

    def to_json(self) -> dict[str, Any]:
        """The report, with outputs and truth last."""
        return {**to_json(self.report), "outputs": self.outputs, "demo": self.demo}


def run_demo(predictor: Predictor, folder: Path, *, overwrite: bool = False) -> DemoReport:
    """Write a phantom and its truth into a folder, segment it there, and compare.

    Raises
    ------
    OutputExistsError
        If one of the files already exists and `overwrite` is False.
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
    saved = result.save(folder, UNIVERSAL_FORMATS, overwrite=overwrite)
    known = KnownLesions(
        volume,
        truth,
        truth_ml=int(np.count_nonzero(phantom.truth)) * made.grid.voxel_ml,
        dice=dice(result.mask.data > 0, phantom.truth > 0),
    )
    return DemoReport(Report.of(result), tuple(saved.paths.values()), known)
