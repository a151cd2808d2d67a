"""Writing a model repository for NVIDIA's Triton Inference Server.

Each variant of a bundle becomes a model of its own: a folder with
``config.pbtxt`` and ``1/model.onnx``, or ``1/model.plan`` for a TensorRT engine
that ``cnnres-infer build`` made. Triton computes slices; everything around the
network stays with its client, such as ``examples/triton_client.py``.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import onnx

from cnnres_infer.bundle.bundle import Bundle
from cnnres_infer.codes import ErrorCode
from cnnres_infer.engines.tensorrt.api import TENSORRT
from cnnres_infer.engines.tensorrt.build import BatchRange
from cnnres_infer.engines.tensorrt.store import Entry
from cnnres_infer.errors import BundleError, UsageError
from cnnres_infer.host.atomic import write_all

DEFAULT_VARIANTS = ("fp32", "fp16", "fp32-cpu")
MAX_BATCH = 16
# How long Triton waits for slices of other clients to fill a batch.
_QUEUE_DELAY_US = 2000
_TYPES = {onnx.TensorProto.FLOAT: "TYPE_FP32", onnx.TensorProto.FLOAT16: "TYPE_FP16"}


@dataclass(frozen=True)
class Tensor:
    """An input or output of a network.

    Attributes
    ----------
    name, type
        Its name, and Triton's name of its type.
    dims
        (C, H, W); -1 where there are several.
    """

    name: str
    type: str
    dims: tuple[int, ...]


@dataclass(frozen=True)
class TritonModel:
    """A model of the repository.

    Attributes
    ----------
    name
        Name of its folder.
    platform, file, kind
        What runs it, the name of its file, and the kind of instances.
    content
        The file.
    image, probabilities
        Its input and its output.
    sides
        Heights and widths that images may have, in ascending order.
    batch
        The preferred and the largest number of slices.
    """

    name: str
    platform: str
    file: str
    kind: str
    content: bytes
    image: Tensor
    probabilities: Tensor
    sides: tuple[int, ...]
    batch: tuple[int, int]


def write_repository(
    bundle: Bundle,
    out: Path,
    variants: Sequence[str] = (),
    plan: Path | None = None,
    overwrite: bool = False,
) -> list[str]:
    """Write a model repository.

    Parameters
    ----------
    bundle
        The model.
    out
        Folder of the repository.
    variants
        Variants to serve; by default those of `DEFAULT_VARIANTS` that it has.
    plan
        A TensorRT engine from the cache, with the sidecar beside it.
    overwrite
        Whether existing files may be replaced.

    Returns
    -------
    list of str
        Names of the models.

    Raises
    ------
    UsageError
        If a variant missed the accuracy gate, or the engine is not for Triton or
        of another model.
    BundleError
        If the bundle has no such variant.
    OutputError
        If the repository cannot be written.
    """
    wanted = variants or [
        each for each in DEFAULT_VARIANTS if each in bundle.variants and each not in bundle.failed
    ]
    models = [_onnx_model(bundle, variant) for variant in wanted]
    if plan is not None:
        models.append(_plan_model(bundle, plan))
    contents = {}
    for model in models:
        contents[out / model.name / "config.pbtxt"] = config(model).encode()
        contents[out / model.name / "1" / model.file] = model.content
    write_all(contents, overwrite)
    return [model.name for model in models]


def config(model: TritonModel) -> str:
    """Text of ``config.pbtxt``."""
    preferred, largest = model.batch
    fields = {
        "name": _quoted(model.name),
        "platform": _quoted(model.platform),
        "max_batch_size": largest,
        "input": _tensor(model.image),
        "output": _tensor(model.probabilities),
        "dynamic_batching": {
            "preferred_batch_size": [preferred, largest] if preferred < largest else [largest],
            "max_queue_delay_microseconds": _QUEUE_DELAY_US,
        },
        "instance_group": {"kind": model.kind, "count": 1},
        "model_warmup": [_warm_up(model, side, size) for side, size in _warm_ups(model)],
    }
    return "\n".join(_message(fields)) + "\n"


def _onnx_model(bundle: Bundle, variant: str) -> TritonModel:
    if variant in bundle.failed:
        raise UsageError(f"{variant} missed the accuracy gate of {bundle.folder}; choose another")
    content = bundle.model(variant)
    image, probabilities = _tensors(content)
    return TritonModel(
        f"{_name(bundle)}_{variant.replace('-', '_')}",
        "onnxruntime_onnx",
        "model.onnx",
        "KIND_CPU" if variant.endswith("-cpu") else "KIND_AUTO",
        content,
        image,
        probabilities,
        bundle.spec.slices.sides,
        (MAX_BATCH // 2, MAX_BATCH),
    )


def _plan_model(bundle: Bundle, path: Path) -> TritonModel:
    entry = Entry.read(path.with_suffix(".json"))
    content = None if entry is None else entry.plan()
    if entry is None or content is None:
        raise UsageError(
            f"{path}: not an engine with its sidecar; give one that cnnres-infer build made"
        )
    if entry.key.backend != TENSORRT.backend:
        raise UsageError(f"{path}: of {entry.key.backend}, but Triton runs engines of TensorRT")
    made_from = [
        variant
        for variant, name in bundle.variants.items()
        if bundle.sha256.get(name) == entry.key.onnx_sha256
    ]
    if not made_from:
        raise BundleError(
            f"{path}: of another model than {bundle.folder}; build it again",
            code=ErrorCode.BUNDLE_MODEL,
        )
    batch = BatchRange.parse(entry.key.batch)
    if batch.smallest > 1:
        raise UsageError(
            f"{path}: for {batch.smallest} slices or more, but clients of Triton may send one; "
            "build it again with --batch 1,..."
        )
    image, probabilities = _tensors(bundle.model(made_from[0]))
    return TritonModel(
        f"{_name(bundle)}_{entry.key.precision}_plan",
        "tensorrt_plan",
        "model.plan",
        "KIND_GPU",
        content,
        image,
        probabilities,
        bundle.spec.slices.sides,
        (batch.usual, batch.largest),
    )


def _name(bundle: Bundle) -> str:
    return "".join(each if each.isalnum() else "_" for each in bundle.spec.name)


def _tensors(content: bytes) -> tuple[Tensor, Tensor]:
    """Input and output of an ONNX file."""
    graph = onnx.load_from_string(content).graph
    found = []
    for value in (graph.input[0], graph.output[0]):
        tensor = value.type.tensor_type
        dims = tuple(each.dim_value or -1 for each in tensor.shape.dim[1:])
        found.append(Tensor(value.name, _TYPES[tensor.elem_type], dims))
    return found[0], found[1]


def _warm_ups(model: TritonModel) -> Iterator[tuple[int, int]]:
    """Sides and batch sizes for which kernels are chosen before the first request."""
    for side in sorted({model.sides[0], model.sides[-1]}):
        for size in sorted({1, *model.batch}):
            yield side, size


def _warm_up(model: TritonModel, side: int, size: int) -> dict[str, Any]:
    dims = [model.image.dims[0], side, side]
    value = {"data_type": model.image.type, "dims": dims, "zero_data": True}
    return {
        "name": _quoted(f"{size} x {side} x {side}"),
        "batch_size": size,
        "inputs": {"key": _quoted(model.image.name), "value": value},
    }


def _tensor(tensor: Tensor) -> dict[str, Any]:
    return {
        "name": _quoted(tensor.name),
        "data_type": tensor.type,
        "dims": list(tensor.dims),
    }


def _quoted(text: str) -> str:
    escaped = text.replace("\\", "\\\\").replace('"', '\\"')
    return f'"{escaped}"'


def _message(fields: dict[str, Any], indent: str = "") -> Iterator[str]:
    """Lines of a message in protobuf's text format."""
    for name, value in fields.items():
        repeated = value if isinstance(value, list) else [value]
        if repeated and isinstance(repeated[0], int):
            shown = ", ".join(str(each).lower() for each in repeated)
            yield f"{indent}{name}: [{shown}]" if value is repeated else f"{indent}{name}: {shown}"
            continue
        for each in repeated:
            if isinstance(each, dict):
                yield f"{indent}{name} {{"
                yield from _message(each, f"{indent}  ")
                yield f"{indent}}}"
            else:
                yield f"{indent}{name}: {each}"
