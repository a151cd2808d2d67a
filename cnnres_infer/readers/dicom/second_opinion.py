"""The grid of a mosaic as dcm2niix sees it.

Where the slices of a mosaic lie is told by private attributes alone, so the grid
made of them is compared with that of an independent reader. Nothing else of its
answers is used: it ends with success on missing slices and wrong b-values.
"""

import logging
import shutil
import subprocess
import tempfile
from itertools import product
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from cnnres_infer.core.grid import Grid
from cnnres_infer.limits import Limits
from cnnres_infer.readers.dicom.files import StudyFile
from cnnres_infer.readers.dicom.mosaic import unplaced

_TIMEOUT_S = 60
_TOLERANCE_MM = 0.05
_DOUBTS = ("Error:", "Unable to determine slice direction")

log = logging.getLogger("cnnres_infer.readers.dicom")


def check_mosaic(file: StudyFile, grid: Grid, limits: Limits) -> None:
    """Check the grid of a mosaic against the one that dcm2niix finds.

    Parameters
    ----------
    file
        The mosaic.
    grid
        The grid made of its attributes.
    limits
        The largest size of the file.

    Raises
    ------
    GeometryError
        If the grids differ, or dcm2niix reports an error or a doubt.
    """
    program = _program()
    if program is None:
        log.info("a mosaic was not compared with dcm2niix, which is not installed")
        return
    content = file.read(limits)
    with tempfile.TemporaryDirectory(prefix="cnnres-infer-") as folder:
        source, out = Path(folder, "in"), Path(folder, "out")
        source.mkdir()
        out.mkdir()
        (source / "mosaic").write_bytes(content)
        options = ("-b", "n", "-z", "n", "-x", "n", "-f", "out", "-o", str(out))
        try:
            done = subprocess.run(
                [program, *options, str(source)],
                capture_output=True,
                text=True,
                errors="replace",
                check=False,
                timeout=_TIMEOUT_S,
                stdin=subprocess.DEVNULL,
            )
        except (OSError, subprocess.TimeoutExpired) as error:
            raise unplaced(file.name, f"dcm2niix failed ({error})") from error
        lines = f"{done.stdout}\n{done.stderr}".splitlines()
        doubts = [line.strip() for line in lines if any(doubt in line for doubt in _DOUBTS)]
        images = sorted(out.glob("*.nii"))
        if doubts or done.returncode or len(images) != 1:
            reason = doubts[0] if doubts else f"{len(images)} images, status {done.returncode}"
            raise unplaced(file.name, f"dcm2niix says: {reason}")
        theirs = _corners(images[0])
    ours = _box(grid.shape, grid.affine)
    distance = np.linalg.norm(ours[:, None] - theirs[None], axis=-1).min(axis=1).max()
    if distance > _TOLERANCE_MM:
        raise unplaced(file.name, f"dcm2niix places its slices {distance:.2f} mm away")


def _program() -> str | None:
    try:
        import dcm2niix
    except ImportError:
        return shutil.which("dcm2niix")
    return str(dcm2niix.bin)


def _corners(path: Path) -> NDArray[np.float64]:
    import nibabel

    image = nibabel.load(path)
    shape = (*image.shape, 1)[:3]
    return _box((int(shape[0]), int(shape[1]), int(shape[2])), np.asarray(image.affine, np.float64))


def _box(shape: tuple[int, int, int], affine: NDArray[np.float64]) -> NDArray[np.float64]:
    """(8, 3): positions of the corner voxels of a grid, whatever the order of its axes."""
    ends = np.array(list(product(*((0, size - 1) for size in shape))), np.float64)
    corners: NDArray[np.float64] = ends @ affine[:3, :3].T + affine[:3, 3]
    return corners
