"""Where ONNX Runtime spends its time in a variant of the network."""

import json
import statistics
import tempfile
from collections import defaultdict
from pathlib import Path
from typing import Any

from benchmarks.compare import phantom_slices
from cnnres_infer.bundle.bundle import Bundle
from cnnres_infer.engines.onnxruntime.cpu import (
    DISABLED_OPTIMIZERS,
    PROVIDER,
    OrtEngine,
    import_onnxruntime,
)
from cnnres_infer.host.machine import usable_cores

_KERNEL = "_kernel_time"


def profile(folder: Path | None, variant: str, runs: int) -> dict[str, Any]:
    """Measure the nodes of a variant on one batch of slices, on the CPU.

    Returns
    -------
    dict
        ``kinds`` and ``nodes``: milliseconds for a batch, the largest first,
        each node's the median over the runs; ``slices`` in a batch.
    """
    bundle = Bundle.open(folder)
    onnxruntime = import_onnxruntime()
    images = phantom_slices(bundle)[: OrtEngine.BATCH]
    with tempfile.TemporaryDirectory() as temporary:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = usable_cores()
        options.log_severity_level = 3
        options.enable_profiling = True
        options.profile_file_prefix = str(Path(temporary) / "profile")
        session = onnxruntime.InferenceSession(
            bundle.model(variant),
            options,
            providers=[PROVIDER],
            disabled_optimizers=list(DISABLED_OPTIMIZERS),
        )
        for _ in range(runs):
            session.run(None, {session.get_inputs()[0].name: images})
        events = json.loads(Path(session.end_profiling()).read_text())
    spent: dict[tuple[str, str], list[float]] = defaultdict(list)
    for event in events:
        if event["cat"] == "Node" and event["name"].endswith(_KERNEL):
            key = event["args"]["op_name"], event["name"].removesuffix(_KERNEL)
            spent[key].append(event["dur"] / 1000)
    kinds: dict[str, float] = defaultdict(float)
    nodes: dict[str, float] = {}
    for (kind, name), milliseconds in spent.items():
        nodes[f"{kind} {name}"] = statistics.median(milliseconds)
        kinds[kind] += nodes[f"{kind} {name}"]
    return {"slices": len(images), "kinds": _falling(kinds), "nodes": _falling(nodes)}


def _falling(spent: dict[str, float]) -> dict[str, float]:
    return dict(sorted(spent.items(), key=lambda item: -item[1]))
