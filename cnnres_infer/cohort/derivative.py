"""The output as a BIDS derivative: names, sidecars, and the files that describe the dataset."""

import os
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from cnnres_infer import __version__
from cnnres_infer.cohort.bids import DESCRIPTION
from cnnres_infer.cohort.case import CohortCase
from cnnres_infer.cohort.markers import Fingerprint, read_json
from cnnres_infer.core.case import Modality
from cnnres_infer.core.jsonable import dumps
from cnnres_infer.core.result import Result
from cnnres_infer.errors import OutputExistsError, UsageError
from cnnres_infer.host.atomic import write_all
from cnnres_infer.outputs.writers import WRITERS
from cnnres_infer.outputs.writers.report import Report

GENERATOR = "cnnres-infer"
SIDECAR_END = "_label-lesion_desc-cnnres_mask.json"
OWN = "CnnresInfer"
_BIDS_VERSION = "1.10.0"
_README = """\
# Lesion masks by cnnres-infer

Masks of acute ischaemic stroke lesions, segmented automatically by CNN-Res. They were not checked
by a person. Research use only; not a medical device.

- `sub-*/[ses-*/]{dwi,anat}/*_mask.nii.gz`: a mask for each case, on the grid of its image
  (`space-orig`), with what was found and how in the `.json` beside it.
- `cases.tsv`, `lesions.tsv`: a row for each case and each lesion, those that were rejected
  included; their columns are described in `cases.json` and `lesions.json`.
- `index.html`: all cases with a picture of each, to look through.
- `sub-*/figures/`: slices with lesions and brain outlined.
"""
_KINDS = {Modality.DWI: "dwi", Modality.FLAIR: "anat"}
# Made anew by every run.
REBUILT = ("cases.tsv", "cases.json", "lesions.tsv", "lesions.json", "index.html")
# What is no part of BIDS.
_BIDSIGNORE = "index.html\ncases.*\nlesions.*\nfigures\n.cnnres\n"


@dataclass(frozen=True)
class Paths:
    """Where the outputs of a case go.

    Attributes
    ----------
    mask, sidecar
        The mask, and what is known of it.
    probabilities, probabilities_sidecar
        The probability map and its sidecar.
    overlay, thumbnail
        Pictures.
    """

    mask: Path
    sidecar: Path
    probabilities: Path
    probabilities_sidecar: Path
    overlay: Path
    thumbnail: Path

    @classmethod
    def of(cls, case: CohortCase, out: Path) -> "Paths":
        """The paths for a case in an output folder."""
        return cls._in(_KINDS[case.modality], case, out)

    @classmethod
    def all_of(cls, case: CohortCase, out: Path) -> "dict[Modality, Paths]":
        """The paths of a case for each modality, its own first; only one can have a mask."""
        modalities = sorted(_KINDS, key=lambda each: each is not case.modality)
        return {each: cls._in(_KINDS[each], case, out) for each in modalities}

    @classmethod
    def _in(cls, kind: str, case: CohortCase, out: Path) -> "Paths":
        stem = f"{case.name}_space-orig_label-lesion_desc-cnnres"
        folder = out.joinpath(*case.folders, kind)
        # Not one for all cases: every case looks there for what killed processes have left.
        figures = out / case.folders[0] / "figures"
        return cls(
            mask=folder / f"{stem}_mask.nii.gz",
            sidecar=folder / f"{stem}_mask.json",
            probabilities=folder / f"{stem}_probseg.nii.gz",
            probabilities_sidecar=folder / f"{stem}_probseg.json",
            overlay=figures / f"{case.name}_overlay.png",
            thumbnail=figures / f"{case.name}_thumbnail.jpg",
        )


def case_of(sidecar: Path) -> str:
    """Name of the case of a mask's sidecar."""
    return sidecar.name.removesuffix(f"_space-orig{SIDECAR_END}")


def render(
    case: CohortCase,
    result: Result,
    paths: Paths,
    made_from: Fingerprint,
    *,
    probabilities: bool,
    overlay: bool,
) -> dict[Path, bytes]:
    """Render the outputs of a case, in the order of writing: the mask last."""
    from cnnres_infer.cohort.thumbnail import thumbnail

    contents = {paths.thumbnail: thumbnail(result)}
    if overlay:
        contents[paths.overlay] = WRITERS["overlay"].render(result)
    shared: dict[str, Any] = {
        "Sources": [f"bids:raw:{each}" for each in case.sources],
        "SpatialReference": "orig",
    }
    if not case.sources:
        del shared["Sources"]
    if probabilities:
        about = "Probability of an acute ischaemic stroke lesion by CNN-Res."
        contents[paths.probabilities_sidecar] = _json({"Description": about, **shared})
        contents[paths.probabilities] = WRITERS["probabilities"].render(result)
    contents[paths.sidecar] = _json(
        {
            "Description": "Acute ischaemic stroke lesions by CNN-Res; not checked by a person.",
            "Type": "Lesion",
            **shared,
            OWN: {
                "participant_id": f"sub-{case.participant}",
                "session_id": f"ses-{case.session}" if case.session else "n/a",
                "marker": made_from,
                "notes": case.notes,
                "report": Report.of(result),
            },
        }
    )
    contents[paths.mask] = WRITERS["mask"].render(result)
    return contents


def read_sidecar(path: Path) -> dict[str, Any]:
    """What this program wrote about a mask; empty if the mask is not its own."""
    content = read_json(path).get(OWN)
    return content if isinstance(content, dict) else {}


def check_dataset(out: Path) -> None:
    """Check that a folder can be the output: it is new, or holds a derivative of ours.

    Raises
    ------
    UsageError
        If it is another dataset or no folder, or has files that are not ours and would be replaced.
    """
    if out.exists() and not out.is_dir():
        raise UsageError(f"{out}: not a folder; give one for the outputs")
    description = out / DESCRIPTION
    if not description.exists():
        if foreign := [name for name in REBUILT if os.path.lexists(out / name)]:
            raise UsageError(
                f"{out / foreign[0]}: would be replaced; give a folder of its own for the outputs"
            )
        return
    if GENERATOR not in _names(read_json(description).get("GeneratedBy")):
        raise UsageError(f"{out}: is another dataset; give a folder of its own for the outputs")


def describe_dataset(out: Path, root: Path | None) -> None:
    """Write the files that describe the dataset, unless they exist.

    Parameters
    ----------
    out
        The output folder.
    root
        Root of the BIDS dataset that the inputs are from; None without.

    Raises
    ------
    OutputError
        If the folder cannot be written to.
    """
    linked: dict[str, Any] = {}
    if root is not None:
        link = _link(root.resolve(), out.resolve())
        linked = {"SourceDatasets": [{"URL": link}], "DatasetLinks": {"raw": link}}
    description = {
        "Name": "Lesion masks by cnnres-infer",
        "BIDSVersion": _BIDS_VERSION,
        "DatasetType": "derivative",
        "GeneratedBy": [{"Name": GENERATOR, "Version": __version__}],
        **linked,
    }
    files = {"README.md": _README, ".bidsignore": _BIDSIGNORE, DESCRIPTION: dumps(description)}
    for name, text in files.items():
        # Another process of the same cohort may be writing it, or have written it.
        with suppress(OutputExistsError):
            write_all({out / name: text.encode()})


def name_models(out: Path, models: Iterable[tuple[str, str, str]]) -> None:
    """Name what made the masks in the description of the dataset, and leave the rest of it alone.

    Parameters
    ----------
    out
        The output folder.
    models
        Version of this program, name and version of the model, and SHA-256 of its
        ``model.json``, of each mask.
    """
    made_by: list[dict[str, str]] = [
        {
            "Name": GENERATOR,
            "Version": version,
            "Description": f"Model {model}, model.json with SHA-256 {digest}",
        }
        for version, model, digest in sorted(set(models))
    ]
    description = read_json(out / DESCRIPTION)
    former = description.get("GeneratedBy", [])
    others = [each for each in former if GENERATOR not in _names([each])]
    generated_by = [*made_by, *others]
    if made_by and description and former != generated_by:
        content = dumps({**description, "GeneratedBy": generated_by})
        write_all({out / DESCRIPTION: content.encode()}, overwrite=True)


def _names(generators: Any) -> list[Any]:
    return [each.get("Name") for each in generators or () if isinstance(each, Mapping)]


def relative_uri(path: Path) -> str:
    """A relative path as a URI, whatever characters it has."""
    return PurePosixPath("/", path.as_posix()).as_uri().removeprefix("file:///")


def _link(target: Path, start: Path) -> str:
    """URI of a folder relative to another, so that both can be moved together."""
    try:
        return relative_uri(Path(os.path.relpath(target, start)))
    except ValueError:
        # On another drive.
        return target.as_uri()


def _json(content: Any) -> bytes:
    return f"{dumps(content)}\n".encode()
