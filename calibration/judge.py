"""The accuracy gate: how a candidate must compare with PyTorch and the expert masks."""

from dataclasses import dataclass
from typing import Any

import numpy as np

from calibration.scan import Scan
from cnnres_infer.core.arrays import BoolArray, FloatArray
from cnnres_infer.core.spec import ModelSpec
from cnnres_infer.pipeline.infer import Network
from cnnres_infer.verification.agreement import Agreement, Gate, dice

LARGEST_DROP = 0.005


@dataclass(frozen=True)
class Verdict:
    """How a candidate compares with PyTorch in float32, and both with the expert masks.

    Attributes
    ----------
    agreement
        With PyTorch, slice by slice, over all slices of all scans.
    volumes
        Dice of each whole volume's mask with PyTorch's, by the scan's name.
    expert_slices
        Mean Dice of PyTorch and of the candidate with the expert masks, over
        the slices in which these have lesion; None without expert masks.
    expert_volumes
        The same over whole volumes.
    """

    agreement: Agreement
    volumes: dict[str, float]
    expert_slices: tuple[float, float] | None
    expert_volumes: tuple[float, float] | None

    @property
    def volume_dice(self) -> float:
        """Lowest Dice of a volume; without volumes, that of all slices' pixels together."""
        return min(self.volumes.values(), default=self.agreement.pooled)

    @property
    def drop(self) -> float:
        """How much Dice with the expert masks is lost: the larger loss, of slices or volumes."""
        pairs = [pair for pair in (self.expert_slices, self.expert_volumes) if pair]
        return max((reference - candidate for reference, candidate in pairs), default=0.0)

    def misses(self, gate: Gate) -> tuple[str, ...]:
        """Where the gate is missed, in words; nothing if it passes."""
        figures = (
            ("mean Dice of slices", self.agreement.mean, gate.mean),
            ("5th percentile of Dice", self.agreement.tail, gate.tail),
            ("Dice of volumes", self.volume_dice, gate.pooled),
        )
        short = [f"{name} {value:.4f} < {bound}" for name, value, bound in figures if value < bound]
        off = self.agreement.lesion_difference
        if off > gate.off:
            short.append(f"probabilities of lesion pixels off by {off:.4f} > {gate.off}")
        if self.drop > LARGEST_DROP:
            short.append(f"Dice with the experts drops by {self.drop:.4f} > {LARGEST_DROP}")
        return tuple(short)

    def to_json(self) -> dict[str, Any]:
        """The figures, ready for JSON."""
        counts = ("slices", "both_empty", "one_empty")
        dices = ("dice_min", "dice_mean", "dice_p5_large")
        figures = self.agreement.to_json()
        return {
            **{key: figures[key] for key in (*counts, *dices, "lesion_difference")},
            "dice_volumes": sorted(self.volumes.values()),
            "expert_slices": self.expert_slices,
            "expert_volumes": self.expert_volumes,
            "expert_drop": self.drop,
        }


class Judge:
    """Compares candidates with the reference on the same scans.

    Parameters
    ----------
    scans
        The scans to judge by.
    spec
        The model's.
    reference
        The trained network in float32, run once.
    """

    def __init__(self, scans: tuple[Scan, ...], spec: ModelSpec, reference: Network) -> None:
        self._scans, self._spec = scans, spec
        self._expected = [reference(scan.images) for scan in scans]
        self._expected_masks = self._volume_masks(self._expected)

    def __call__(self, candidate: Network) -> Verdict:
        """Run a candidate on all scans and compare."""
        outputs = [candidate(scan.images) for scan in self._scans]
        masks = self._volume_masks(outputs)
        return Verdict(
            Agreement.of(np.concatenate(outputs), np.concatenate(self._expected), self._spec.mask),
            {name: dice(mask, self._expected_masks[name]) for name, mask in masks.items()},
            self._expert_slices(outputs),
            self._expert_volumes(masks),
        )

    def _volume_masks(self, outputs: list[FloatArray]) -> dict[str, BoolArray]:
        return {
            scan.name: scan.whole.mask(output, self._spec)
            for scan, output in zip(self._scans, outputs, strict=True)
            if scan.whole is not None
        }

    def _expert_slices(self, outputs: list[FloatArray]) -> tuple[float, float] | None:
        pairs = []
        for scan, *pair in zip(self._scans, self._expected, outputs, strict=True):
            if scan.lesions is None:
                continue
            for truth, *probabilities in zip(scan.lesions, *pair, strict=True):
                if truth.any():
                    masks = (self._spec.mask.apply(each[0]) for each in probabilities)
                    pairs.append([dice(mask, truth) for mask in masks])
        return _mean(pairs)

    def _expert_volumes(self, masks: dict[str, BoolArray]) -> tuple[float, float] | None:
        pairs = [
            [dice(self._expected_masks[scan.name], truth), dice(masks[scan.name], truth)]
            for scan in self._scans
            if scan.whole is not None and (truth := scan.whole.truth) is not None
        ]
        return _mean(pairs)


def _mean(pairs: list[list[float]]) -> tuple[float, float] | None:
    if not pairs:
        return None
    reference, candidate = np.mean(pairs, axis=0)
    return float(reference), float(candidate)
