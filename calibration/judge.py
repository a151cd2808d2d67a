"""The accuracy gate: what a candidate must reach against PyTorch and the experts."""

from dataclasses import dataclass
from typing import Any

import numpy as np

from calibration.closeness import Compute
from calibration.data import Case
from cnnres_infer.core.arrays import BoolArray, FloatArray
from cnnres_infer.core.spec import ModelSpec
from cnnres_infer.verification.agreement import Agreement, Gate, dice

LARGEST_DROP = 0.005


@dataclass(frozen=True)
class Verdict:
    """How a candidate compares with PyTorch in float32, and both with the experts.

    Attributes
    ----------
    agreement
        Slice by slice, over all slices of all cases.
    volumes
        Dice of the masks of each whole volume.
    expert_slices
        Mean Dice with the experts over the slices in which they see lesion:
        PyTorch's and the candidate's; None without expert masks.
    expert_volumes
        The same over whole volumes.
    """

    agreement: Agreement
    volumes: dict[str, float]
    expert_slices: tuple[float, float] | None
    expert_volumes: tuple[float, float] | None

    @property
    def volume_dice(self) -> float:
        """The worst volume's Dice; without volumes, that of all slices' pixels."""
        return min(self.volumes.values(), default=self.agreement.pooled)

    @property
    def drop(self) -> float:
        """How much worse the candidate agrees with the experts, at most."""
        pairs = [pair for pair in (self.expert_slices, self.expert_volumes) if pair]
        return max((reference - candidate for reference, candidate in pairs), default=0.0)

    def misses(self, gate: Gate) -> tuple[str, ...]:
        """What falls short of the gate, in words; nothing if it passes."""
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
    """Compares candidates with PyTorch's output on the same cases.

    Parameters
    ----------
    reference
        The trained network in float32.
    """

    def __init__(self, cases: tuple[Case, ...], spec: ModelSpec, reference: Compute) -> None:
        self._cases, self._spec = cases, spec
        self._expected = [reference(case.images) for case in cases]
        self._expected_masks = self._volume_masks(self._expected)

    def __call__(self, candidate: Compute) -> Verdict:
        """Run a candidate on all cases and compare."""
        outputs = [candidate(case.images) for case in self._cases]
        masks = self._volume_masks(outputs)
        return Verdict(
            Agreement.of(
                np.concatenate(outputs),
                np.concatenate(self._expected),
                self._spec.mask,
            ),
            {name: dice(mask, self._expected_masks[name]) for name, mask in masks.items()},
            self._with_experts(outputs),
            self._volumes_with_experts(masks),
        )

    def _volume_masks(self, outputs: list[FloatArray]) -> dict[str, BoolArray]:
        return {
            case.name: case.whole.mask(output, self._spec)
            for case, output in zip(self._cases, outputs, strict=True)
            if case.whole is not None
        }

    def _with_experts(self, outputs: list[FloatArray]) -> tuple[float, float] | None:
        pairs = []
        for case, expected, output in zip(self._cases, self._expected, outputs, strict=True):
            for truth, *answers in zip(
                () if case.lesions is None else case.lesions, expected, output, strict=False
            ):
                if truth.any():
                    masks = (self._spec.mask.apply(answer[0]) for answer in answers)
                    pairs.append([dice(mask, truth) for mask in masks])
        return _mean(pairs)

    def _volumes_with_experts(self, masks: dict[str, BoolArray]) -> tuple[float, float] | None:
        pairs = [
            [dice(self._expected_masks[case.name], truth), dice(masks[case.name], truth)]
            for case in self._cases
            if case.whole is not None and (truth := case.whole.truth) is not None
        ]
        return _mean(pairs)


def _mean(pairs: list[list[float]]) -> tuple[float, float] | None:
    if not pairs:
        return None
    reference, candidate = np.mean(pairs, axis=0)
    return float(reference), float(candidate)
