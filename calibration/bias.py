"""Bias correction: no channel's mean may shift through quantisation."""

import onnx
import torch

from calibration.fake import Graph
from calibration.plan import Plan
from cnnres_infer.core.arrays import FloatArray


def bias_corrected(model: onnx.ModelProto, plan: Plan, images: FloatArray) -> onnx.ModelProto:
    """Shift the biases of the INT8 convolutions by the mean error of each channel.

    Convolution by convolution, each behind those already corrected.

    References
    ----------
    M. Nagel et al., "Data-free quantization through weight equalization and
    bias correction", ICCV 2019.
    """
    expected = {}
    inputs = torch.from_numpy(images)
    fake = Graph(model, plan)
    with torch.no_grad():
        for node, output in Graph(model).walk(inputs):
            if node.output[0] in plan.convs and len(node.input) > 2:
                expected[node.output[0]] = output.mean(dim=(0, 2, 3))
        walk = fake.walk(inputs)
        node, output = next(walk)
        while True:
            corrected = None
            if node.output[0] in expected:
                shift = expected[node.output[0]] - output.mean(dim=(0, 2, 3))
                fake.bias(node).add_(shift)
                corrected = output + shift[:, None, None]
            try:
                node, output = walk.send(corrected)
            except StopIteration:
                return fake.learned_model()
