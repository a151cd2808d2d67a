"""The report of a result as an HTML page that a person looks at."""

import math
from collections.abc import Iterator, Mapping, Sequence

from cnnres_infer import __version__
from cnnres_infer.core.mask import Lesion
from cnnres_infer.core.provenance import Skipped
from cnnres_infer.core.result import Result
from cnnres_infer.host.machine import versions
from cnnres_infer.outputs.page import (
    RESEARCH_ONLY,
    asset,
    document,
    escape,
    escape_lines,
    picture,
    prose,
    table,
)
from cnnres_infer.outputs.viewer import Viewer, make_viewer
from cnnres_infer.outputs.writers.overlay import mosaic_png

_MAX_ROWS = 50
_HEADING = (
    "",
    "volume (ml)",
    "voxels",
    "centre (mm)",
    "voxel",
    "ADC (10⁻⁶ mm²/s)",
    "ADC / brain's",
    "restricted voxels",
    "",
)


def html_page(result: Result, patient: Mapping[str, str] | None = None) -> str:
    """Make the page: warnings first, then what was found, how to look at it, and what made it.

    Parameters
    ----------
    result
        The result.
    patient
        Attributes of the patient and study by their names; empty if none are known,
        None to leave them out.
    """
    name, viewer = result.volume.name, make_viewer(result)
    sections = (
        f"<header><h1>Lesion report: {escape(name)}</h1>",
        f'<p class="research">{RESEARCH_ONLY}</p></header>',
        "<main>",
        _section("Warnings", _warnings(result)),
        *([] if patient is None else [_section("Patient and study", _patient(patient))]),
        _section("Findings", _findings(result), _mosaic(result)),
        _section("Lesions", *_lesions(result)),
        _section("Viewer", viewer.section, style="screen"),
        _section("Agreement with PyTorch", *_parity(result)),
        _section("Provenance", table(_provenance(result))),
        "</main>",
        *_licences(viewer),
    )
    return document(
        f"Lesion report: {name}", sections, styles=(asset("report.css"),), scripts=viewer.scripts
    )


def _section(title: str, *parts: str, style: str = "") -> str:
    opening = f'<section class="{style}">' if style else "<section>"
    return "\n".join((opening, f"<h2>{title}</h2>", *parts, "</section>"))


def _warnings(result: Result) -> str:
    if not result.warnings:
        return "<p>None.</p>"
    notices = [
        f"<li><code>{escape(each.code)}</code> {prose(each.text)}</li>" for each in result.warnings
    ]
    return "\n".join(('<ul class="warnings">', *notices, "</ul>"))


def _patient(patient: Mapping[str, str]) -> str:
    return table(patient.items()) if patient else "<p>The input names neither.</p>"


def _findings(result: Result) -> str:
    figures = {
        "lesions": str(len(result.lesions)),
        "lesion volume": f"{result.mask.volume_ml:.2f} ml",
    }
    if result.rejected_mask is not None:
        figures["rejected by ADC"] = (
            f"{len(result.rejected)} ({result.rejected_mask.volume_ml:.2f} ml)"
        )
    pairs = [
        f"<div><dt>{escape(label)}</dt><dd>{escape(value)}</dd></div>"
        for label, value in figures.items()
    ]
    return "\n".join(('<dl class="findings">', *pairs, "</dl>"))


def _mosaic(result: Result) -> str:
    caption = (
        "Lesions are outlined in red, rejected ones in dashed yellow, and the brain in blue. The "
        "patient's right is on the left, anterior is at the top."
    )
    return (
        f"<figure>{picture(mosaic_png(result), f'Axial slices. {caption}')}"
        f"<figcaption>{escape(caption)}</figcaption></figure>"
    )


def _lesions(result: Result) -> Iterator[str]:
    note = result.diffusion.note
    yield f"<p>{prose(note[:1].upper() + note[1:])}.</p>"
    if not result.lesions and not result.rejected:
        yield "<p>No lesion was found.</p>"
    if result.lesions:
        yield _lesion_table("In the mask", result.lesions)
    if result.rejected:
        yield _lesion_table(
            "Rejected, since too few of their voxels restrict diffusion", result.rejected
        )


def _lesion_table(caption: str, lesions: Sequence[Lesion]) -> str:
    head = "".join(f'<th scope="col">{escape(text)}</th>' for text in _HEADING)
    rows = [_lesion_row(i, lesion) for i, lesion in enumerate(lesions[:_MAX_ROWS], 1)]
    left_out = lesions[_MAX_ROWS:]
    if left_out:
        volume = sum(lesion.volume_ml for lesion in left_out)
        rows.append(
            f'<tr><td colspan="{len(_HEADING)}">and {len(left_out)} smaller ones of {volume:.2f} '
            "ml together, which the JSON report lists</td></tr>"
        )
    return "\n".join(
        (
            '<div class="scroll"><table class="figures found">',
            f"<caption>{escape(caption)}</caption>",
            f"<tr>{head}</tr>",
            *rows,
            "</table></div>",
        )
    )


def _lesion_row(number: int, lesion: Lesion) -> str:
    adc, relative, share = lesion.adc_mm2_s, lesion.relative_adc, lesion.restricted_share
    cells = (
        f"{lesion.volume_ml:.2f}",
        f"{lesion.voxels}",
        _place(lesion.centre_mm),
        ", ".join(str(_nearest(each)) for each in lesion.centre_voxel),
        "not known" if adc is None else f"{adc * 1e6:.0f}",
        "not known" if relative is None else f"{relative:.2f}",
        "not known" if share is None else f"{100 * share:.1f} %",
    )
    voxel = " ".join(f"{each:.1f}" for each in lesion.centre_voxel)
    button = (
        f'<button type="button" data-voxel="{voxel}" hidden '
        f'aria-label="Show lesion {number} in the viewer">show</button>'
    )
    body = "".join(f"<td>{escape(cell)}</td>" for cell in cells)
    return f'<tr><th scope="row">{number}</th>{body}<td>{button}</td></tr>'


def _place(centre_mm: Sequence[float]) -> str:
    """A position in mm RAS+ by its directions, such as ``L 20, A 5, S 31``."""
    sides = ("RL", "AP", "SI")
    return ", ".join(
        f"{pair[each < 0]} {_nearest(abs(each))}"
        for pair, each in zip(sides, centre_mm, strict=True)
    )


def _nearest(value: float) -> int:
    """The nearest integer; the upper one of two, where `round` and formats take the even one."""
    return math.floor(value + 0.5)


def _parity(result: Result) -> Iterator[str]:
    checked = result.provenance.verification
    if checked is None:
        yield '<p class="verdict failed">The engine was not checked before this run.</p>'
        return
    verdict = "agrees" if checked.passed else "disagrees"
    style = "passed" if checked.passed else "failed"
    yield (
        f'<p class="verdict {style}">The engine {verdict} with PyTorch in float32 on this machine.'
        "</p>"
    )
    yield table(
        (
            ("slices compared", f"{checked.slices}"),
            ("mean Dice", f"{checked.dice_mean:.4f}"),
            ("lowest Dice", f"{checked.dice_min:.4f}"),
            ("Dice of all pixels", f"{checked.dice_pooled:.4f}"),
            ("largest difference of probability", f"{checked.largest_difference:.2g}"),
            ("compared (UTC)", checked.when),
        )
    )


def _provenance(result: Result) -> Iterator[tuple[str, str]]:
    made, grid = result.provenance, result.volume.grid
    engine = made.engine
    for modality, name in made.inputs.items():
        yield f"input: {modality}", name
    yield (
        "grid",
        (
            " × ".join(str(extent) for extent in grid.shape)
            + " voxels of "
            + " × ".join(f"{step:.3g}" for step in grid.spacing)
            + " mm"
        ),
    )
    yield "brain", made.brain
    yield "model", f"{made.model} {made.version}"
    yield "SHA-256 of its model.json", made.bundle_sha256
    yield "engine", f"{engine.backend}, {engine.provider}, {engine.threads} threads"
    yield "precision", f"{engine.precision} (variant {engine.variant})"
    for reason, skipped in _by_reason(made.skipped).items():
        yield f"skipped: {', '.join(skipped)}", reason
    installed = {"cnnres-infer": __version__, **versions("numpy"), **engine.versions}
    yield "versions", ", ".join(f"{name} {version}" for name, version in installed.items())
    yield "time", f"{sum(result.timings.values()):.2f} s"


def _by_reason(skipped: Sequence[Skipped]) -> dict[str, list[str]]:
    """What was skipped, under the reason that several may share."""
    reasons: dict[str, list[str]] = {}
    for each in skipped:
        precision = "" if each.precision == "auto" else f" {each.precision}"
        reasons.setdefault(each.reason, []).append(f"{each.backend}{precision}")
    return reasons


def _licences(viewer: Viewer) -> Iterator[str]:
    if viewer.licences:
        yield (
            "<footer><details><summary>Licences of the viewer</summary>"
            f"<pre>{escape_lines(viewer.licences)}</pre></details></footer>"
        )
