"""How well masks agree where they should be the same: cropped, mirrored, shaded, in 8 bits."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from cnnres_infer.bundle.bundle import Bundle
from cnnres_infer.core.arrays import BoolArray
from cnnres_infer.core.spec import FRAMES
from cnnres_infer.core.volume import Volume
from cnnres_infer.engines.base import run_all
from cnnres_infer.host.machine import usable_cores
from cnnres_infer.predictor import Predictor
from cnnres_infer.readers import load_volume
from cnnres_infer.selection.select import Selection
from cnnres_infer.verification.agreement import dice
from network.cnnres import CNNRes
from network.engine import TorchEngine
from network.steadiness import steadiness
from training.data import VALIDATION_VOLUMES, load_validation_slices, volume_paths
from training.eight_bit_engine import EightBitEngine
from training.lesion_free import find_series
from training.variants import random_gain

# Gains that a volume is seen under, and the natural logarithm of the strongest.
_GAINS, _STRONGEST = 5, 0.4


def agreement(bundle: Bundle, network: CNNRes, data: Path) -> dict[str, Any]:
    """Dice between masks of the same validation volumes, computed in two ways.

    Parameters
    ----------
    bundle
        How images and masks are made.
    network
        Its network, in PyTorch, which takes crops and emulates 8 bits.
    data
        Folder of the collections of real MRI.

    Returns
    -------
    dict
        For each volume ``mirrored``, ``cropped``, ``rounded`` and ``shaded``, the
        Dice of whole masks, the last being the lowest with several smooth gains of
        up to 40 %; ``rounded_slices``, the mean over held-out slices.
    """
    sides = bundle.spec.slices.sides
    usual = Predictor(bundle, Selection(TorchEngine(network, usable_cores(), sides=sides)))
    eight_bits = EightBitEngine(network, usable_cores(), sides=sides)
    rounded = Predictor(bundle, Selection(eight_bits))
    whole, cropped = (_framed(bundle, network, frame) for frame in FRAMES)
    volumes = {case: load_volume(volume_paths(data, case)[0]) for case in VALIDATION_VOLUMES}
    volumes |= {s.name: s.load()[0] for s in find_series(data) if s.held_out}
    rows = {}
    for name, volume in volumes.items():
        mask = _mask(usual, volume)
        rows[name] = {
            "mirrored": dice(mask, np.flip(_mask(usual, mirrored(volume)), _across(volume))),
            "cropped": dice(_mask(whole, volume), _mask(cropped, volume)),
            "rounded": dice(mask, _mask(rounded, volume)),
            "shaded": min(dice(mask, _mask(usual, each)) for each in shaded(volume)),
        }
    pixels = load_validation_slices(data, bundle.spec.slices)[0].pixels[:, None]
    first, second = (
        bundle.spec.mask.apply(run_all(each.engine, pixels)[:, 0]) for each in (usual, rounded)
    )
    return {"volumes": rows, "rounded_slices": steadiness(first, second)}


def _framed(bundle: Bundle, network: CNNRes, frame: str) -> Predictor:
    """PyTorch with images of whole slices or of brains, whatever the bundle's are."""
    spec = replace(bundle.spec, slices=replace(bundle.spec.slices, frame=frame))
    engine = TorchEngine(network, usable_cores(), sides=spec.slices.sides)
    return Predictor(replace(bundle, spec=spec), Selection(engine))


def mirrored(volume: Volume) -> Volume:
    """The head with its sides exchanged, on the same grid."""
    data = np.flip(volume.data, _across(volume)).copy()
    return Volume(data, volume.grid, volume.name)


def shaded(volume: Volume, share: float = 1.0) -> Iterator[Volume]:
    """The head under the fields of several coils, or under a share of their logarithm."""
    for seed in range(_GAINS):
        gain = random_gain(volume, _STRONGEST, np.random.default_rng(seed))
        yield replace(volume, data=volume.data * gain ** np.float32(share))


def _across(volume: Volume) -> int:
    """The voxel axis that runs from side to side."""
    _, columns, _ = volume.grid.orientation.axes
    return columns


def _mask(predictor: Predictor, volume: Volume) -> BoolArray:
    return predictor.predict(volume).mask.data > 0
