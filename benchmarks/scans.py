"""Real DWI with the b0 and ADC that belong to them, from the collections of real MRI."""

import csv
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

import numpy as np

from cnnres_infer.core.arrays import BoolArray, FloatArray
from cnnres_infer.core.case import Modality
from cnnres_infer.core.grid import Grid
from cnnres_infer.core.volume import Volume
from cnnres_infer.pipeline.brain import find_brain
from cnnres_infer.pipeline.shading import remove_shading
from cnnres_infer.readers import load_volume
from training.lesion_free import find_series

# s/mm².
_B_OF_PATIENTS, _ANY_B = 1000.0, 2500.0
# What ADC maps are stored in, by the median of the brain.
_ADC_UNITS = ((1e2, 1e-6), (1e-1, 1e-3), (0.0, 1.0))
# A slice stands for a slab of this thickness, in mm.
_SLICE_MM = 5.0
_SOOP_STEP = 4
_NO_DWI = ("adc", "b0", "flair")


@dataclass(frozen=True, eq=False)
class Scan:
    """A DWI and what was measured with it.

    Attributes
    ----------
    person
        Who was scanned.
    b
        b-value in s/mm².
    dwi
        The DWI.
    b0, adc
        float32 (X, Y, Z) on its grid; ADC in mm²/s.
    measured
        Files of the same person that are no DWI, by kind.
    """

    person: str
    b: float
    dwi: Volume
    b0: FloatArray
    adc: FloatArray
    measured: dict[str, Path]

    @cached_property
    def brain(self) -> BoolArray:
        """The brain, bool (X, Y, Z)."""
        return find_brain(self.dwi).mask

    def flat(self, data: FloatArray) -> FloatArray:
        """An image without shading, relative to the brain's median."""
        brain = self.brain
        flat = remove_shading(replace(self.dwi, data=data), brain).data
        return flat / np.float32(np.median(flat[brain]))


def find_scans(root: Path) -> Iterator[Scan]:
    """All scans below the collections' folder."""
    for folder in sorted(path for path in (root / "volumes").iterdir() if path.is_dir()):
        files = {
            path.name.removesuffix(".nii.gz").rpartition("_")[2]: path
            for path in sorted(folder.rglob("*.nii.gz"))
        }
        dwi = load_volume(files["dwi"])
        adc = np.maximum(load_volume(files["adc"]).data, 0)
        median = float(np.median(adc[(adc > 0) & find_brain(dwi).mask]))
        adc = adc * np.float32(next(unit for least, unit in _ADC_UNITS if median > least))
        b0 = dwi.data * np.exp(np.float32(_B_OF_PATIENTS) * np.minimum(adc, np.float32(4e-3)))
        measured = {kind: path for kind, path in files.items() if kind in _NO_DWI}
        yield Scan(folder.name, _B_OF_PATIENTS, dwi, b0, adc, measured)
    for series in find_series(root):
        dwi, measured_b0 = series.load()
        b = series.b or _ANY_B
        if measured_b0 is None or series.b0 is None:
            continue
        ratio = np.maximum(measured_b0, 1) / np.maximum(dwi.data, 1)
        adc = (np.log(np.maximum(ratio, 1)) / b).astype(np.float32)
        yield Scan(series.volunteer, b, dwi, measured_b0, adc, {"b0": series.b0})


def find_slices(root: Path) -> Iterator[tuple[str, Modality, Volume]]:
    """Single slices of patients: collection, modality, and a volume of one slice each."""
    folder = root / "isles22_slices"
    for row in csv.DictReader((folder / "index.csv").open()):
        if row["usable_both"] == "1":
            case = np.load(folder / f"{row['case']}.npz")
            for modality in Modality:
                yield "ISLES'22", modality, _slice(case[modality], case["spacing"])
    flair = np.load(root / "soop" / "flair_slices.npz")["flair"]
    for plane in flair[::_SOOP_STEP]:
        yield "SOOP", Modality.FLAIR, _slice(plane, (1.0, 1.0))


def _slice(plane: np.ndarray, spacing: tuple[float, float]) -> Volume:
    """A volume of one slice, whose rows run to posterior."""
    affine = np.zeros((4, 4))
    affine[1, 0], affine[0, 1], affine[2, 2], affine[3, 3] = -spacing[1], -spacing[0], _SLICE_MM, 1
    return Volume.from_array(plane[:, :, None], Grid((*plane.shape, 1), affine))
