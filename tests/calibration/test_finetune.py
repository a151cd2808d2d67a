import numpy as np
import onnx
import torch
from torch import Tensor

from calibration.bias import bias_corrected
from calibration.candidate import Candidate
from calibration.fake_quant import TorchGraph
from calibration.finetune import Tuning, disagreement, finetune
from calibration.plan import INT8_CPU, INT8_TRT, Plan
from calibration.ranges import OBSERVERS
from cnnres_infer.core.arrays import FloatArray
from export.passes import rewritten


def tuned(
    network: onnx.ModelProto, images: FloatArray, plan: Plan, model: onnx.ModelProto, steps: int
) -> tuple[list[float], tuple[onnx.ModelProto, Plan]]:
    losses: list[float] = []
    batch = torch.from_numpy(images)
    result = finetune(
        model,
        plan,
        TorchGraph(network),
        lambda: batch,
        Tuning(steps, learning_rate=1e-3, scale_rate=1e-2, averaging=0.5),
        lambda step, loss: losses.append(loss),
    )
    return losses, result


def difference(network: onnx.ModelProto, model: onnx.ModelProto, plan: Plan, x: Tensor) -> float:
    with torch.no_grad():
        return float(disagreement(TorchGraph(model, plan)(x), TorchGraph(network)(x), 6.0))


def test_fine_tuning_brings_int8_closer_to_float(
    network: onnx.ModelProto, images: FloatArray
) -> None:
    for scheme in (INT8_CPU, INT8_TRT):
        made = Candidate.observed(
            "m", rewritten(network, scheme.passes), scheme, images[:4], OBSERVERS[0]
        )
        losses, (model, plan) = tuned(network, images, made.plan, made.model, 40)
        assert len(losses) == 40
        x = torch.from_numpy(images)
        before = difference(network, made.model, made.plan, x)
        assert difference(network, model, plan, x) < 0.9 * before
        assert set(plan.tensors) == set(made.plan.tensors)
        assert all(
            plan.tensors[n].zero_point == made.plan.tensors[n].zero_point for n in plan.tensors
        )
        assert any(plan.tensors[n].scale != made.plan.tensors[n].scale for n in plan.tensors)


def test_fine_tuning_is_deterministic(network: onnx.ModelProto, images: FloatArray) -> None:
    made = Candidate.observed("m", network, INT8_TRT, images, OBSERVERS[0])
    first, second = (tuned(network, images, made.plan, made.model, 3)[1] for _ in range(2))
    assert first[0].SerializeToString() == second[0].SerializeToString()
    assert first[1] == second[1]


def test_bias_correction_restores_the_channel_means(
    network: onnx.ModelProto, images: FloatArray
) -> None:
    made = Candidate.observed(
        "m", rewritten(network, INT8_CPU.passes), INT8_CPU, images, OBSERVERS[2]
    )

    def means(model: onnx.ModelProto, plan: Plan | None) -> dict[str, np.ndarray]:
        with torch.no_grad():
            walk = TorchGraph(model, plan).walk(torch.from_numpy(images))
            return {n.output[0]: out.mean(dim=(0, 2, 3)).numpy() for n, out in walk}

    exact, shifted = means(made.model, None), means(made.model, made.plan)
    corrected = means(bias_corrected(made.model, made.plan, images), made.plan)
    with_bias = {n.output[0] for n in made.model.graph.node if len(n.input) == 3}
    for name in made.plan.convs & with_bias:
        assert np.abs(corrected[name] - exact[name]).max() < 1e-5
    assert max(np.abs(shifted[name] - exact[name]).max() for name in made.plan.convs) > 1e-3


def test_disagreement_counts_small_lesions_and_ignores_what_is_beyond_the_margin() -> None:
    empty, spot = torch.full((1, 1, 16, 16), 1e-5), torch.full((1, 1, 16, 16), 1e-5)
    spot[..., 4:6, 4:6] = 0.99
    assert disagreement(spot, spot, 4.0) < 1e-6
    assert disagreement(empty, empty * 0.1, 4.0) < 1e-4
    assert disagreement(empty, spot, 4.0) > 10
