"""What the exact rewritings of the network bring in each runtime for CPUs."""

import platform
import statistics
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Any

from benchmarks.compare import SLICES, phantom_slices
from cnnres_infer.bundle.bundle import Bundle
from cnnres_infer.core.precision import Precision
from cnnres_infer.engines import backend
from cnnres_infer.engines.base import ModelFile, run_all
from cnnres_infer.errors import BackendUnavailableError
from cnnres_infer.host.machine import processor, usable_cores, versions
from export.onnx_model import rewritten_model
from export.timing import interleaved

SEQUENCES = (
    (),
    ("batch-norms-to-convs",),
    ("head-before-upsampling",),
    ("upsampling-to-transposed-convs",),
    ("head-before-upsampling", "head-to-matmul"),
    ("head-before-upsampling", "upsampling-to-transposed-convs"),
)
ENGINES = (("ort", "fp32"), ("openvino", "fp32"), ("openvino", "bf16"))


def rewritings(folder: Path | None, runs: int) -> dict[str, Any]:
    """Measure the float network on 60 slices after some rewritings, the rounds interleaved.

    Returns
    -------
    dict
        ``rows``: median seconds by engine, for each sequence of rewritings;
        ``not_usable``: engines that are not among them, each with its ``reason``.
    """
    bundle = Bundle.open(folder)
    images, threads = phantom_slices(bundle), usable_cores()
    models = {names: rewritten_model(bundle.model("fp32"), names) for names in SEQUENCES}
    rows: dict[str, dict[str, float]] = {" + ".join(names) or "as it is": {} for names in models}
    reasons: dict[str, dict[str, str]] = {}
    for name, precision in ENGINES:
        with ExitStack() as opened:
            cases = {}
            try:
                for title, model in zip(rows, models.values(), strict=True):
                    engine = opened.enter_context(
                        backend(name).open(
                            ModelFile("fp32-cpu", model), Precision(precision), threads
                        )
                    )
                    cases[title] = partial(run_all, engine, images)
            except BackendUnavailableError as error:
                reasons[f"{name} {precision}"] = {"reason": str(error)}
                continue
            for title, seconds in interleaved(cases, runs).items():
                rows[title][f"{name} {precision}"] = statistics.median(seconds)
    return {
        "machine": f"{platform.machine()}, {threads} cores, {processor()}",
        "versions": versions("onnxruntime", "openvino"),
        "slices": SLICES,
        "runs": runs,
        "rows": rows,
        "not_usable": reasons,
    }
