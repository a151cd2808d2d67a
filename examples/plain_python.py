"""Segment one volume, with progress, and say what was found.

python examples/plain_python.py dwi.nii.gz out
"""

import logging
import sys

from cnnres_infer import CnnresError, Limits, Predictor


def show(stage: str, done: int, total: int) -> None:
    """Print how far a volume has got; called by `predict`."""
    sys.stderr.write(f"\r{stage}: {done} of {total}\033[K")


def main(volume: str, folder: str) -> int:
    """Segment a volume into a folder, and return the exit status."""
    logging.basicConfig(level=logging.INFO)
    try:
        with Predictor.load(limits=Limits(timeout=300)) as predictor:
            result = predictor.predict(volume, progress=show)
            saved = result.save(folder)
    except CnnresError as error:
        sys.stderr.write(f"{error.code}: {error}\n")
        return error.exit_status
    for lesion in result.lesions:
        x, y, z = lesion.centre_mm
        sys.stdout.write(f"{lesion.volume_ml:.2f} ml at ({x:.0f}, {y:.0f}, {z:.0f}) mm\n")
    for warning in result.warnings:
        sys.stdout.write(f"{warning.code}: {warning.text}\n")
    sys.stdout.write(f"{saved['mask']}\n")
    return 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
