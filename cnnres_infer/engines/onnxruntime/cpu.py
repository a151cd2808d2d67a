"""ONNX Runtime on the CPU."""

import os
from typing import Any, ClassVar, Self

import numpy as np

from cnnres_infer.core.arrays import FloatArray
from cnnres_infer.core.precision import Precision
from cnnres_infer.core.provenance import EngineInfo
from cnnres_infer.engines.base import ModelFile, Probe, SharedEngine, Variants
from cnnres_infer.errors import BackendUnavailableError
from cnnres_infer.host import machine

PROVIDER = "CPUExecutionProvider"
# Quantises layers of an INT8 file that were deliberately left in float (seen in 1.32).
DISABLED_OPTIMIZERS = ("WeightBiasQuantization",)
DISTRIBUTIONS = ("onnxruntime", "onnxruntime-gpu")
_REMEDY = "pip install 'cnnres-infer[cpu]'"


def import_onnxruntime() -> Any:
    """Import ONNX Runtime without telemetry, which is sent by default (seen in 1.32)."""
    os.environ["ORT_DISABLE_TELEMETRY"] = "1"
    import onnxruntime

    return onnxruntime


class OrtEngine(SharedEngine[Any]):
    """CNN-Res in an ONNX Runtime session, which threads may run at the same time; see `Engine`.

    This provider silently computes float16 files in float32, so that precision
    is not offered.
    """

    RUNTIME: ClassVar[str] = "ONNX Runtime"
    VARIANTS: ClassVar[Variants] = {
        Precision.INT8: ("int8-cpu",),
        Precision.FP32: ("fp32-cpu", "fp32"),
    }
    BATCH: ClassVar[int] = 4
    LEAST: ClassVar[int] = 1

    @classmethod
    def probe(cls) -> Probe:
        versions = machine.versions(*DISTRIBUTIONS)
        installed = [name for name in DISTRIBUTIONS if name in versions]
        try:
            onnxruntime = import_onnxruntime()
        except ImportError as error:
            reason = "is not installed" if not installed else f"cannot be imported ({error})"
            return Probe(False, f"onnxruntime {reason}", _REMEDY, versions)
        if len(installed) > 1:
            return Probe(
                False,
                "onnxruntime and onnxruntime-gpu are both installed and overwrite each other",
                f"pip uninstall -y {' '.join(installed)} && {_REMEDY}",
                versions,
            )
        devices = (f"CPU, {machine.usable_cores()} cores",)
        return Probe(True, f"onnxruntime {onnxruntime.__version__}", "", versions, devices)

    @classmethod
    def open(cls, model: ModelFile, precision: Precision, threads: int) -> Self:
        probe = cls.probe()
        probe.require()
        onnxruntime = import_onnxruntime()
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        options.inter_op_num_threads = 1
        options.log_severity_level = 3
        # Leave the cores to the other stages between runs.
        options.add_session_config_entry("session.force_spinning_stop", "1")
        try:
            session = onnxruntime.InferenceSession(
                model.content,
                options,
                providers=[PROVIDER],
                disabled_optimizers=list(DISABLED_OPTIMIZERS),
            )
        except Exception as error:
            raise BackendUnavailableError(f"ONNX Runtime rejected the model: {error}") from error
        provider = session.get_providers()[0]
        if provider != PROVIDER:
            raise BackendUnavailableError(f"ONNX Runtime selected {provider}, not {PROVIDER}")
        info = EngineInfo("ort", provider, precision, model.variant, threads, probe.versions)
        return cls(session, info, model.image_shape(declared_shape(session)))

    def _compute(self, handle: Any, images: FloatArray) -> FloatArray:
        (output,) = handle.run(None, {handle.get_inputs()[0].name: images})
        return np.asarray(output, np.float32)


def declared_shape(session: Any) -> list[object]:
    """Shape (C, H, W) of a session's images; names for dimensions that are dynamic."""
    return list(session.get_inputs()[0].shape[1:])
