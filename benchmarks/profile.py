"""Where ONNX Runtime spends its time in a variant of the network."""

import json
import statistics
import tempfile
from collections import defaultdict
from pathlib import Path
from typing import Any

from benchmarks.common import phantom_slices
from cnnres_infer.bundle.bundle import Bundle
from cnnres_infer.core.arrays import FloatArray
from cnnres_infer.engines.onnxruntime.cpu import (
    DISABLED_OPTIMIZERS,
    PROVIDER,
    OrtEngine,
    import_onnxruntime,
)
from cnnres_infer.host.machine import usable_cores

_KERNEL = "_kernel_time"


def profile(folder: Path | None, variant: str, runs: int) -> dict[str, Any]:
    """Time the nodes of a variant on one batch of slices, on the CPU.

    Returns
    -------
    dict
        ``kinds`` and ``nodes``: milliseconds per batch for each operator and
        node, the slowest first, from the median over the runs of each node;
        ``slices`` in a batch.
    """
    bundle = Bundle.open(folder)
    images = phantom_slices(bundle)[: OrtEngine.BATCH]
    spent: dict[tuple[str, str], list[float]] = defaultdict(list)
    for event in _events(bundle.model(variant), images, runs):
        if event["cat"] == "Node" and event["name"].endswith(_KERNEL):
            key = event["args"]["op_name"], event["name"].removesuffix(_KERNEL)
            spent[key].append(event["dur"] / 1000)
    kinds: dict[str, float] = defaultdict(float)
    nodes: dict[str, float] = {}
    for (kind, name), milliseconds in spent.items():
        nodes[f"{kind} {name}"] = statistics.median(milliseconds)
        kinds[kind] += nodes[f"{kind} {name}"]
    return {"slices": len(images), "kinds": _descending(kinds), "nodes": _descending(nodes)}


def _events(model: bytes, images: FloatArray, runs: int) -> list[dict[str, Any]]:
    """The events that ONNX Runtime's profiler records in some runs."""
    onnxruntime = import_onnxruntime()
    with tempfile.TemporaryDirectory() as temporary:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = usable_cores()
        options.log_severity_level = 3
        options.enable_profiling = True
        options.profile_file_prefix = str(Path(temporary) / "profile")
        session = onnxruntime.InferenceSession(
            model,
            options,
            providers=[PROVIDER],
            disabled_optimizers=list(DISABLED_OPTIMIZERS),
        )
        for _ in range(runs):
            session.run(None, {session.get_inputs()[0].name: images})
        events: list[dict[str, Any]] = json.loads(Path(session.end_profiling()).read_text())
    return events


def _descending(spent: dict[str, float]) -> dict[str, float]:
    return dict(sorted(spent.items(), key=lambda item: -item[1]))
