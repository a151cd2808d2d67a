"""The report of a verification as an HTML page."""

import io
from collections.abc import Iterator
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import numpy as np

from cnnres_infer.core.arrays import BoolArray, FloatArray
from cnnres_infer.host.atomic import write_all
from cnnres_infer.outputs.page import RESEARCH_ONLY, document, escape, picture, table
from cnnres_infer.outputs.writers.overlay import OUTLINE, outline
from cnnres_infer.verification.agreement import Comparison
from cnnres_infer.verification.report import VerificationReport

_MOST_PICTURES = 8
_ZOOM = 3
_REFERENCE_LINE = (0, 200, 255)
# The bins are narrow close to 1, where it matters; the last one holds only 1 itself.
_DICE_EDGES = (0.0, 0.5, 0.8, 0.9, 0.95, 0.98, 0.99, 0.995, 0.999, 1.0)
_BAR, _HEIGHT = 80, 160


def save_page(report: VerificationReport, path: Path, overwrite: bool) -> VerificationReport:
    """Write the page of a report.

    Parameters
    ----------
    report
        The report.
    path
        Path of the page.
    overwrite
        Whether an existing file may be replaced.

    Returns
    -------
    VerificationReport
        The report, with the page among its outputs.

    Raises
    ------
    OutputExistsError
        If the file already exists and `overwrite` is False.
    OutputError
        If it cannot be written.
    """
    write_all({path: html_page(report).encode()}, overwrite)
    return replace(report, outputs=(*report.outputs, path))


def html_page(report: VerificationReport) -> str:
    """Render a self-contained page: verdict, figures, histogram and the worst slices."""
    comparison = report.comparison
    sections = (
        f"<h1>Verification of {escape(report.bundle.name)}</h1>",
        f'<p class="verdict {report.status}">{escape(_verdict(report))}</p>',
        f"<p>{RESEARCH_ONLY}</p>",
        table(_provenance(report)),
        "<h2>Figures</h2>",
        table(report.figures(), ("", "measured", "required"), "figures"),
        "<h2>Dice of slices with lesion</h2>",
        _histogram(comparison.agreement.counted),
        "<h2>The worst slices</h2>",
        _legend(),
        *_pictures(comparison),
    )
    return document(f"{report.bundle.name}: {report.status}", sections)


def _verdict(report: VerificationReport) -> str:
    engine = report.engine
    if report.passed:
        return (
            f"Passed: {engine.backend} in {engine.precision} agrees with PyTorch on this machine."
        )
    return (
        f"Failed: {engine.backend} in {engine.precision} disagrees with PyTorch; "
        "do not use it on this machine."
    )


def _provenance(report: VerificationReport) -> Iterator[tuple[str, str]]:
    engine, bundle, here = report.engine, report.bundle, report.machine
    versions = {**report.versions, **engine.versions}
    yield "compared on", report.comparison.subject
    yield "engine", f"{engine.backend}, {engine.provider}, {engine.threads} threads"
    yield "precision", f"{engine.precision} (variant {engine.variant})"
    yield "bundle", f"{bundle.name} {bundle.version}"
    yield "bundle's SHA-256", bundle.sha256
    yield "machine", f"{here.processor}, {here.cores} usable cores, {here.system}"
    yield "versions", ", ".join(f"{name} {version}" for name, version in versions.items())
    yield "time (UTC)", report.time_utc


def _histogram(values: list[float]) -> str:
    """Draw a histogram with the bins of `_DICE_EDGES` as SVG."""
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
        "<p>Left: the network's input (first channel). Middle: outlined by PyTorch. Right: "
        "outlined by the engine. Anterior is at the top; the patient's right is on the left.</p>"
    )


def _pictures(comparison: Comparison) -> Iterator[str]:
    worst = _worst(comparison)
    if not worst:
        yield "<p>No slice has a lesion in either mask.</p>"
    masks, expected = (
        comparison.mask.apply(part[:, 0]) for part in (comparison.output, comparison.reference)
    )
    for i in worst:
        value = comparison.agreement.slices[i]
        caption = (
            f"{comparison.names[i]}: Dice {value:.4f}, {int((masks[i] ^ expected[i]).sum())} "
            f"flipped pixels, lesion of {int(expected[i].sum())} pixels in the reference"
        )
        drawn = picture(_picture(comparison.images[i, 0], expected[i], masks[i]), caption)
        yield f"<figure>{drawn}<figcaption>{escape(caption)}</figcaption></figure>"


def _worst(comparison: Comparison) -> list[int]:
    """Indices of the slices with the smallest Dice; ties by largest difference first."""
    difference = np.abs(comparison.output - comparison.reference).max(axis=(1, 2, 3))
    ranked = sorted(
        (value, -float(difference[i]), i)
        for i, value in enumerate(comparison.agreement.slices)
        if value is not None
    )
    return [i for _, _, i in ranked[:_MOST_PICTURES]]


def _picture(image: FloatArray, reference: BoolArray, mask: BoolArray) -> bytes:
    """Render an image (H, W) plain, with the reference's and with the engine's outline, as PNG."""
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
    """Return the smallest rectangle that contains all True pixels."""
    rows, columns = (np.flatnonzero(pixels.any(axis=axis)) for axis in (1, 0))
    return slice(rows[0], rows[-1] + 1), slice(columns[0], columns[-1] + 1)
