"""Bias correction: quantisation must not shift the mean of any channel."""

import onnx
import torch

from calibration.fake_quant import TorchGraph
from calibration.plan import Plan
from cnnres_infer.core.arrays import FloatArray


def bias_corrected(model: onnx.ModelProto, plan: Plan, images: FloatArray) -> onnx.ModelProto:
    """Add the mean quantisation error of each channel to the biases of the INT8 convolutions.

    Convolutions are corrected in order, each on the output of those corrected before.

    Parameters
    ----------
    images
        (N, C, H, W), over which the means are taken.

    References
    ----------
    M. Nagel et al., "Data-free quantization through weight equalization and
    bias correction", ICCV 2019.
    """
    inputs = torch.from_numpy(images)
    quantised = TorchGraph(model, plan)
    with torch.no_grad():
        expected = {
            node.output[0]: output.mean(dim=(0, 2, 3))
            for node, output in TorchGraph(model).walk(inputs)
            if node.output[0] in plan.convs and len(node.input) > 2
        }
        walk = quantised.walk(inputs)
        node, output = next(walk)
        while True:
            corrected = None
            if node.output[0] in expected:
                shift = expected[node.output[0]] - output.mean(dim=(0, 2, 3))
                quantised.bias(node).add_(shift)
                corrected = output + shift[:, None, None]
            try:
                node, output = walk.send(corrected)
            except StopIteration:
                return quantised.learned_model()
