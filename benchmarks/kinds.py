"""Kinds of image that may be given in the place of a DWI, made from real scans."""

from collections.abc import Callable
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from benchmarks.scans import Scan
from cnnres_infer.core.arrays import FloatArray

Array: TypeAlias = NDArray[Any]
Maker: TypeAlias = Callable[[Scan], Array]

# Relative b0 and the intensity of T1: fluid is dark, and white matter brighter than grey matter.
_T1 = ((0, 0.4, 0.8, 0.95, 1.15, 1.6, 2.5), (0, 0.3, 1.05, 1.0, 0.7, 0.35, 0.2))
_FA = ((0, 0.4, 0.8, 0.95, 1.1, 1.6), (0, 0.3, 0.6, 0.45, 0.15, 0.05))
_CT = ((0, 0.3, 0.8, 0.95, 1.15, 1.6, 2.5), (0, 20, 27, 28, 35, 12, 6))


def _mm(scan: Scan) -> FloatArray:
    """Position of each voxel (3, X, Y, Z) in mm, from the centre of the grid to RAS."""
    shape = scan.dwi.grid.shape
    index = np.moveaxis(np.indices(shape), 0, -1) - (np.array(shape) - 1) / 2
    mm = index @ scan.dwi.grid.affine[:3, :3].T
    return np.moveaxis(mm, -1, 0).astype(np.float32)


def _ball(scan: Scan, radii: tuple[float, float, float]) -> Array:
    inside: Array = ((_mm(scan) / np.reshape(radii, (3, 1, 1, 1))) ** 2).sum(axis=0) < 1
    return inside


def _noise(scan: Scan, level: float = 1.0) -> FloatArray:
    rng = np.random.default_rng(0)
    return np.abs(rng.standard_normal(scan.dwi.data.shape, np.float32)) * np.float32(level)


def _remapped(scan: Scan, table: tuple[Any, Any]) -> FloatArray:
    remapped: FloatArray = np.interp(scan.flat(scan.b0), *table).astype(np.float32)
    return remapped


def _of_brain(scan: Scan, data: Array, outside: float = 0.0) -> Array:
    return np.where(scan.brain, data, np.asarray(outside, data.dtype))


def _labels(scan: Scan) -> Array:
    return _of_brain(scan, np.digitize(scan.adc, (6e-4, 8e-4, 1.5e-3)) + 1)


def _atlas(scan: Scan) -> Array:
    x, y, z = (_mm(scan) // 20 + 10).astype(int)
    return _of_brain(scan, x + 20 * y + 400 * z)


def _shaped(scan: Scan, data: Array) -> Array:
    """Set into a body of another shape, with noise around."""
    return np.where(data > 0, data * (1 + 0.05 * _noise(scan)), _noise(scan, 2.0))


def _spine(scan: Scan) -> Array:
    x, y, z = _mm(scan)
    cord, canal = np.hypot(x, y) < 6, np.hypot(x, y) < 12
    bodies = (np.abs(x) < 22) & (np.abs(y - 35) < 16) & (z % 35 < 26)
    return _shaped(scan, 120.0 * cord + 40.0 * (canal & ~cord) + 80.0 * bodies)


def _lesion(scan: Scan, sides: tuple[int, ...]) -> Array:
    """The DWI with infarcts of most of a hemisphere, twice as bright."""
    brain = scan.brain
    centre = _mm(scan)[:, brain].mean(axis=1).reshape(3, 1, 1, 1)
    data = scan.dwi.data.copy()
    for side in sides:
        shift = np.reshape((32.0 * side, 0.0, 0.0), (3, 1, 1, 1))
        offset = (_mm(scan) - centre - shift) / np.reshape((30.0, 55.0, 45.0), (3, 1, 1, 1))
        data[((offset**2).sum(axis=0) < 1) & brain] *= 2.0
    return data


def _wrapped(scan: Scan, unsigned: type, signed: type, part: float) -> Array:
    """Unsigned integers read as signed, of which `part` of the brain is too bright."""
    level = np.quantile(scan.dwi.data[scan.brain], 1 - part)
    scale = (np.iinfo(signed).max + 1) / level
    top = np.iinfo(unsigned).max
    wrapped: Array = np.clip(scan.dwi.data * scale, 0, top).astype(unsigned).view(signed)
    return wrapped


def _standardised(scan: Scan) -> Array:
    inside = scan.dwi.data[scan.brain]
    standardised: Array = (scan.dwi.data - inside.mean()) / inside.std()
    return standardised


def _phase(scan: Scan) -> Array:
    x, y, z = _mm(scan)
    smooth = np.sin(x / 40) * 3 + y / 25 + np.cos(z / 30) * 2
    turns = np.where(scan.brain, smooth, 40 * _noise(scan))
    return np.angle(np.exp(1j * turns)).astype(np.float32)


def _ct(scan: Scan) -> Array:
    near = _ball(scan, (85.0, 105.0, 95.0))
    skull = np.where(near, 900.0, -1000.0) + 10 * _noise(scan)
    return np.rint(np.where(scan.brain, _remapped(scan, _CT), skull)).astype(np.int16)


TRUE: dict[str, Maker] = {
    "DWI, skull-stripped or not": lambda scan: scan.dwi.data,
    "DWI scaled to 0 to 1": lambda scan: scan.dwi.data / scan.dwi.data.max(),
    "DWI in 8 bits": lambda scan: np.clip(
        scan.dwi.data * (100 / np.median(scan.dwi.data[scan.brain])), 0, 255
    ).astype(np.uint8),
    "DWI in which most of a hemisphere is infarcted": lambda scan: _lesion(scan, (1,)),
    "DWI without its background": lambda scan: _of_brain(scan, scan.dwi.data),
}

OTHERS: dict[str, Maker] = {
    "b0": lambda scan: scan.b0,
    "b0, skull-stripped": lambda scan: _of_brain(scan, scan.b0),
    "T2 (b0 with more contrast)": lambda scan: np.maximum(scan.b0, 0) ** 1.5,
    "difference of b0 and DWI": lambda scan: scan.b0 - scan.dwi.data,
    "ADC in mm²/s": lambda scan: scan.adc,
    "ADC in 10⁻³ mm²/s": lambda scan: scan.adc * 1e3,
    "ADC in 10⁻⁶ mm²/s": lambda scan: np.rint(scan.adc * 1e6),
    "ADC scaled to 0 to 1": lambda scan: scan.adc / scan.adc.max(),
    "ADC, skull-stripped": lambda scan: _of_brain(scan, scan.adc * 1e6),
    "T1": lambda scan: _remapped(scan, _T1),
    "T1, skull-stripped": lambda scan: _of_brain(scan, _remapped(scan, _T1)),
    "FA": lambda scan: _of_brain(scan, _remapped(scan, _FA)),
    "CT": _ct,
    "DWI, inverted": lambda scan: scan.dwi.data.max() - scan.dwi.data,
    "DWI, standardised": _standardised,
    "DWI, standardised within the brain": lambda scan: _of_brain(scan, _standardised(scan)),
    "phase, -π to π": _phase,
    "phase, 0 to 4095": lambda scan: np.rint((_phase(scan) / np.pi + 1) * 2047),
    "16-bit DWI with wrapped integers (5 %)": lambda scan: _wrapped(
        scan, np.uint16, np.int16, 0.05
    ),
    "16-bit DWI with wrapped integers (0.1 %)": lambda scan: _wrapped(
        scan, np.uint16, np.int16, 0.001
    ),
    "8-bit DWI with wrapped integers (5 %)": lambda scan: _wrapped(scan, np.uint8, np.int8, 0.05),
    "brain mask": lambda scan: scan.brain.astype(np.uint8),
    "brain mask, 0 and 255": lambda scan: scan.brain * np.uint8(255),
    "mask of bright voxels": lambda scan: scan.dwi.data > np.quantile(scan.dwi.data, 0.97),
    "labels of four tissues": _labels,
    "atlas of hundreds of regions": _atlas,
    "probability of white matter": lambda scan: _of_brain(
        scan, np.clip(1.9 - 0.95 * scan.flat(scan.b0) ** 2, 0, 1)
    ),
    "phantom: a ball of water": lambda scan: _shaped(scan, 100.0 * _ball(scan, (75, 75, 75))),
    "phantom: tubes in a cylinder": lambda scan: _shaped(
        scan,
        (np.hypot(*_mm(scan)[:2]) < 80)
        * (100.0 + 150.0 * ((np.abs(_mm(scan)[0] % 40 - 20) < 8) & (_mm(scan)[1] % 40 < 16))),
    ),
    "spine": _spine,
    "noise": _noise,
    "ramp": lambda scan: _mm(scan)[0] - _mm(scan)[0].min(),
}
