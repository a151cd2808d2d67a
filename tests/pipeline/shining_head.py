"""A brain with an infarct and what only shines like one, its ADC map and its b0."""

from dataclasses import replace
from typing import Any

import numpy as np

from cnnres_infer import Case, Modality, Result, Volume
from cnnres_infer.core.arrays import BoolArray, FloatArray
from cnnres_infer.core.grid import Grid
from tests.conftest import blob_volume

BOUNDS = {"relative_adc_below": 0.85, "smallest_restricted_share": 0.25}
B = 1000.0


def head() -> tuple[Volume, FloatArray, BoolArray, BoolArray]:
    """A brain with an infarct and what only shines like one: DWI, ADC in mm2/s, both masks."""
    volume, infarct = blob_volume()
    _, shine = blob_volume(centre_mm=(-25.0, -20.0, 0.0), radius_mm=12.0)
    dwi, brain = volume.data.copy(), volume.data > 0
    adc = np.where(brain, np.float32(0.8e-3), np.float32(0))
    fluid = np.zeros_like(brain)
    fluid[::3, ::3, ::3] = brain[::3, ::3, ::3]
    fluid &= ~infarct & ~shine
    dwi[shine], dwi[fluid] = 195.0, 40.0
    # What differs from place to place without diffusion does so in DWI and b0 alike.
    generator = np.random.default_rng(0)
    dwi *= generator.uniform(0.95, 1.05, dwi.shape).astype(np.float32)
    adc[infarct], adc[shine], adc[fluid] = 0.4e-3, 0.9e-3, 2.4e-3
    adc *= generator.uniform(0.999, 1.001, dwi.shape).astype(np.float32)
    return replace(volume, data=dwi), adc, infarct, shine


DWI, ADC, INFARCT, SHINE = head()


def adc_map(unit: float = 1.0) -> Volume:
    return Volume(ADC * np.float32(unit), DWI.grid, "adc")


def b0(b: float = B) -> Volume:
    return Volume((DWI.data * np.exp(ADC * np.float32(b))).astype(np.float32), DWI.grid, "b0")


def scaled(volume: Volume, factor: float) -> Volume:
    return replace(volume, data=volume.data * np.float32(factor))


def resampled(volume: Volume, step: int) -> Volume:
    """Every so many of the voxels of each slice."""
    affine = volume.grid.affine.copy()
    affine[:, :2] *= step
    data = np.ascontiguousarray(volume.data[::step, ::step])
    return Volume(data, Grid((data.shape[0], data.shape[1], data.shape[2]), affine), volume.name)


def shifted(volume: Volume, millimetres: float) -> Volume:
    affine = volume.grid.affine.copy()
    affine[2, 3] += millimetres
    return replace(volume, grid=Grid(volume.grid.shape, affine))


def with_b(b: float | None = B, **given_as: Volume) -> Case:
    """The DWI at a known b-value, with its ADC map or b0."""
    return Case(Modality.DWI, DWI, b_value=b, **given_as)


def only(role: str, volume: Volume) -> dict[str, Any]:
    return {role: volume}


def codes(result: Result) -> list[str]:
    return [str(notice.code) for notice in result.warnings]
