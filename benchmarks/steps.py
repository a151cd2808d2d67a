"""Time of what is computed around the network, step by step."""

from collections.abc import Callable
from dataclasses import replace
from time import thread_time
from typing import Any

import numpy as np

from benchmarks.common import SHAPE, machine
from cnnres_infer.core.case import Case, Modality
from cnnres_infer.core.diffusion import RestrictionSpec
from cnnres_infer.core.grid import Grid
from cnnres_infer.core.mask import MaskSpec
from cnnres_infer.core.volume import Probabilities, Volume
from cnnres_infer.host.blas import single_blas_thread
from cnnres_infer.phantom.head import make_phantom
from cnnres_infer.pipeline.brain import find_brain
from cnnres_infer.pipeline.deadline import Stopwatch
from cnnres_infer.pipeline.mask import find_lesions
from cnnres_infer.pipeline.restriction import judge, known_adc
from cnnres_infer.pipeline.shading import remove_shading

_BOUNDS = RestrictionSpec(0.85, 0.25)


def steps(runs: int) -> dict[str, Any]:
    """Measure each step on a synthetic brain with its lesion, alone on one thread.

    The time is that of the processor, the least of all runs, so that other
    programs count as little as possible.

    Returns
    -------
    dict
        ``steps``: milliseconds by the name of the step; ``machine``.
    """
    phantom = make_phantom(shape=SHAPE)
    # In the order of a NIfTI file.
    volume = Volume(
        np.asfortranarray(phantom.data, np.float32), Grid(SHAPE, phantom.affine), "phantom"
    )
    truth = Probabilities(np.asfortranarray(phantom.truth, np.float32), volume.grid)
    brain = find_brain(volume)
    adc = np.where(brain.mask, np.float32(80) / np.maximum(volume.data, 1), np.float32(0))
    by_map = Case(Modality.DWI, volume, adc=replace(volume, data=adc, name="adc"))
    b0 = (volume.data * np.exp(np.float32(0.8))).astype(np.float32)
    by_b0 = Case(Modality.DWI, volume, b0=replace(volume, data=b0, name="b0"))
    known = known_adc(by_map, brain, Stopwatch())
    spec = MaskSpec(0.5, 0.0)
    with single_blas_thread():
        spent = {
            "brain": _least(lambda: find_brain(volume), runs),
            "shading": _least(lambda: remove_shading(volume, brain.mask), runs),
            "ADC map": _least(lambda: known_adc(by_map, brain, Stopwatch()), runs),
            "b0": _least(lambda: known_adc(by_b0, brain, Stopwatch()), runs),
            "lesions": _least(lambda: judge(find_lesions(truth, spec), known, _BOUNDS), runs),
        }
    return {"machine": machine(), "steps": spent}


def _least(work: Callable[[], object], runs: int) -> float:
    times = []
    for _ in range(runs):
        started = thread_time()
        work()
        times.append(thread_time() - started)
    return 1000 * min(times)
