"""Build TensorRT plans from ONNX variants, for this machine or for another."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from cnnres_infer.engines.base import bounds
from cnnres_infer.engines.tensorrt.api import NO_DEVICE, capabilities, make_logger
from cnnres_infer.errors import BackendUnavailableError, UsageError

Progress = Callable[[str, int, int], None]
_INT8_ADVICE = (
    "TensorRT accepts INT8 only with zero-points of 0 and biases in float: give it the bundle's "
    "int8-trt variant, not int8-cpu"
)
# Without it, small batches need as much scratch memory as the largest. 10.3 does not have it.
_RESIZE = "RUNTIME_ACTIVATION_RESIZE_10_10"
_QUANTISATION = ("QuantizeLinear", "DequantizeLinear")


@dataclass(frozen=True)
class BatchRange:
    """The batch sizes of an engine, in slices: smallest, usual and largest."""

    smallest: int = 1
    usual: int = 16
    largest: int = 16

    def __post_init__(self) -> None:
        if not 1 <= self.smallest <= self.usual <= self.largest <= 1024:
            raise UsageError(f"batch {self} is not MIN,OPT,MAX with 1 <= MIN <= OPT <= MAX <= 1024")

    @classmethod
    def parse(cls, text: str) -> "BatchRange":
        """Read ``"1,8,16"``.

        Raises
        ------
        UsageError
            If it is anything else.
        """
        try:
            smallest, usual, largest = map(int, text.split(","))
        except ValueError:
            raise UsageError(f"batch {text!r} is not MIN,OPT,MAX, as in 1,8,16") from None
        return cls(smallest, usual, largest)

    def __str__(self) -> str:
        return f"{self.smallest},{self.usual},{self.largest}"


def build(
    trt: Any,
    model: bytes,
    batch: BatchRange,
    sm: int | None = None,
    timing_cache: bytes | None = None,
    progress: Progress | None = None,
    log: Callable[[str], None] | None = None,
    sides: Sequence[int] = (),
) -> tuple[bytes, bytes | None]:
    """Build a plan, with layers in the types given by the ONNX file and without TF32.

    Parameters
    ----------
    trt
        The module: ``tensorrt`` 10.3 to 11, or ``tensorrt_rtx`` 1.
    model
        An ONNX variant, without external data.
    batch
        The range of batch sizes.
    sm
        The compute capability to build for; None for that of this machine's
        GPU, or with TensorRT-RTX for all that it supports from 8.0.
    timing_cache
        Measurements of earlier builds; None if the flavour does not use them.
    progress
        Called with the phase, the number of completed steps and their total.
    log
        Called with every line of TensorRT's verbose log.
    sides
        Heights and widths that images may have, in ascending order, if the model
        takes several.

    Returns
    -------
    plan
    timing_cache
        The measurements, with those of this build; None if none were given.

    Raises
    ------
    BackendUnavailableError
        If TensorRT rejects the model or cannot build for `sm`.
    """
    logger = make_logger(trt, log, needs_device=False)
    try:
        builder = trt.Builder(logger)
        network = _network(trt, builder, logger, model)
        config = _config(trt, builder, log is not None)
        profile = _profile(builder, network, batch, sides)
        if config.add_optimization_profile(profile) < 0:
            raise BackendUnavailableError(f"TensorRT rejected the batch range {batch}")
        if sm is not None:
            _target(trt, config, sm)
        cache = _timing_cache(config, timing_cache)
        if progress is not None:
            config.progress_monitor = _monitor(trt, progress)
        plan = builder.build_serialized_network(network, config)
    except (RuntimeError, TypeError, ValueError) as error:
        if isinstance(error, BackendUnavailableError):
            raise
        raise BackendUnavailableError(
            f"TensorRT cannot build here: {error}{logger.summary()}"
        ) from error
    if plan is None:
        raise BackendUnavailableError(f"TensorRT could not build the engine{logger.summary()}")
    return bytes(plan), bytes(cache.serialize()) if cache is not None else None


def _network(trt: Any, builder: Any, logger: Any, model: bytes) -> Any:
    # TensorRT 11 is always strongly typed and may drop the flag.
    flag = getattr(trt.NetworkDefinitionCreationFlag, "STRONGLY_TYPED", None)
    network = builder.create_network(0 if flag is None else 1 << int(flag))
    parser = trt.OnnxParser(network, logger)
    if not parser.parse(model):
        errors = [parser.get_error(index) for index in range(parser.num_errors)]
        raise BackendUnavailableError(
            f"TensorRT cannot read the model: {'; '.join(map(_explain, errors))}"
            + (f"; {_INT8_ADVICE}" if any(map(_concerns_int8, errors)) else "")
        )
    return network


def _explain(error: Any) -> str:
    lines = [line for line in error.desc().splitlines() if NO_DEVICE not in line]
    text = " ".join(lines).strip()
    name, operator = error.node_name(), error.node_operator()
    return f"node {name!r} ({operator}): {text}" if operator else text


def _concerns_int8(error: Any) -> bool:
    return error.node_operator() in _QUANTISATION


def _config(trt: Any, builder: Any, detailed: bool) -> Any:
    config = builder.create_builder_config()
    config.clear_flag(trt.BuilderFlag.TF32)
    resize = getattr(trt.PreviewFeature, _RESIZE, None)
    if resize is not None:
        config.set_preview_feature(resize, True)
    if detailed:
        config.profiling_verbosity = trt.ProfilingVerbosity.DETAILED
    return config


def _profile(builder: Any, network: Any, batch: BatchRange, sides: Sequence[int]) -> Any:
    images = network.get_input(0)
    counts = (batch.smallest, batch.usual, batch.largest)
    image = (bounds(n if n > 0 else tuple(sides)) for n in tuple(images.shape)[1:])
    profile = builder.create_optimization_profile()
    profile.set_shape(images.name, *zip(counts, *image, strict=True))
    return profile


def _target(trt: Any, config: Any, sm: int) -> None:
    known: Sequence[int] = capabilities(trt)
    if sm not in known:
        raise BackendUnavailableError(
            f"{trt.__name__} {trt.__version__} cannot build for compute capability {sm}; "
            f"it supports {', '.join(map(str, known)) or 'only that of the GPU in this machine'}"
        )
    config.num_compute_capabilities = 1
    if not config.set_compute_capability(getattr(trt.ComputeCapability, f"SM{sm}"), 0):
        raise BackendUnavailableError(f"TensorRT rejected the compute capability {sm}")


def _timing_cache(config: Any, content: bytes | None) -> Any:
    if content is None:
        return None
    for measurements in (content, b""):
        cache = config.create_timing_cache(measurements)
        # It refuses those of another GPU or version.
        if cache is not None and config.set_timing_cache(cache, ignore_mismatch=False):
            return cache
    return None


def _monitor(trt: Any, progress: Progress) -> Any:
    class Monitor(trt.IProgressMonitor):  # type: ignore[misc]
        def __init__(self) -> None:
            trt.IProgressMonitor.__init__(self)
            self._steps: dict[str, int] = {}

        def phase_start(self, name: str, _parent: str | None, steps: int) -> None:
            self._steps[name] = steps
            progress(name, 0, steps)

        def step_complete(self, name: str, step: int) -> bool:
            progress(name, step + 1, self._steps.get(name, step + 1))
            return True

        def phase_finish(self, name: str) -> None:
            steps = self._steps.pop(name, 1)
            progress(name, steps, steps)

    return Monitor()
