"""OpenVINO on the CPU."""

import sys
from importlib.util import find_spec
from typing import Any, ClassVar, Self

import numpy as np

from cnnres_infer.core.arrays import FloatArray
from cnnres_infer.core.precision import Precision
from cnnres_infer.core.provenance import EngineInfo
from cnnres_infer.engines.base import ImageShape, ModelFile, Probe, SerialEngine, Variants
from cnnres_infer.engines.compiled import CompiledCache
from cnnres_infer.errors import BackendUnavailableError, PrecisionUnavailableError
from cnnres_infer.host import machine
from cnnres_infer.host.imports import hidden

DEVICE = "CPU"
_FOLDER = "openvino"
_CONVERTER = "openvino.tools.ovc"
_REMEDY = "pip install 'cnnres-infer[openvino]'"
# The layers of an INT8 file that are not quantised are computed in float32.
_HINTS = {Precision.INT8: "f32", Precision.BF16: "bf16", Precision.FP32: "f32"}

_CACHE = CompiledCache(_FOLDER)


def _openvino() -> Any:
    """Import OpenVINO without its model converter, whose import sends telemetry (seen in 2026.4).

    OpenVINO works without the converter: it tolerates the failed import.
    """
    if (imported := sys.modules.get("openvino")) is not None:
        return imported
    with hidden(_CONVERTER):
        import openvino

    return openvino


class _FixedRequest:
    """An inference request for batches of one shape, with views of its tensors."""

    def __init__(self, request: Any) -> None:
        self._request = request
        self._images: FloatArray = request.get_input_tensor().data
        self._output: FloatArray = request.get_output_tensor().data

    def run(self, images: FloatArray) -> FloatArray:
        """Compute up to a batch of images; the result is only valid until the next call."""
        # Unused slots still hold earlier images, whose output is discarded.
        self._images[: len(images)] = images
        self._request.infer()
        return self._output[: len(images)]


class _FlexibleRequest:
    """An inference request for batches of several shapes."""

    def __init__(self, request: Any) -> None:
        self._request = request

    def run(self, images: FloatArray) -> FloatArray:
        """Compute up to a batch of images; the result is only valid until the next call."""
        self._request.set_input_tensor(_openvino().Tensor(np.ascontiguousarray(images)))
        self._request.infer()
        output: FloatArray = self._request.get_output_tensor().data
        return output


class OpenVinoEngine(SerialEngine[_FixedRequest | _FlexibleRequest]):
    """CNN-Res compiled by OpenVINO; see `Engine`.

    Threads take turns with one request. Each run already uses all of its cores,
    so more requests would only wait for each other (measured).

    Images of several sizes share one compiled network with bounded dynamic
    dimensions, whose kernels OpenVINO keeps for each size. A network for each size
    is as fast, but takes far longer to load and several times the memory (measured).

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
    # Needed where all images have one size, and at most needed where they have several.
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
        settings = _settings(hint, threads)
        conditions = _conditions(cls.BATCH, model, settings, probe)
        try:
            core = _openvino().Core()
            if hint == "bf16" and "BF16" not in core.get_property(
                DEVICE, "OPTIMIZATION_CAPABILITIES"
            ):
                raise PrecisionUnavailableError("this processor has no bfloat16")
            core.set_property(settings)
            stored = _CACHE.get(conditions) if model.use_cache else None
            network = None if stored is None else _load(core, stored.content)
            if network is None:
                network = _compile(core, model, cls.BATCH)
                if model.use_cache:
                    stored = _CACHE.put(conditions, network.export_model().getvalue())
            shape = _image_shape(network, model)
            actual = network.get_property("INFERENCE_PRECISION_HINT").to_string()
            request = network.create_infer_request()
        except BackendUnavailableError:
            raise
        except Exception as error:
            # Whatever keeps other precisions from compiling, they say themselves.
            if hint == "bf16":
                raise PrecisionUnavailableError(
                    f"OpenVINO has no bfloat16 for this processor: {error}"
                ) from error
            raise BackendUnavailableError(f"OpenVINO rejected the model: {error}") from error
        if actual != hint:
            raise BackendUnavailableError(f"OpenVINO computes in {actual}, not {hint}")
        info = EngineInfo(
            "openvino",
            DEVICE,
            precision,
            model.variant,
            threads,
            probe.versions,
            compiled_sha256="" if stored is None else stored.sha256,
        )
        is_fixed = all(isinstance(n, int) for n in shape)
        return cls(_FixedRequest(request) if is_fixed else _FlexibleRequest(request), info, shape)

    def _compute(self, handle: _FixedRequest | _FlexibleRequest, images: FloatArray) -> FloatArray:
        output = np.empty((len(images), 1, *images.shape[2:]), np.float32)
        for first in range(0, len(images), self.BATCH):
            part = images[first : first + self.BATCH]
            output[first : first + len(part)] = handle.run(part)
        return output


def _image_shape(network: Any, model: ModelFile) -> ImageShape:
    """Shape (C, H, W) of the images that a network may be run with, compiled or not."""
    dimensions = list(network.input().partial_shape)[1:]
    return model.image_shape([n.get_length() if n.is_static else None for n in dimensions])


def _bounds(batch: int, shape: ImageShape) -> list[Any]:
    """The input shape to compile for: fixed if all images have the same size.

    Kernels are compiled for one shape; a fixed one is compiled once and then cached.
    """
    if all(isinstance(n, int) for n in shape):
        return [batch, *shape]
    dimension = _openvino().Dimension
    bounds = ((n[0], n[-1]) if isinstance(n, tuple) else (n or 1, n or -1) for n in shape)
    return [dimension(1, batch), *(dimension(*each) for each in bounds)]


def _load(core: Any, compiled: bytes) -> Any:
    """Load a compiled network; None if OpenVINO was restricted to other instructions then."""
    try:
        return core.import_model(compiled, DEVICE)
    except RuntimeError:
        return None


def _compile(core: Any, model: ModelFile, batch: int) -> Any:
    network = core.read_model(model.content)
    network.reshape(_bounds(batch, _image_shape(network, model)))
    return core.compile_model(network, DEVICE)


def _settings(hint: str, threads: int) -> dict[str, Any]:
    return {
        "INFERENCE_PRECISION_HINT": hint,
        "PERFORMANCE_HINT": "LATENCY",
        "INFERENCE_NUM_THREADS": threads,
        # The scheduler places threads on idle cores, whatever their numbers.
        "ENABLE_CPU_PINNING": False,
    }


def _conditions(
    batch: int, model: ModelFile, settings: dict[str, Any], probe: Probe
) -> dict[str, Any]:
    """All that a compiled network depends on."""
    return {
        "network": model.sha256,
        "batch": batch,
        "sides": model.sides,
        "settings": settings,
        "versions": probe.versions,
        "machine": machine.hardware(),
    }
