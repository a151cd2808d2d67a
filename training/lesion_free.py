"""Whole heads of volunteers in which no lesion is known: all that is found there is false."""

import re
from dataclasses import dataclass
from pathlib import Path

from cnnres_infer.core.arrays import FloatArray
from cnnres_infer.core.volume import Volume
from cnnres_infer.readers import load_volume

HELD_OUT = ("vol02",)
_NAME = re.compile(r"(vol\d+)_(\w+)_b(\w+)_dwi\.nii\.gz")


@dataclass(frozen=True)
class Series:
    """One series of a volunteer.

    Attributes
    ----------
    name, volunteer
        Such as ``"vol01_left"`` and ``"vol01"``.
    b
        b-value in s/mm²; None where it is not known.
    dwi, b0
        Files; no b0 where there is none.
    """

    name: str
    volunteer: str
    b: float | None
    dwi: Path
    b0: Path | None

    @property
    def held_out(self) -> bool:
        """Whether it is for validation, never trained on."""
        return self.volunteer in HELD_OUT

    def load(self) -> tuple[Volume, FloatArray | None]:
        """The DWI, and b0 on its grid."""
        b0 = None if self.b0 is None else load_volume(self.b0).data
        return load_volume(self.dwi), b0


def find_series(root: Path) -> list[Series]:
    """All series below the collections' folder, by name."""
    found = []
    for path in sorted((root / "lesion_free").glob("*_dwi.nii.gz")):
        match = _NAME.fullmatch(path.name)
        if match is None:
            continue
        volunteer, series, b = match.groups()
        b0 = path.with_name(path.name.replace("_dwi", "_b0"))
        found.append(
            Series(
                f"{volunteer}_{series}",
                volunteer,
                float(b) if b.isdigit() else None,
                path,
                b0 if b0.exists() else None,
            )
        )
    return found
