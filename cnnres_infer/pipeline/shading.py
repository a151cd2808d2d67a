"""Coil shading: the smooth field that makes one side of a head brighter, estimated and removed."""

from dataclasses import replace
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from cnnres_infer.core.arrays import BoolArray, FloatArray
from cnnres_infer.core.spec import SliceSpec
from cnnres_infer.core.volume import Volume
from cnnres_infer.pipeline.box import bounding_box
from cnnres_infer.pipeline.resample import resampling_matrix

# Lengths in mm: what the field is smoothed by (a narrower Gaussian takes infarcts for shading),
# and the voxels it is estimated on.
_SIGMA = 15.0
_WORKING_STEP = 4.0

# Shares of tissue that have no say: fluid and partial volume; lesions and pile-up at air.
_DARKEST, _BRIGHTEST = 0.15, 0.10
# Nor has, once a field is known, what is brighter by this factor's logarithm than plain tissue:
# an infarct can be half of a slice.
_PLAIN, _BRIGHTER = 0.4, 0.25
_ROUNDS = 6
# What bends the trend must explain more than this share of variance.
_STIFFNESS = 0.02
_RIDGE = 1e-7

# A voxel of the coarse grid counts if at least this share of it is brain.
_OCCUPIED = 0.5
# Of the Gaussian's weight: where less is brain, the field tends to its smooth trend.
_FLOOR = 1e-3


class _Axis(NamedTuple):
    """One voxel axis: its coarse positions in mm, and the matrices to them, along them and back."""

    positions: NDArray[np.float64]
    shrink: FloatArray
    smooth: FloatArray
    grow: FloatArray


def corrected(volume: Volume, brain: BoolArray, spec: SliceSpec) -> Volume:
    """The volume as the network's images are cut from it: without shading if `spec` says so."""
    return remove_shading(volume, brain) if spec.shading == "removed" else volume


def remove_shading(volume: Volume, brain: BoolArray) -> Volume:
    """Divide a volume by the smooth field that lies over its brain.

    The field is a quadratic trend of log intensities in the brain, fitted on all
    of it, and what a normalised convolution with a Gaussian of 15 mm finds
    besides. The darkest and the brightest tissue is left out, and chosen anew
    several times as the trend gets known, so that neither lesions nor the
    shading itself decide what counts.

    Parameters
    ----------
    volume
        In any orientation, and in any unit; a single slice is a volume of one.
    brain
        bool (X, Y, Z).

    Returns
    -------
    Volume
        On the same grid; its brain is as bright as before on geometric average.
        Voxels far from the brain are left as they are, and so is a volume whose
        brain holds no positive intensities.
    """
    # Neighbours in memory last, as numpy's products need them.
    order = np.argsort([-abs(step) for step in volume.data.strides], kind="stable")
    flat = volume.data.copy(order="K")
    data, brain = flat.transpose(order), brain.transpose(order)
    box = bounding_box(brain)
    data = data[box]
    inside = brain[box] & (data > 0)
    if not inside.any():
        return volume
    spacing = np.take(volume.grid.spacing, order).tolist()
    axes = [_axis(n, mm) for n, mm in zip(data.shape, spacing, strict=True)]
    field = _log_field(np.where(inside, data, np.float32(0)), inside.astype(np.float32), axes)
    data *= _along_axes(np.exp(-field), [axis.grow for axis in axes])
    return replace(volume, data=flat)


def _log_field(signal: FloatArray, weight: FloatArray, axes: list[_Axis]) -> FloatArray:
    """Logarithm of the field at the coarse positions, zero on average over the brain."""
    shrink = [axis.shrink for axis in axes]
    share = _along_axes(weight, shrink)
    total = _along_axes(signal, shrink)
    seen = (share > min(_OCCUPIED, 0.5 * float(share.max()))) & (total > 0)
    level = np.log(total[seen] / share[seen])
    level -= level.mean()
    basis = _quadratic([axis.positions for axis in axes])
    terms = basis[:, seen]
    trend = np.zeros_like(level)
    for later in range(_ROUNDS):
        flat = level - trend
        ranked, last = np.sort(flat), len(flat) - 1
        low, plain, high = (
            float(ranked[round(part * last)]) for part in (_DARKEST, _PLAIN, 1 - _BRIGHTEST)
        )
        high = min(high, plain + _BRIGHTER) if later else high
        kept = share[seen] * ((flat >= low) & (flat <= high))
        factors = _fitted(terms, level, kept)
        trend = factors @ terms
    known, rest = np.zeros_like(share), np.zeros_like(share)
    known[seen], rest[seen] = kept, kept * (level - trend)
    smooth = [axis.smooth for axis in axes]
    field = _along_axes(rest, smooth) / (_along_axes(known, smooth) + np.float32(_FLOOR))
    field += np.tensordot(factors, basis, 1)
    field -= field[seen].mean()
    return field


def _fitted(terms: FloatArray, level: FloatArray, weight: FloatArray) -> FloatArray:
    """Factors (10,) of the terms (10, N) that fit levels (N,) best."""
    weighted = terms * weight
    stiffness = np.r_[np.zeros(4), np.full(6, _STIFFNESS)] * weight.sum()
    normal = (weighted @ terms.T).astype(np.float64) + np.diag(stiffness)
    # Along an axis of one voxel, terms are equal or zero: a little of the identity decides.
    normal += _RIDGE * np.trace(normal) * np.eye(len(normal))
    factors: FloatArray = np.linalg.solve(normal, weighted @ level).astype(np.float32)
    return factors


def _quadratic(positions: list[NDArray[np.float64]]) -> FloatArray:
    """Terms (10, X, Y, Z) of a quadratic in positions, scaled to at most one."""
    scale = max(1.0, *(float(np.abs(p).max()) for p in positions))
    x, y, z = np.meshgrid(*((p / scale).astype(np.float32) for p in positions), indexing="ij")
    return np.stack([np.ones_like(x), x, y, z, x * x, y * y, z * z, x * y, x * z, y * z])


def _axis(extent: int, spacing: float) -> _Axis:
    count = max(1, round(extent * spacing / max(spacing, _WORKING_STEP)))
    step = extent / count
    positions = ((np.arange(count) - (count - 1) / 2) * step * spacing).astype(np.float64)
    distance = positions[:, None] - positions[None, :]
    return _Axis(
        positions,
        _whole(resampling_matrix(extent, count, (step - 1) / 2, step)),
        # Weights of a whole Gaussian sum to one, so that the floor means the same on every axis.
        _whole(np.exp(-(distance**2) / (2 * _SIGMA**2)).astype(np.float32)),
        _whole(resampling_matrix(count, extent, (1 / step - 1) / 2, 1 / step)),
    )


def _whole(matrix: FloatArray) -> FloatArray:
    """Rows that sum to one, so that nothing fades at the ends."""
    scaled: FloatArray = matrix / matrix.sum(axis=1, keepdims=True)
    return scaled


def _along_axes(data: FloatArray, matrices: list[FloatArray]) -> FloatArray:
    """Apply one matrix to each axis of (X, Y, Z)."""
    x, y, z = matrices
    along_x = (x @ data.reshape(len(data), -1)).reshape(len(x), *data.shape[1:])
    result: FloatArray = np.matmul(y, np.matmul(along_x, z.T))
    return result
