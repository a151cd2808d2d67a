import numpy as np
import pytest
import torch

from cnnres_infer.core.grid import Grid
from cnnres_infer.core.spec import SliceSpec
from cnnres_infer.core.volume import Volume
from tests.narrow import narrow_network
from training.teacher import Teacher
from training.variants import Labelled


@pytest.fixture
def case() -> Labelled:
    x, y = np.indices((80, 80))
    brain = ((x - 40) / 30) ** 2 + ((y - 40) / 35) ** 2 < 1
    lesion = (x - 30) ** 2 + (y - 45) ** 2 < 40
    grid = Grid((80, 80, 1), np.diag([2.0, 2.0, 5.0, 1.0]))
    data = np.where(lesion, 200.0, 100.0) * brain
    return Labelled(
        Volume(data[:, :, None].astype(np.float32), grid),
        lesion[:, :, None].astype(np.float32),
        brain[:, :, None],
    )


@pytest.mark.parametrize(("bias", "answer"), [(30.0, 1.0), (-30.0, 0.0)])
def test_a_teacher_has_its_share(case: Labelled, bias: float, answer: float) -> None:
    network = narrow_network()
    with torch.no_grad():
        network.head.weight.zero_()
        network.head.bias.fill_(bias)  # type: ignore[union-attr]
    softened = Teacher(network, SliceSpec(160, 1.25, 2.0), share=0.25).softened(case)
    assert softened.truth.shape == case.truth.shape
    expected = 0.75 * case.truth + 0.25 * answer
    np.testing.assert_allclose(softened.truth, expected, atol=1e-5)


def test_the_expert_stays_right(case: Labelled) -> None:
    softened = Teacher(narrow_network(), SliceSpec(160, 1.25, 2.0), share=0.4).softened(case)
    np.testing.assert_array_equal(softened.truth > 0.5, case.truth > 0.5)
