"""The effect of the exact rewritings of the network on speed, in each CPU runtime."""

from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Any

from benchmarks.common import SLICES, machine, phantom_slices
from cnnres_infer.bundle.bundle import Bundle
from cnnres_infer.core.precision import Precision
from cnnres_infer.engines import backend
from cnnres_infer.engines.base import ModelFile, run_all
from cnnres_infer.errors import BackendUnavailableError
from cnnres_infer.host.machine import usable_cores, versions
from export.onnx_model import rewritten_model
from export.timing import median_seconds

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
    """Measure the float network on 60 slices after several rewritings, in interleaved rounds.

    Returns
    -------
    dict
        ``rows``: median seconds of each engine, for each sequence of rewritings;
        ``not_usable``: the engines that cannot be used, each with its ``reason``.
    """
    bundle = Bundle.open(folder)
    images, threads = phantom_slices(bundle), usable_cores()
    models = {names: rewritten_model(bundle.model("fp32"), names) for names in SEQUENCES}
    rows: dict[str, dict[str, float]] = {" + ".join(names) or "unchanged": {} for names in models}
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
            for title, seconds in median_seconds(cases, runs).items():
                rows[title][f"{name} {precision}"] = seconds
    return {
        "machine": machine(),
        "versions": versions("onnxruntime", "openvino"),
        "slices": SLICES,
        "runs": runs,
        "rows": rows,
        "not_usable": reasons,
    }
