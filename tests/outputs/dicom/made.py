"""Results of volumes that were read from DICOM, without a network."""

import io
import subprocess
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
from numpy.typing import NDArray
from pydicom.dataset import FileDataset

from cnnres_infer.codes import Notice, WarningCode
from cnnres_infer.core.case import Case
from cnnres_infer.core.diffusion import DiffusionCheck
from cnnres_infer.core.mask import Lesion, Mask
from cnnres_infer.core.precision import Precision
from cnnres_infer.core.provenance import EngineInfo, Provenance, Verification
from cnnres_infer.core.result import Result
from cnnres_infer.core.volume import Probabilities
from cnnres_infer.outputs.save import save
from cnnres_infer.outputs.writers import WRITERS
from cnnres_infer.readers.dicom.source import DicomSource

ENGINE = EngineInfo("ort", "CPUExecutionProvider", Precision.FP32, "fp32", 2, {"onnxruntime": "1"})
CHECKED = Verification("2026-01-01T00:00:00", True, 10, 0.9987, 0.995, 0.9991, 0.01, "key")
PROVENANCE = Provenance("bright", "1.0", "ab" * 32, ENGINE, CHECKED, (), {"dwi": "x"}, "extracted")
REJECTED = Lesion(9, 0.2, (1.0, 1.0, 1.0), (-3.0, 4.0, 5.0), 1.1, 0.0009, 0.05)


@dataclass(frozen=True)
class Known:
    """Probabilities that are there already."""

    found: Probabilities

    def probabilities(self) -> Probabilities:
        return self.found


def result_of(case: Case, mask: NDArray[np.bool_] | None = None, **changes: Any) -> Result:
    """A result with a mask (default: some voxels of every other slice)."""
    volume = case.volume
    if mask is None:
        mask = some_voxels(volume.grid.shape)
    count = int(mask.sum())
    centre = np.argwhere(mask).mean(axis=0) if count else np.zeros(3)
    x, y, z = volume.grid.to_mm(centre)
    lesion = Lesion(
        count,
        count * volume.grid.voxel_ml,
        (float(centre[0]), float(centre[1]), float(centre[2])),
        (float(x), float(y), float(z)),
        0.61,
        0.00047,
        0.75,
    )
    whole = Result(
        volume=volume,
        mask=Mask(mask.astype(np.uint8), volume.grid),
        brain=Mask(np.ones(volume.grid.shape, np.uint8), volume.grid),
        on_demand=Known(Probabilities(mask.astype(np.float32), volume.grid)),
        lesions=(lesion,) if count else (),
        timings={},
        provenance=PROVENANCE,
        warnings=(*volume.warnings, Notice(WarningCode.INPUT_SPACING, f"{volume.name}: 9 mm")),
        saver=save,
        diffusion=DiffusionCheck(checked=True, note="lesions were checked"),
        rejected=(REJECTED,),
        sources=tuple(each.source for each in case.volumes.values()),
    )
    return replace(whole, **changes)


def source_of(result: Result) -> DicomSource:
    assert isinstance(result.volume.source, DicomSource)
    return result.volume.source


def some_voxels(shape: tuple[int, int, int]) -> NDArray[np.bool_]:
    """An asymmetric mask that leaves slices empty."""
    mask = np.random.default_rng(7).random(shape) > 0.8
    mask[:, :, 1::3] = False
    mask[: shape[0] // 4] = False
    return mask


def rendered(result: Result, name: str, *formats: str) -> FileDataset:
    """A DICOM output, as it is read back; `formats` are written together with it."""
    content = WRITERS[name].render(replace(result, formats=(name, *formats)))
    return pydicom.dcmread(io.BytesIO(content))


def world_of_frames(seg: FileDataset) -> NDArray[np.float64]:
    """Positions (n, 3) in RAS+ mm of the voxels of a SEG, in no order, by pydicom alone."""
    shared = seg.SharedFunctionalGroupsSequence[0]
    orientation = np.array(shared.PlaneOrientationSequence[0].ImageOrientationPatient, float)
    row_step, column_step = map(float, shared.PixelMeasuresSequence[0].PixelSpacing)
    pixels = seg.pixel_array.reshape(int(seg.NumberOfFrames), seg.Rows, seg.Columns)
    found = []
    for frame, item in zip(pixels, seg.PerFrameFunctionalGroupsSequence, strict=True):
        corner = np.array(item.PlanePositionSequence[0].ImagePositionPatient, float)
        rows, columns = np.nonzero(frame)
        found.append(
            corner
            + columns[:, None] * column_step * orientation[:3]
            + rows[:, None] * row_step * orientation[3:]
        )
    return np.concatenate(found) * [-1, -1, 1]


def in_order(points: NDArray[np.float64]) -> NDArray[np.float64]:
    return points[np.lexsort(points.round(2).T)]


def complaints(path: Path) -> list[str]:
    """The errors that dciodvfy finds in a file."""
    done = subprocess.run(["dciodvfy", path], capture_output=True, text=True, check=False)
    lines = [line for line in done.stderr.splitlines() if line.startswith("Error")]
    return lines or ([] if done.returncode == 0 else [done.stderr])
