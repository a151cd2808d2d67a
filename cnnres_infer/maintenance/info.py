"""What there is: the model of a bundle and the backends of this machine."""

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cnnres_infer import __version__
from cnnres_infer.bundle.bundle import Bundle
from cnnres_infer.bundle.manifest import spec_to_json
from cnnres_infer.engines import BACKENDS, probe
from cnnres_infer.engines.base import Probe
from cnnres_infer.host.machine import usable_cores
from cnnres_infer.selection.offers import offers
from cnnres_infer.verification.self_check import last_verifications

if TYPE_CHECKING:
    from rich.console import Console


def describe(folder: Path | None) -> dict[str, Any]:
    """Describe a bundle, probe every backend, and tell how each was last verified.

    Raises
    ------
    BundleError
        If the bundle cannot be opened.
    """
    bundle = Bundle.open(folder)
    probes = {name: probe(name) for name in BACKENDS}
    return {
        "version": __version__,
        "cores": usable_cores(),
        "bundle": {
            "folder": str(bundle.folder),
            "sha256": bundle.digest,
            **spec_to_json(bundle.spec),
            "variants": sorted(bundle.variants),
            "training": bundle.manifest.get("training", {}),
            "accuracy": bundle.manifest.get("accuracy", {}),
        },
        "backends": {
            name: {
                **asdict(found),
                "precisions": list(offers(bundle, name)),
                "verifications": _verifications(bundle, name, found),
            }
            for name, found in probes.items()
        },
    }


def _verifications(bundle: Bundle, name: str, probe: Probe) -> dict[str, Any]:
    """The last verification of each precision, with the versions that are installed now."""
    return {
        engine["precision"]: asdict(verification)
        for engine, verification in last_verifications(bundle)
        if engine["backend"] == name
        and all(engine["versions"].get(k, v) == v for k, v in probe.versions.items())
    }


def print_tables(entry: dict[str, Any], console: "Console") -> None:
    """Print what `describe` found."""
    from rich.table import Table

    bundle = entry["bundle"]
    image = bundle["input"]
    model = Table(title=f"{bundle['name']} {bundle['version']}", show_header=False)
    console.print(f"bundle {bundle['folder']}\nsha256 {bundle['sha256']}", soft_wrap=True)
    for label, value in (
        ("modalities", ", ".join(image["modalities"])),
        ("input", f"{image['channels']} x {image['size']}², {image['spacing_mm']} mm"),
        ("fusion", f"{bundle['fusion']['rule']} (DWI {bundle['fusion']['dwi_weight']})"),
        ("variants", ", ".join(bundle["variants"])),
        ("usable cores", str(entry["cores"])),
    ):
        model.add_row(label, value)
    console.print(model)
    backends = Table("backend", "what", "precisions", "verified", title="usable backends")
    lacking: dict[str, list[str]] = {}
    for name, found in entry["backends"].items():
        if not found["usable"]:
            lacking.setdefault(f"{found['reason']}; {found['remedy']}", []).append(name)
            continue
        backends.add_row(
            name,
            found["reason"],
            ", ".join(found["precisions"]),
            "\n".join(_outcome(*item) for item in found["verifications"].items()),
        )
    for column in (backends.columns[0], backends.columns[3]):
        column.no_wrap = True
    console.print(backends)
    for what, names in lacking.items():
        console.print(f"not usable: {', '.join(names)}: {what}", markup=False, soft_wrap=True)


def _outcome(precision: str, verification: dict[str, Any]) -> str:
    outcome = "passed" if verification["passed"] else "failed"
    return (
        f"{precision}: {outcome} on {verification['when'][:10]}, "
        f"Dice {verification['dice_mean']:.4f}"
    )
