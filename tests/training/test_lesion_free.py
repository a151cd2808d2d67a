from pathlib import Path

import numpy as np

from cnnres_infer.core.diffusion import RestrictionSpec
from cnnres_infer.core.grid import Grid
from cnnres_infer.core.volume import Volume
from export.model_card import model_card
from training.agreement import mirrored
from training.lesion_free import HELD_OUT, find_series
from training.lesion_free_table import restricted

BOUNDS = RestrictionSpec(0.9, 0.15)


def test_series_of_the_collections(shared_data: Path) -> None:
    series = {s.name: s for s in find_series(shared_data)}
    assert len(series) == 20
    assert series["vol01_left"].b == 1000
    assert series["vol06_b"].b is None
    assert series["vol06_b"].b0 is None
    assert {s.volunteer for s in series.values() if s.held_out} == set(HELD_OUT)


def test_series_without_such_a_folder(tmp_path: Path) -> None:
    assert find_series(tmp_path) == []


def test_lesions_of_usual_adc_are_taken_out() -> None:
    mask = np.zeros((12, 12, 3), np.bool_)
    mask[1:3, 1:3, 1] = mask[7:10, 7:10, 1] = True
    adc = np.full(mask.shape, 1.0, np.float32)
    adc[1:3, 1:3] = 0.6
    kept, count = restricted(mask, adc, np.ones_like(mask), BOUNDS)
    assert count == 1
    assert kept[1:3, 1:3, 1].all()
    assert kept.sum() == 4
    nothing, none = restricted(np.zeros_like(mask), adc, np.ones_like(mask), BOUNDS)
    assert not nothing.any()
    assert none == 0


def test_mirrored_volumes_have_their_sides_exchanged() -> None:
    data = np.arange(24, dtype=np.float32).reshape(2, 3, 4)
    affine = np.diag([2.0, 2.0, 2.0, 1.0])
    volume = Volume(data, Grid(data.shape, affine[[1, 0, 2, 3]]))
    assert np.array_equal(mirrored(volume).data, data[:, ::-1])
    assert mirrored(volume).grid is volume.grid


def test_the_card_shows_the_table() -> None:
    table = {
        "relative_adc_below": 0.9,
        "smallest_restricted_share": 0.25,
        "clinical": {
            "series": 2,
            "ml": 0.5,
            "without_lesion": 1,
            "ml_with_b0": 0.0,
            "without_lesion_with_b0": 2,
        },
        "series": [
            {
                "series": "vol01_a",
                "b": b,
                "trained_on": False,
                "lesions": 1,
                "ml": 1.0,
                "lesions_with_b0": None if b is None else 0,
                "ml_with_b0": None if b is None else 0.0,
            }
            for b in (1000.0, None)
        ],
    }
    agreement = {
        "rounded_slices": 0.99,
        "volumes": {"case": {"mirrored": 0.97, "cropped": 0.96, "rounded": 0.98, "shaded": 0.95}},
    }
    manifest = {
        "name": "n",
        "version": "1",
        "input": {"channels": 1, "size": 160, "spacing_mm": 1.25, "modalities": ["dwi"]},
        "fusion": {"rule": "mean", "dwi_weight": 0.5},
        "mask": {"threshold": 0.5, "smallest_lesion_ml": 0.0},
        "accuracy": {
            "command": "c",
            "precisions": {"fp32": {"volumes": [], "patients": 0, "slices": {}, "steadiness": 1.0}},
            "lesion_free": table,
            "agreement": agreement,
        },
    }
    card = model_card(manifest)
    assert "| vol01_a | 1000 | no | 1 | 1.00 | 0 | 0.00 |" in card
    assert "| vol01_a | unknown | no | 1 | 1.00 | no b0" in card
    assert "| case | 0.970 | 0.960 | 0.980 |" in card
