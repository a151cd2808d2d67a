"""Volumes that the tests write as DICOM."""

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from cnnres_infer.core.case import Case, Modality
from cnnres_infer.core.volume import Volume
from cnnres_infer.readers import load_case
from tests.fakes.dicom import Scan

SHAPE = (12, 10, 7)


def oblique() -> NDArray[np.float64]:
    """LAS, tilted about two axes, with three different spacings."""
    a, b = np.deg2rad(11), np.deg2rad(-7)
    about_x = np.array([[1, 0, 0], [0, np.cos(a), -np.sin(a)], [0, np.sin(a), np.cos(a)]])
    about_z = np.array([[np.cos(b), -np.sin(b), 0], [np.sin(b), np.cos(b), 0], [0, 0, 1]])
    affine = np.eye(4)
    affine[:3, :3] = about_x @ about_z @ np.diag([-1.8, 2.2, 5.5])
    affine[:3, 3] = [101.5, -88.25, -31.125]
    return affine


def noise(seed: int, shape: tuple[int, int, int] = SHAPE) -> NDArray[np.uint16]:
    return np.random.default_rng(seed).integers(1, 4000, shape).astype(np.uint16)


B0 = Scan(noise(0), oblique())
TRACE = B0.but(data=noise(1), b=1000.0, kind="trace")
DIRECTIONS = [B0.but(data=noise(seed), b=1000.0, kind="direction") for seed in (2, 3, 4)]
ADC = B0.but(data=noise(5), kind="adc", image_type=("DERIVED", "PRIMARY", "DIFFUSION", "ADC"))
FLAIR = Scan(
    noise(6, (16, 14, 9)),
    oblique(),
    kind="flair",
    attributes={"InversionTime": "2500", "EchoTime": "110", "RepetitionTime": "9000"},
)


def read(path: Path, modality: Modality = Modality.DWI) -> Case:
    return load_case(path, modality)


def agrees(volume: Volume, scan: Scan) -> bool:
    """Whether a volume has the voxels and the affine of a scan."""
    scale = 1.0 if scan.slope is None else scan.slope
    expected = (scan.data.astype(np.float64) * scale).astype(np.float32)
    return np.array_equal(volume.data, expected) and np.allclose(
        volume.grid.affine, scan.affine, rtol=0, atol=1e-4
    )


def mean_of_directions() -> NDArray[np.float64]:
    logs = [np.log(scan.data.astype(np.float64)) for scan in DIRECTIONS]
    return np.asarray(np.exp(np.mean(logs, axis=0)))
