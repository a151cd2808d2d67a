"""The network alone on 60 slices: every way to compute it, side by side."""

import json
import subprocess
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch

from benchmarks.common import SLICES, machine, phantom_slices
from benchmarks.contestants import EAGER, Contestant, contestants, multiply_adds
from benchmarks.unet import UNet
from cnnres_infer.bundle.bundle import Bundle
from cnnres_infer.core.arrays import FloatArray
from cnnres_infer.host.machine import peak_memory_mb, usable_cores, versions
from cnnres_infer.verification.agreement import dice
from export.timing import median_seconds
from network.cnnres import CNNRes

ONE = "one-contestant"
_MATRIX = 2048
_PRODUCTS = 8


def compare(folder: Path | None, runs: int) -> dict[str, Any]:
    """Measure every contestant on 60 slices, in interleaved rounds.

    Returns
    -------
    dict
        In ``rows``, for each contestant: median seconds; the speed-up over
        PyTorch eager on single slices; the share of the matrix-product rate
        measured in the same run (counting the multiply-adds of the network as
        it was trained); Dice of the masks with PyTorch's; and the peak resident
        memory, in MB (10^6 bytes), of a process of its own. A contestant that
        cannot be used has a ``reason`` instead.
    """
    bundle = Bundle.open(folder)
    images = phantom_slices(bundle)
    entrants = contestants(bundle, usable_cores())
    products = _matrix_products()
    cases: dict[str, Callable[[], object]] = dict(products)
    rows: dict[str, dict[str, Any]] = {}
    outputs: dict[str, FloatArray] = {}
    for name, entrant in entrants.items():
        try:
            network = entrant.open()
            outputs[name] = network(images)
        except Exception as error:
            rows[name] = {"reason": str(error).strip().partition("\n")[0]}
            continue
        cases[name] = partial(network, images)
    seconds = median_seconds(cases, runs)
    rates = {name: _PRODUCTS * _MATRIX**3 / seconds.pop(name) for name in products}
    work = _work(bundle.spec.slices.size)
    for name, spent in seconds.items():
        row = {"seconds": spent, "speed_up": seconds[EAGER] / spent}
        row["peak_mb"] = _peak_mb(name, bundle)
        row |= _share_of_rate(entrants[name], spent, work, rates)
        if entrants[name].network == "CNN-Res":
            masks = (bundle.spec.mask.apply(outputs[each]) for each in (name, EAGER))
            row["dice"] = dice(*masks)
        rows[name] = row
    return {
        "machine": machine(),
        "versions": versions("onnxruntime", "openvino", "torch", "numpy"),
        "bundle_sha256": bundle.digest,
        "slices": SLICES,
        "runs": runs,
        "giga_multiply_adds_per_slice": {name: each / 1e9 for name, each in work.items()},
        "giga_multiply_adds_per_second": {name: each / 1e9 for name, each in rates.items()},
        "rows": {name: rows[name] for name in entrants},
    }


def run_one(folder: Path | None, name: str) -> float | None:
    """Let one contestant compute the slices; returns the peak memory of this process in MB."""
    bundle = Bundle.open(folder)
    contestants(bundle, usable_cores())[name].open()(phantom_slices(bundle))
    return peak_memory_mb()


def _work(size: int) -> dict[str, int]:
    """Multiply-adds of each network for one slice."""
    networks = {"CNN-Res": CNNRes(), "U-Net": UNet()}
    return {name: multiply_adds(network.eval(), size) for name, network in networks.items()}


def _share_of_rate(
    entrant: Contestant, seconds: float, work: dict[str, int], rates: dict[str, float]
) -> dict[str, float]:
    """The share of the matrix-product rate that was reached, if there is one to compare with."""
    if entrant.rate not in rates:
        return {}
    done = SLICES * work[entrant.network] / seconds
    return {"share_of_rate": done / rates[entrant.rate]}


def _matrix_products() -> dict[str, Callable[[], object]]:
    """Square matrix products in PyTorch, which uses oneDNN, each several times in a row."""
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
