"""OpenVINO on the CPU."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Any, ClassVar, Self

import numpy as np

from cnnres_infer.core.arrays import FloatArray
from cnnres_infer.core.precision import Precision
from cnnres_infer.core.provenance import EngineInfo
from cnnres_infer.engines.base import ModelFile, Probe, SerialEngine, Variants
from cnnres_infer.errors import BackendUnavailableError, PrecisionUnavailableError
from cnnres_infer.host import machine
from cnnres_infer.host.cache import cache_folder
from cnnres_infer.host.digest import json_digest

DEVICE = "CPU"
_FOLDER = "openvino"
_CONVERTER = "openvino.tools.ovc"
_REMEDY = "pip install 'cnnres-infer[openvino]'"
# The layers of an INT8 file that are not quantised are computed in float32.
_HINTS = {Precision.INT8: "f32", Precision.BF16: "bf16", Precision.FP32: "f32"}


@contextmanager
def _without(module: str) -> Iterator[None]:
    """Make the import of a module fail inside the context, unless it is already loaded."""
    if module in sys.modules:
        yield
        return
    sys.modules[module] = None  # type: ignore[assignment]
    try:
        yield
    finally:
        sys.modules.pop(module, None)


def _openvino() -> Any:
    """Import OpenVINO without its model converter, whose import sends telemetry (seen in 2026.4).

    OpenVINO works without the converter: it tolerates the failed import.
    """
    if (imported := sys.modules.get("openvino")) is not None:
        return imported
    with _without(_CONVERTER):
        import openvino

    return openvino


@dataclass(frozen=True)
class _Request:
    """An inference request, with views of its input and output tensors."""

    request: Any
    images: FloatArray
    output: FloatArray


class OpenVinoEngine(SerialEngine[_Request]):
    """CNN-Res compiled by OpenVINO; see `Engine`.

    Threads take turns with one request. Each run already uses all of its cores,
    so more requests would only wait for each other (measured).

    The precision is always set, because processors with BF16 silently compute
    float32 files in bfloat16 by default. Here that is a separate precision.
    """

    RUNTIME: ClassVar[str] = "OpenVINO"
    VARIANTS: ClassVar[Variants] = {
        Precision.INT8: ("int8-cpu",),
        Precision.BF16: ("fp32-cpu", "fp32"),
        Precision.FP32: ("fp32-cpu", "fp32"),
    }
    RIVALS: ClassVar[tuple[Precision, ...]] = (Precision.INT8, Precision.BF16)
    CACHE_FOLDER: ClassVar[str | None] = _FOLDER
    BATCH: ClassVar[int] = 4
    LEAST: ClassVar[int] = BATCH

    @classmethod
    def probe(cls) -> Probe:
        versions = machine.versions("openvino")
        if "openvino" not in versions or find_spec("openvino") is None:
            return Probe(False, "openvino is not installed", _REMEDY, versions)
        try:
            core = _openvino().Core()
            name = core.get_property(DEVICE, "FULL_DEVICE_NAME")
        except Exception as error:
            return Probe(False, f"openvino fails to start ({error})", _REMEDY, versions)
        devices = (f"{name}, {machine.usable_cores()} cores",)
        return Probe(True, f"openvino {versions['openvino']}", "", versions, devices)

    @classmethod
    def open(cls, model: ModelFile, precision: Precision, threads: int) -> Self:
        probe = cls.probe()
        probe.require()
        hint = _HINTS[precision]
        try:
            core = _openvino().Core()
            if hint == "bf16" and "BF16" not in core.get_property(
                DEVICE, "OPTIMIZATION_CAPABILITIES"
            ):
                raise PrecisionUnavailableError("this processor has no bfloat16")
            core.set_property(_settings(hint, threads, probe))
            network = core.read_model(model.content)
            # Kernels are compiled for one shape; a fixed one is compiled once and then cached.
            network.reshape([cls.BATCH, *list(network.input().partial_shape)[1:]])
            compiled = core.compile_model(network, DEVICE)
            actual = compiled.get_property("INFERENCE_PRECISION_HINT").to_string()
            request = compiled.create_infer_request()
        except BackendUnavailableError:
            raise
        except Exception as error:
            raise BackendUnavailableError(f"OpenVINO rejected the model: {error}") from error
        if actual != hint:
            raise BackendUnavailableError(f"OpenVINO computes in {actual}, not {hint}")
        info = EngineInfo("openvino", DEVICE, precision, model.variant, threads, probe.versions)
        handle = _Request(
            request, request.get_input_tensor().data, request.get_output_tensor().data
        )
        return cls(handle, info, handle.images.shape[1:])

    def _compute(self, handle: _Request, images: FloatArray) -> FloatArray:
        output = np.empty((len(images), *handle.output.shape[1:]), np.float32)
        for first in range(0, len(images), self.BATCH):
            part = images[first : first + self.BATCH]
            # Unused slots still hold earlier images, whose output is discarded.
            handle.images[: len(part)] = part
            handle.request.infer()
            output[first : first + len(part)] = handle.output[: len(part)]
        return output


def _settings(hint: str, threads: int, probe: Probe) -> dict[str, Any]:
    settings = {
        "INFERENCE_PRECISION_HINT": hint,
        "PERFORMANCE_HINT": "LATENCY",
        "INFERENCE_NUM_THREADS": threads,
        # The scheduler places threads on idle cores, whatever their numbers.
        "ENABLE_CPU_PINNING": False,
    }
    try:
        key = json_digest([probe.versions, machine.hardware()])[:16]
        settings["CACHE_DIR"] = str(cache_folder(_FOLDER, key))
    except OSError:
        # Without a cache the model is compiled at every start; the results are the same.
        return settings
    return settings
