"""A BIDS App around the predictor: one model load, a derivative dataset, exit status 1 on failures.

python examples/bids_app.py BIDS_DIR OUTPUT_DIR participant [--participant-label 01 02]
"""

import argparse
import json
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

from cnnres_infer import CnnresError, Predictor, __version__

DESCRIPTION = {
    "Name": "Stroke lesions",
    "BIDSVersion": "1.10.0",
    "DatasetType": "derivative",
    "GeneratedBy": [{"Name": "cnnres-infer", "Version": __version__}],
}


def scans(dataset: Path, labels: Sequence[str]) -> Iterator[Path]:
    """DWI volumes of some participants, or of all, with or without sessions."""
    for label in labels or ["*"]:
        for folder in (f"sub-{label}/dwi", f"sub-{label}/ses-*/dwi"):
            found = sorted(dataset.glob(f"{folder}/*_dwi.nii.gz"))
            yield from (path for path in found if "_rec-ADC" not in path.name)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the app, and return its exit status."""
    parser = argparse.ArgumentParser(description="Segment the DWI of a BIDS dataset.")
    parser.add_argument("bids_dir", type=Path)
    parser.add_argument("output_dir", type=Path)
    parser.add_argument("level", choices=["participant"])
    parser.add_argument("--participant-label", nargs="+", default=[])
    options = parser.parse_args(arguments)
    if options.output_dir.resolve() == options.bids_dir.resolve():
        parser.error("the output is the input; give another folder")
    found = list(scans(options.bids_dir, options.participant_label))
    if not found:
        parser.error("no DWI of these participants")
    options.output_dir.mkdir(parents=True, exist_ok=True)
    about = options.output_dir / "dataset_description.json"
    if not about.exists():
        about.write_text(json.dumps(DESCRIPTION, indent=2), encoding="utf-8")
    failed = 0
    with Predictor.load() as predictor:
        for scan in found:
            folder = options.output_dir / scan.parent.relative_to(options.bids_dir)
            try:
                predictor.predict(scan).save(folder, ("mask", "report"), overwrite=True)
            except CnnresError as error:
                sys.stderr.write(f"{scan.name}: {error.code}: {error}\n")
                failed += 1
    return int(failed > 0)


if __name__ == "__main__":
    sys.exit(main())
