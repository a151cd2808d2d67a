"""Reading and copying ONNX graphs."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import helper, numpy_helper

# The nodes with weights, of those that a convolution may be rewritten as.
CONVS = ("Conv", "MatMul")


def constants_of(model: onnx.ModelProto) -> dict[str, NDArray[Any]]:
    """All constants of a model, by name."""
    return {tensor.name: numpy_helper.to_array(tensor) for tensor in model.graph.initializer}


def attributes_of(node: onnx.NodeProto) -> dict[str, Any]:
    """All attributes of a node, by name."""
    return {each.name: helper.get_attribute_value(each) for each in node.attribute}


def copy_of(model: onnx.ModelProto) -> onnx.ModelProto:
    """A copy of a model, to be changed in place."""
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    return copy


def with_constants(
    model: onnx.ModelProto, values: Mapping[str, NDArray[np.generic]]
) -> onnx.ModelProto:
    """A copy of a model with new values for some of its constants."""
    copy = copy_of(model)
    for tensor in copy.graph.initializer:
        if tensor.name in values:
            tensor.CopyFrom(numpy_helper.from_array(values[tensor.name], tensor.name))
    return copy
