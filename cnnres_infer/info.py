"""What there is: the model of a bundle and the backends of this machine."""

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cnnres_infer import __version__
from cnnres_infer.bundle import Bundle
from cnnres_infer.engines import BACKENDS, backend
from cnnres_infer.machine import usable_cores

if TYPE_CHECKING:
    from rich.console import Console


def describe(folder: Path | None) -> dict[str, Any]:
    """Describe a bundle and probe every backend.

    Raises
    ------
    BundleError
        If the bundle cannot be opened.
    """
    bundle = Bundle.open(folder)
    probes = {name: (backend(name), backend(name).probe()) for name in BACKENDS}
    return {
        "version": __version__,
        "cores": usable_cores(),
        "bundle": {
            "folder": str(bundle.folder),
            "sha256": bundle.digest,
            **bundle.spec.to_json(),
            "variants": sorted(bundle.variants),
            "training": bundle.manifest.get("training", {}),
            "accuracy": bundle.manifest.get("accuracy", {}),
        },
        "backends": {
            name: {
                **asdict(probe),
                "precisions": [p for p, v in engine.VARIANTS.items() if v in bundle.variants],
            }
            for name, (engine, probe) in probes.items()
        },
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
    backends = Table("backend", "usable", "what", "precisions", "to mend it", title="backends")
    for name, probe in entry["backends"].items():
        backends.add_row(
            name,
            "yes" if probe["usable"] else "no",
            probe["reason"],
            ", ".join(probe["precisions"]),
            probe["remedy"],
        )
    console.print(backends)
