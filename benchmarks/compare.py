"""The network alone on 60 slices: everything side by side, in one run."""

import json
import platform
import statistics
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.contestants import EAGER, Compute, contestants, multiply_adds
from benchmarks.unet import UNet
from cnnres_infer.bundle.bundle import Bundle
from cnnres_infer.core.arrays import FloatArray
from cnnres_infer.core.volume import Volume
from cnnres_infer.host.machine import peak_memory_mb, processor, usable_cores, versions
from cnnres_infer.phantom.head import make_phantom
from cnnres_infer.pipeline.brain import find_brain
from cnnres_infer.pipeline.slices.batches import all_slices
from cnnres_infer.verification.agreement import dice
from export.timing import interleaved
from network.cnnres import CNNRes

SLICES = 60
ONE = "one-contestant"
_MATRIX = 2048
_PRODUCTS = 8


def compare(folder: Path | None, runs: int) -> dict[str, Any]:
    """Measure every way to compute 60 slices, the rounds interleaved.

    Returns
    -------
    dict
        For each: median seconds, how many times as fast as PyTorch eager on
        single slices, share of the matrix-product rate measured in the same
        run (counting the multiply-adds of the network as it was trained), Dice
        of the masks with PyTorch's, largest resident memory in MB (10^6 bytes)
        of a process of its own. What cannot be used has a ``reason`` instead.
    """
    bundle = Bundle.open(folder)
    threads = usable_cores()
    images = phantom_slices(bundle)
    rows: dict[str, dict[str, Any]] = {}
    outputs: dict[str, FloatArray] = {}
    cases: dict[str, Callable[[], object]] = dict(_matrix_products())
    rates = list(cases)
    entrants = contestants(bundle, threads)
    for name, entrant in entrants.items():
        try:
            compute = entrant.open()
            outputs[name] = compute(images)
        except Exception as error:
            rows[name] = {"reason": str(error).strip().partition("\n")[0]}
            continue
        cases[name] = _on(compute, images)
    seconds = {name: statistics.median(each) for name, each in interleaved(cases, runs).items()}
    rate = {name: _PRODUCTS * _MATRIX**3 / seconds.pop(name) for name in rates}
    size = bundle.spec.slices.size
    work = {
        "CNN-Res": multiply_adds(CNNRes().eval(), size),
        "U-Net": multiply_adds(UNet().eval(), size),
    }
    mask = bundle.spec.mask
    for name, spent in seconds.items():
        entrant = entrants[name]
        rows[name] = {"seconds": spent, "speed_up": seconds[EAGER] / spent}
        rows[name]["peak_mb"] = _peak_mb(name, bundle)
        if entrant.rate in rate:
            done = SLICES * work[entrant.network] / spent
            rows[name]["share_of_rate"] = done / rate[entrant.rate]
        if entrant.network == "CNN-Res":
            masks = (mask.apply(outputs[each]) for each in (name, EAGER))
            rows[name]["dice"] = dice(*masks)
    return {
        "machine": f"{platform.machine()}, {threads} cores, {processor()}",
        "versions": versions("onnxruntime", "openvino", "torch", "numpy"),
        "bundle_sha256": bundle.digest,
        "slices": SLICES,
        "runs": runs,
        "giga_multiply_adds_per_slice": {name: each / 1e9 for name, each in work.items()},
        "giga_multiply_adds_per_second": {name: each / 1e9 for name, each in rate.items()},
        "rows": {name: rows[name] for name in entrants},
    }


def run_one(folder: Path | None, name: str) -> float | None:
    """Let one contestant compute the slices; gives the peak memory of this process in MB."""
    bundle = Bundle.open(folder)
    contestants(bundle, usable_cores())[name].open()(phantom_slices(bundle))
    return peak_memory_mb()


def phantom_slices(bundle: Bundle) -> FloatArray:
    """Slices (60, 1, H, W) of a synthetic brain."""
    phantom = make_phantom(shape=(112, 112, 73))
    volume = Volume.from_array(phantom.data, phantom.affine)
    _, batch = all_slices((volume,), find_brain(volume).mask, bundle.spec.slices)
    return np.ascontiguousarray(batch.images[:SLICES])


def _on(compute: Compute, images: FloatArray) -> Callable[[], object]:
    return lambda: compute(images)


def _matrix_products() -> dict[str, Callable[[], object]]:
    """Square matrix products by PyTorch, which has oneDNN's, each several times in a row."""
    generator = torch.Generator().manual_seed(0)
    codes = torch.randint(-127, 128, (2, _MATRIX, _MATRIX), generator=generator, dtype=torch.int8)
    floats = torch.randn((2, _MATRIX, _MATRIX), generator=generator)
    halves = floats.bfloat16()
    return {
        "float32": lambda: [torch.mm(*floats) for _ in range(_PRODUCTS)],
        "bfloat16": lambda: [torch.mm(*halves) for _ in range(_PRODUCTS)],
        "int8": lambda: [torch._int_mm(*codes) for _ in range(_PRODUCTS)],
    }


def _peak_mb(name: str, bundle: Bundle) -> float:
    command = [sys.executable, "-m", "benchmarks", ONE, name, "--bundle", str(bundle.folder)]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    peak: float = json.loads(done.stdout)
    return peak
