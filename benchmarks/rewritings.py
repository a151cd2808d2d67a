"""What the exact rewritings of the network bring in each runtime for CPUs."""

import platform
import statistics
from functools import partial
from pathlib import Path
from typing import Any

from benchmarks.compare import SLICES, phantom_slices
from cnnres_infer.bundle import Bundle
from cnnres_infer.engines import backend, run_all
from cnnres_infer.errors import BackendUnavailableError
from cnnres_infer.machine import processor, usable_cores, versions
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
        ``rows``: median seconds by engine, for each sequence of rewritings.
    """
    bundle = Bundle.open(folder)
    images, threads = phantom_slices(bundle), usable_cores()
    models = {names: rewritten_model(bundle.model("fp32"), names) for names in SEQUENCES}
    rows: dict[str, dict[str, float]] = {" + ".join(names) or "as it is": {} for names in models}
    for name, precision in ENGINES:
        try:
            engines = [backend(name).open(each, precision, threads) for each in models.values()]
        except BackendUnavailableError:
            continue
        cases = {
            title: partial(run_all, engine, images)
            for title, engine in zip(rows, engines, strict=True)
        }
        for title, seconds in interleaved(cases, runs).items():
            rows[title][f"{name} {precision}"] = statistics.median(seconds)
        for engine in engines:
            engine.close()
    return {
        "machine": f"{platform.machine()}, {threads} cores, {processor()}",
        "versions": versions("onnxruntime", "openvino"),
        "slices": SLICES,
        "runs": runs,
        "rows": rows,
    }
