"""Cases of a BIDS dataset, found by the entities of file names and by sidecars."""

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from cnnres_infer.cohort.case import CohortCase, Found, Skip, check_labels
from cnnres_infer.core.case import Modality
from cnnres_infer.host.files import read_regular

DESCRIPTION = "dataset_description.json"
_SUFFIXES = (".nii.gz", ".nii")
_MAX_SIDECAR_BYTES = 1 << 20
# Entities that tell several scans of a session apart and stay in the name of the outputs.
_DISTINCT = ("acq", "dir", "run", "echo", "chunk")
# What a scanner computes from diffusion images, by the entity `rec` or the suffix, and as
# DICOM's Image Type says it in sidecars.
_MAPS = {"adc", "fa", "eadc", "expadc", "colfa", "s0map", "tensor", "avgdc", "rd", "ad"}
_MAP_TYPES = {"ADC", "EADC", "FA", "TENSOR", "TENSOR_B0"}
_TRACE = {"trace", "tracew"}
_SMALLEST_B, _LARGEST_B0 = 100.0, 50.0


@dataclass(frozen=True)
class Image:
    """An image of a BIDS dataset.

    Attributes
    ----------
    root
        The dataset.
    path
        The image.
    """

    root: Path
    path: Path

    @cached_property
    def stem(self) -> str:
        """Its name without the suffixes of the format."""
        return next(
            self.path.name.removesuffix(each) for each in _SUFFIXES if self.path.name.endswith(each)
        )

    @cached_property
    def entities(self) -> dict[str, str]:
        """Its entities, such as ``{"sub": "01", "run": "1"}``."""
        pairs = (part.partition("-") for part in self.stem.split("_")[:-1])
        return {key: value for key, _, value in pairs if value}

    @property
    def suffix(self) -> str:
        """Its suffix, such as ``dwi``."""
        return self.stem.rsplit("_", 1)[-1]

    @property
    def distinct(self) -> dict[str, str]:
        """The entities that tell it from other scans of its session."""
        return {key: self.entities[key] for key in _DISTINCT if key in self.entities}

    @cached_property
    def is_there(self) -> bool:
        """Whether it exists, unlike what a link of a dataset leads to before it is downloaded."""
        return self.path.exists()

    @cached_property
    def sidecar(self) -> dict[str, Any]:
        """What the sidecars that apply to it say, the closest one first."""
        content: dict[str, Any] = {}
        for folder in (self.path.parent, *self.path.parent.parents):
            for path in sorted(folder.glob("*.json")) if folder.is_dir() else ():
                if self._inherits(path):
                    content = {**_read(path), **content}
            if folder == self.root:
                break
        return content

    @property
    def types(self) -> set[str]:
        """Words of DICOM's Image Type, if a sidecar has it."""
        found: set[str] = set()
        for key in ("ImageType", "ImageTypeText"):
            named = self.sidecar.get(key)
            for part in named if isinstance(named, list) else [named]:
                found |= set(part.split("\\")) if isinstance(part, str) else set()
        return found

    @cached_property
    def b_values(self) -> tuple[float, ...] | None:
        """b-values in s/mm2 by the ``.bval`` beside it; None without one that can be read."""
        try:
            text = read_regular(self.path.with_name(f"{self.stem}.bval"), _MAX_SIDECAR_BYTES)
            return tuple(float(word) for word in text.split())
        except (OSError, ValueError):
            return None

    def _inherits(self, sidecar: Path) -> bool:
        *parts, suffix = sidecar.stem.split("_")
        return suffix == self.suffix and set(parts) <= set(self.stem.split("_")[:-1])


def is_bids(folder: Path) -> bool:
    """Whether a folder is a BIDS dataset, by its description or its layout."""
    if (folder / DESCRIPTION).is_file():
        return True
    return any(
        kind.name in ("dwi", "anat")
        for pattern in ("sub-*/*", "sub-*/ses-*/*")
        for kind in folder.glob(pattern)
        if kind.is_dir()
    )


def find_bids(
    root: Path,
    modality: Modality,
    participants: Sequence[str] = (),
    sessions: Sequence[str] = (),
    *,
    with_flair: bool = True,
) -> Found:
    """Find the cases of a BIDS dataset: one for each DWI (or FLAIR) of each session.

    Of the images of a scan, the scanner's trace image is used if there is one, and
    else its diffusion series; never maps such as ``rec-ADC_dwi``.

    Parameters
    ----------
    root
        The dataset.
    modality
        What to segment.
    participants, sessions
        Labels, with or without ``sub-`` and ``ses-``; empty for all.
    with_flair
        Whether the FLAIR of a DWI is wanted.

    Raises
    ------
    UsageError
        If a participant or session that was asked for does not exist.
    """
    wanted = {each.removeprefix("sub-") for each in participants}
    wanted_sessions = {each.removeprefix("ses-") for each in sessions}
    cases: list[CohortCase] = []
    skipped: list[Skip] = []
    seen: tuple[set[str], set[str]] = (set(), set())
    for participant, session, folder in _sessions(root):
        if wanted and participant not in wanted:
            continue
        seen[0].add(participant)
        if wanted_sessions and session not in wanted_sessions:
            continue
        seen[1].add(session)
        found, left_out = _find_session(root, folder, modality, participant, session, with_flair)
        cases += found
        skipped += left_out
    check_labels(root, "participant", wanted, seen[0])
    check_labels(root, "session", wanted_sessions, seen[1])
    return Found.of(cases, skipped, root)


def _sessions(root: Path) -> Iterator[tuple[str, str, Path]]:
    """Label of the participant, label of the session or an empty one, and folder of each."""
    for folder in sorted(root.glob("sub-*")):
        if not folder.is_dir():
            continue
        participant = folder.name.removeprefix("sub-")
        sessions = [each for each in sorted(folder.glob("ses-*")) if each.is_dir()]
        for each in sessions:
            yield participant, each.name.removeprefix("ses-"), each
        if not sessions or any((folder / kind).is_dir() for kind in ("dwi", "anat")):
            yield participant, "", folder


def _find_session(
    root: Path, folder: Path, modality: Modality, participant: str, session: str, with_flair: bool
) -> tuple[list[CohortCase], list[Skip]]:
    """The cases of a session, and what is left out of it."""
    diffusion, anatomy = _images(root, folder / "dwi"), _images(root, folder / "anat")
    flairs = [each for each in anatomy if each.suffix == "FLAIR"]
    if modality is Modality.FLAIR:
        candidates, reason = flairs, "no FLAIR in anat/"
    else:
        candidates, reason = _select_dwi(diffusion)
    if not candidates:
        name = f"sub-{participant}" + (f"_ses-{session}" if session else "")
        return [], [Skip(name, reason)]
    adcs = [each for each in diffusion if _map_kind(each) == "adc"]
    found, skipped = [], []
    for alike in _by_scan(candidates):
        image, notes = _preferred(alike)
        entities = tuple(f"{key}-{value}" for key, value in image.distinct.items())
        case = CohortCase(participant, session, image.path, modality, entities=entities)
        if not image.is_there:
            skipped.append(Skip(case.name, f"{image.path.name} was not downloaded"))
            continue
        beside: dict[str, Image | None] = {}
        if modality is Modality.DWI:
            beside["flair"] = _belonging(image, flairs, "flair", notes) if with_flair else None
            beside["adc"] = _adc_of(image, adcs, candidates, notes)
        images = {role: each for role, each in beside.items() if each is not None}
        sources = (each.path.relative_to(root).as_posix() for each in (image, *images.values()))
        paths: dict[str, Any] = {role: each.path for role, each in images.items()}
        found.append(replace(case, sources=tuple(sources), notes=tuple(notes), **paths))
    return found, skipped


def _images(root: Path, folder: Path) -> list[Image]:
    if not folder.is_dir():
        return []
    paths = sorted(path for path in folder.iterdir() if path.name.endswith(_SUFFIXES))
    return [Image(root, path) for path in paths if "_" in path.name]


def _select_dwi(images: list[Image]) -> tuple[list[Image], str]:
    """The diffusion-weighted images, also those not downloaded; why there are none."""
    candidates = [
        each
        for each in images
        if each.suffix in ("dwi", "trace")
        and _map_kind(each) is None
        and each.entities.get("part", "mag") == "mag"
    ]
    if not candidates:
        return [], "no DWI in dwi/" if images else "no images in dwi/"
    weighted = [each for each in candidates if not _is_b0(each)]
    return weighted, "no diffusion-weighted image in dwi/, only b0"


def _by_scan(images: list[Image]) -> list[list[Image]]:
    """Images that come from the same scan, together."""
    scans: dict[tuple[tuple[str, str], ...], list[Image]] = {}
    for each in images:
        scans.setdefault(tuple(each.distinct.items()), []).append(each)
    return list(scans.values())


def _preferred(images: list[Image]) -> tuple[Image, list[str]]:
    """The image of a scan to segment, which is not there if none was downloaded, and notes."""
    ordered = sorted(images, key=_rank)
    chosen = next((each for each in ordered if each.is_there), ordered[0])
    missing = ordered[: ordered.index(chosen)]
    notes = [f"{each.path.name} was not downloaded, and is not used" for each in missing]
    others = [each for each in images if each.is_there and _is_trace(each) == _is_trace(chosen)]
    if len(others) > 1:
        notes.append(f"{chosen.path.name} was used of images that differ in rec")
    return chosen, notes


def _rank(image: Image) -> tuple[bool, int, str]:
    """Order of the images of a scan: the trace first, and of those the plainest."""
    return not _is_trace(image), len(image.entities), image.path.name


def _map_kind(image: Image) -> str | None:
    """Which map an image is, in lower case; None if it is no map."""
    for word in (image.entities.get("rec", ""), image.suffix, image.entities.get("param", "")):
        if word.lower() in _MAPS:
            return word.lower()
    # By name, an image is what its creator says; scanners write less consistent types.
    if _is_named_trace(image):
        return None
    types = image.types & _MAP_TYPES
    return "adc" if "ADC" in types else next(iter(sorted(types)), "").lower() or None


def _is_named_trace(image: Image) -> bool:
    return image.suffix == "trace" or image.entities.get("rec", "").lower() in _TRACE


def _is_trace(image: Image) -> bool:
    return _is_named_trace(image) or "TRACEW" in image.types


def _is_b0(image: Image) -> bool:
    values = image.b_values
    if values is None:
        for key in ("DiffusionBValue", "BValue"):
            value = image.sidecar.get(key)
            if isinstance(value, int | float) and not isinstance(value, bool):
                return value <= _LARGEST_B0
        return image.entities.get("acq", "").lower() == "b0"
    return bool(values) and max(values) < _SMALLEST_B


def _belonging(image: Image, others: list[Image], role: str, notes: list[str]) -> Image | None:
    """The image of a role that belongs to a DWI: the one of the same run, or the only one."""
    chosen = [each for each in others if each.distinct == image.distinct] or others
    if len(chosen) > 1:
        names = ", ".join(each.path.name for each in others)
        notes.append(f"none of several {role} was used ({names}); name one in a table")
        return None
    if chosen and not chosen[0].is_there:
        notes.append(f"{chosen[0].path.name} was not downloaded, and is not used")
        return None
    return chosen[0] if chosen else None


def _adc_of(
    image: Image, adcs: list[Image], diffusion: list[Image], notes: list[str]
) -> Image | None:
    """The ADC map of a DWI, never that of another one."""
    own = [each for each in adcs if not _is_of_another(each, image, diffusion)]
    if adcs and not own:
        names = ", ".join(each.path.name for each in adcs)
        notes.append(f"no adc was used, since none is of the same run ({names})")
    adc = _belonging(image, own, "adc", notes)
    if adc is not None and adc.distinct != image.distinct:
        keys = adc.distinct.keys() | image.distinct.keys()
        differ = sorted(k for k in keys if adc.distinct.get(k) != image.distinct.get(k))
        notes.append(f"{adc.path.name} was used, whose name differs in {', '.join(differ)}")
    return adc


def _is_of_another(adc: Image, image: Image, diffusion: list[Image]) -> bool:
    """Whether an ADC map comes from another scan than a DWI does."""
    if adc.distinct == image.distinct:
        return False
    if any(each.distinct == adc.distinct for each in diffusion):
        return True
    # Some converters name the map itself by `acq`, so that may differ.
    shared = (adc.distinct.keys() & image.distinct.keys()) - {"acq"}
    return any(adc.distinct[key] != image.distinct[key] for key in shared)


def _read(path: Path) -> dict[str, Any]:
    """Content of a sidecar; empty if it is damaged, which the reader of the image warns of."""
    try:
        content = json.loads(read_regular(path, _MAX_SIDECAR_BYTES))
    except (OSError, ValueError, RecursionError):
        return {}
    return content if isinstance(content, dict) else {}
