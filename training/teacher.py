"""A trained network whose answers soften experts' masks."""

from dataclasses import dataclass, replace

import numpy as np
import torch

from cnnres_infer.bundle.bundle import Bundle
from cnnres_infer.core.case import Modality
from cnnres_infer.core.spec import SliceSpec
from cnnres_infer.pipeline.slices.batches import all_slices
from network.checkpoint import load_checkpoint
from network.cnnres import CNNRes
from training.logits import logits_of
from training.variants import Labelled


@dataclass(frozen=True, eq=False)
class Teacher:
    """A network that says how sure one may be of each voxel.

    An expert's mask is hard even where its edge is a matter of taste.

    Attributes
    ----------
    network, spec
        The network, and the images of DWIs that it takes.
    share
        Its part in what is taught, 0 to 1; the expert has the rest.
    """

    network: CNNRes
    spec: SliceSpec
    share: float = 0.5

    @classmethod
    def of(cls, bundle: Bundle) -> "Teacher":
        """The network of a bundle."""
        network = load_checkpoint(bundle.folder / bundle.variants["fp32"])
        return cls(network, bundle.spec.slices.of(Modality.DWI))

    def softened(self, case: Labelled) -> Labelled:
        """A case whose truth is that of the expert and of the teacher, who sees it mirrored too."""
        geometry, batch = all_slices((case.volume,), case.brain, self.spec)
        images = torch.from_numpy(batch.images)
        with torch.inference_mode():
            upright, mirrored = (
                torch.sigmoid(logits_of(self.network, x)) for x in (images, images.flip(3))
            )
        answers = ((upright + mirrored.flip(3)) / 2)[:, 0].numpy()
        truth = (case.truth > 0).astype(np.float32) * np.float32(1 - self.share)
        geometry.planes(truth)[batch.z] += np.float32(self.share) * geometry.to_voxels(answers)
        return replace(case, truth=truth)
