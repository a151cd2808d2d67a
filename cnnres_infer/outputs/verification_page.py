"""What a verification tells: entries for JSON, a table, a page for the browser."""

import base64
import io
from collections.abc import Iterable, Iterator
from dataclasses import asdict
from datetime import UTC, datetime
from html import escape
from itertools import pairwise
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np

from cnnres_infer import __version__
from cnnres_infer.bundle.bundle import Bundle
from cnnres_infer.core.arrays import BoolArray, FloatArray
from cnnres_infer.core.provenance import EngineInfo
from cnnres_infer.host import machine
from cnnres_infer.outputs.writers.overlay import OUTLINE, outline
from cnnres_infer.verification.agreement import GATES, Comparison

if TYPE_CHECKING:
    from rich.console import Console

Row: TypeAlias = tuple[str, str, str]

_MOST_PICTURES = 8
_ZOOM = 3
_REFERENCE_LINE = (0, 200, 255)
# Agreement is decided close to 1, so that is where the bins are narrow; the last holds 1 alone.
_DICE_EDGES = (0.0, 0.5, 0.8, 0.9, 0.95, 0.98, 0.99, 0.995, 0.999, 1.0)
_BAR, _HEIGHT = 80, 160

_STYLE = """\
:root { color-scheme: light dark; font: 15px/1.45 system-ui, sans-serif; }
body { max-width: 62rem; margin: 2rem auto; padding: 0 1rem; }
h1 { font-size: 1.5rem; } h2 { font-size: 1.15rem; margin-top: 2rem; }
.verdict { font-weight: 600; border-left: .4rem solid; padding-left: .6rem; }
.passed { border-color: #2e8b57; } .failed { border-color: #d0342c; }
table { border-collapse: collapse; }
th, td { text-align: left; vertical-align: top; padding: .2rem 1.2rem .2rem 0;
  border-bottom: 1px solid #8886; overflow-wrap: anywhere; }
th { font-weight: 500; }
.figures td { text-align: right; font-variant-numeric: tabular-nums; }
svg { max-width: 100%; height: auto; }
figure { margin: 1rem 0; break-inside: avoid; }
figure img { max-width: 100%; }
h2 { break-after: avoid; } table, svg { break-inside: avoid; }
@media print { :root { color-scheme: light; } body { margin: 0; max-width: none; } }
"""


def describe(comparison: Comparison, engine: EngineInfo, bundle: Bundle) -> dict[str, Any]:
    """All that is known of a verification, ready for JSON."""
    gate = GATES[engine.precision]
    return {
        "status": "passed" if comparison.passes(gate) else "failed",
        "subject": comparison.subject,
        "time_utc": datetime.now(UTC).isoformat(timespec="seconds"),
        "engine": asdict(engine),
        "bundle": {
            "name": bundle.spec.name,
            "version": bundle.spec.version,
            "sha256": bundle.digest,
        },
        "machine": {
            "processor": machine.processor(),
            "cores": machine.usable_cores(),
            "system": machine.system(),
        },
        "versions": {"cnnres-infer": __version__, **machine.versions("numpy")},
        "gate": asdict(gate),
        "agreement": comparison.to_json(),
    }


def print_table(entry: dict[str, Any], console: "Console") -> None:
    """Print the figures of `describe`, and where the page is if there is one."""
    from rich.markup import escape as plain
    from rich.table import Table

    engine = entry["engine"]
    ran = f"{engine['backend']}, {engine['provider']}, {engine['precision']}: {entry['status']}"
    title = plain(f"{entry['subject']}\n{ran}")
    table = Table("agreement with PyTorch", "measured", "at least", title=title)
    for row in _figures(entry):
        table.add_row(*row)
    console.print(table)
    for path in entry["outputs"]:
        console.print(f"  {path}", markup=False)


def html_page(entry: dict[str, Any], comparison: Comparison) -> str:
    """A page that needs nothing else: verdict, figures, histogram, the worst slices.

    Parameters
    ----------
    entry
        What `describe` says of the comparison.
    comparison
        Its images and probabilities.
    """
    sections = (
        f"<h1>Verification of {escape(entry['bundle']['name'])}</h1>",
        f'<p class="verdict {escape(entry["status"])}">{escape(_verdict(entry))}</p>',
        "<p>Research use only; not a medical device.</p>",
        _table(_provenance(entry)),
        "<h2>Figures</h2>",
        _table(_figures(entry), ("", "measured", "at least"), "figures"),
        "<h2>Dice of the slices with lesion</h2>",
        _histogram(comparison.agreement.counted),
        "<h2>The worst slices</h2>",
        _legend(),
        *_pictures(comparison),
    )
    return (
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width">\n'
        f"<title>{escape(entry['bundle']['name'])}: {escape(entry['status'])}</title>\n"
        f"<style>\n{_STYLE}</style>\n</head>\n<body>\n"
        + "\n".join(sections)
        + "\n</body>\n</html>\n"
    )


def _verdict(entry: dict[str, Any]) -> str:
    engine = entry["engine"]
    if entry["status"] == "passed":
        return f"Passed: {engine['backend']} in {engine['precision']} agrees with PyTorch here."
    return (
        f"Failed: {engine['backend']} in {engine['precision']} disagrees with PyTorch: "
        "do not use it here."
    )


def _provenance(entry: dict[str, Any]) -> Iterator[tuple[str, str]]:
    engine, bundle, here = entry["engine"], entry["bundle"], entry["machine"]
    versions = {**entry["versions"], **engine["versions"]}
    yield "compared", entry["subject"]
    yield "engine", f"{engine['backend']}, {engine['provider']}, {engine['threads']} threads"
    yield "precision", f"{engine['precision']} (variant {engine['variant']})"
    yield "bundle", f"{bundle['name']} {bundle['version']}"
    yield "bundle's SHA-256", bundle["sha256"]
    yield "machine", f"{here['processor']}, {here['cores']} usable cores, {here['system']}"
    yield "versions", ", ".join(f"{name} {version}" for name, version in versions.items())
    yield "time (UTC)", entry["time_utc"]


def _figures(entry: dict[str, Any]) -> Iterator[Row]:
    """Label, measured, at least: the rows of every table of a verification."""
    gate, agreement = entry["gate"], entry["agreement"]
    for label, key, bound in (
        ("mean Dice, slices with lesion", "dice_mean", "mean"),
        ("5th percentile, lesions over 50 pixels", "dice_p5_large", "tail"),
        ("Dice of all pixels", "dice_pooled", "pooled"),
        ("Dice of the volume's masks", "dice_volume_mask", "pooled"),
        ("1st percentile of Dice", "dice_p1", None),
        ("smallest Dice", "dice_min", None),
    ):
        if key in agreement:
            yield label, f"{agreement[key]:.5f}", f"{gate[bound]}" if bound else ""
    for label, key, bound in (
        ("mean difference of probability, lesion", "lesion_difference", "off"),
        ("largest difference of probability", "largest_difference", None),
        ("mean difference of probability", "mean_difference", None),
    ):
        yield label, f"{agreement[key]:.3g}", f"at most {gate[bound]}" if bound else ""
    for label, key in (
        ("flipped pixels", "flipped_pixels"),
        ("slices: all", "slices"),
        ("slices: empty in both, not counted", "both_empty"),
        ("slices: empty in one, counted as 0", "one_empty"),
    ):
        yield label, f"{agreement[key]}", ""


def _table(
    rows: Iterable[tuple[str, ...]], heading: tuple[str, ...] = (), style: str = "about"
) -> str:
    head = "".join(f'<th scope="col">{escape(text)}</th>' for text in heading)
    body = [
        f'<tr><th scope="row">{escape(label)}</th>'
        + "".join(f"<td>{escape(cell)}</td>" for cell in cells)
        + "</tr>"
        for label, *cells in rows
    ]
    return "\n".join(
        (f'<table class="{style}">', f"<tr>{head}</tr>" * bool(head), *body, "</table>")
    )


def _histogram(values: list[float]) -> str:
    """Bars over `_DICE_EDGES` as SVG."""
    bins = [(f"{a:g}–{b:g}", sum(a <= v < b for v in values)) for a, b in pairwise(_DICE_EDGES)]
    bins.append(("1", sum(v == 1.0 for v in values)))
    tallest = max(1, *(count for _, count in bins))
    width = _BAR * len(bins)
    parts = [
        f'<svg role="img" aria-label="Histogram of Dice" width="{width}" height="{_HEIGHT + 48}" '
        f'viewBox="0 0 {width} {_HEIGHT + 48}" fill="currentColor" font-size="12" '
        'text-anchor="middle">'
    ]
    for i, (label, count) in enumerate(bins):
        height = round(count / tallest * _HEIGHT)
        x, y = i * _BAR, 20 + _HEIGHT - height
        parts += [
            f'<rect x="{x + 4}" y="{y}" width="{_BAR - 8}" height="{height}" opacity="0.6"/>',
            f'<text x="{x + _BAR / 2:g}" y="{y - 5}">{count}</text>',
            f'<text x="{x + _BAR / 2:g}" y="{_HEIGHT + 38}">{escape(label)}</text>',
        ]
    base = 20 + _HEIGHT
    parts.append(f'<path d="M0 {base + 0.5}H{width}" stroke="currentColor"/>\n</svg>')
    return "\n".join(parts)


def _legend() -> str:
    return (
        "<p>Left: the network's input (its first channel). Middle: outlined by PyTorch. Right: "
        "outlined by the engine. Rows run from anterior to posterior; the patient's right is on "
        "the left.</p>"
    )


def _pictures(comparison: Comparison) -> Iterator[str]:
    worst = _worst(comparison)
    if not worst:
        yield "<p>No slice has lesion in either mask.</p>"
    masks, expected = (
        comparison.mask.apply(part[:, 0]) for part in (comparison.output, comparison.reference)
    )
    for i in worst:
        value = comparison.agreement.slices[i]
        caption = (
            f"{comparison.names[i]}: Dice {value:.4f}, {int((masks[i] ^ expected[i]).sum())} "
            f"flipped pixels, lesion of {int(expected[i].sum())} pixels in the reference"
        )
        picture = _picture(comparison.images[i, 0], expected[i], masks[i])
        data = base64.b64encode(picture).decode()
        yield (
            f'<figure><img alt="{escape(caption)}" src="data:image/png;base64,{data}">'
            f"<figcaption>{escape(caption)}</figcaption></figure>"
        )


def _worst(comparison: Comparison) -> list[int]:
    """Slices of the smallest Dice; where it is the same, of the largest difference."""
    difference = np.abs(comparison.output - comparison.reference).max(axis=(1, 2, 3))
    ranked = sorted(
        (value, -float(difference[i]), i)
        for i, value in enumerate(comparison.agreement.slices)
        if value is not None
    )
    return [i for _, _, i in ranked[:_MOST_PICTURES]]


def _picture(image: FloatArray, reference: BoolArray, mask: BoolArray) -> bytes:
    """PNG of the image (H, W) alone, with the reference's outline, and with the engine's."""
    from PIL import Image

    shown = _occupied((image > 0) | reference | mask)
    grey = Image.fromarray((image[shown].clip(0, 1) * 255).astype(np.uint8))
    size = (grey.width * _ZOOM, grey.height * _ZOOM)
    plain = np.asarray(grey.resize(size, Image.Resampling.BILINEAR))
    tiles = [np.repeat(plain[:, :, None], 3, axis=2) for _ in range(3)]
    for tile, inside, colour in (
        (tiles[1], reference, _REFERENCE_LINE),
        (tiles[2], mask, OUTLINE),
    ):
        tile[outline(inside[shown].repeat(_ZOOM, axis=0).repeat(_ZOOM, axis=1))] = colour
    buffer = io.BytesIO()
    Image.fromarray(np.concatenate(tiles, axis=1)).save(buffer, format="PNG")
    return buffer.getvalue()


def _occupied(pixels: BoolArray) -> tuple[slice, slice]:
    """The smallest rectangle that holds all that is True."""
    rows, columns = (np.flatnonzero(pixels.any(axis=axis)) for axis in (1, 0))
    return slice(rows[0], rows[-1] + 1), slice(columns[0], columns[-1] + 1)
