"""All cases of a cohort on one page, for a person to look through."""

import base64
from collections.abc import Iterator
from pathlib import Path

from cnnres_infer.cohort.derivative import relative_uri
from cnnres_infer.cohort.tables import Entry
from cnnres_infer.outputs.page import RESEARCH_ONLY, document, escape, prose

_STYLE = """\
body { max-width: 90rem; }
#cases img { width: 96px; height: 96px; display: block; background: #000; }
#cases td, #cases th { vertical-align: top; }
#cases button { font: inherit; font-weight: 500; border: 0; background: none; padding: 0;
  color: inherit; cursor: pointer; }
#cases th[aria-sort=descending] button::after { content: " ↓"; }
#cases th[aria-sort=ascending] button::after { content: " ↑"; }
.number { text-align: right; font-variant-numeric: tabular-nums; }
.is-failed { color: #d0342c; } .is-skipped { opacity: .6; }
#cases ul { margin: 0; padding-left: 1rem; max-width: 40rem; }
@media (prefers-color-scheme: dark) { .is-failed { color: #ff7b72; } }
"""

# Without it, the rows stay in the order in which they are written.
_SCRIPT = """\
const table = document.getElementById("cases"), body = table.tBodies[0];
const value = (row, column) => row.cells[column].dataset.value;
for (const head of table.tHead.rows[0].cells) {
  const button = head.querySelector("button");
  if (!button) continue;
  button.addEventListener("click", () => {
    const down = head.getAttribute("aria-sort") !== "descending", column = head.cellIndex;
    for (const other of table.tHead.rows[0].cells) other.removeAttribute("aria-sort");
    head.setAttribute("aria-sort", down ? "descending" : "ascending");
    const numeric = head.dataset.kind === "number", sign = down ? -1 : 1;
    const rows = [...body.rows].sort((a, b) => sign * (numeric
      ? value(a, column) - value(b, column)
      : value(a, column).localeCompare(value(b, column), undefined, {numeric: true})));
    body.append(...rows);
  });
}
const search = document.getElementById("search");
search.addEventListener("input", () => {
  const words = search.value.toLowerCase();
  for (const row of body.rows) row.hidden = !row.textContent.toLowerCase().includes(words);
});
"""
_COLUMNS = (
    ("", ""),
    ("case", "text"),
    ("status", "text"),
    ("warnings", "number"),
    ("volume, ml", "number"),
    ("lesions", "number"),
    ("rejected", "number"),
    ("diffusion", "text"),
    ("to look at", ""),
)
# Whether lesions were checked for restricted diffusion, by what cases.tsv says of it.
_DIFFUSION = {"true": "checked", "false": "not checked"}


def index_page(out: Path, entries: list[Entry]) -> bytes:
    """Render the page: what failed and has most warnings first, then the largest volumes.

    Parameters
    ----------
    out
        The output folder, which has the pictures.
    entries
        What is known of its cases.
    """
    ranked = sorted(entries, key=_rank)
    counts = {
        status: sum(entry.row["status"] == status for entry in entries)
        for status in ("done", "failed", "skipped")
    }
    sections = (
        "<h1>Lesion masks by cnnres-infer</h1>",
        f"<p>{counts['done']} cases segmented, {counts['failed']} failed, "
        f"{counts['skipped']} skipped. Masks were not checked by a person. {RESEARCH_ONLY}</p>",
        '<p><label>Show only <input id="search" type="search"></label></p>',
        '<table id="cases">',
        f"<thead><tr>{''.join(_heading())}</tr></thead>",
        "<tbody>",
        *(_row(out, entry) for entry in ranked),
        "</tbody></table>",
    )
    return document(
        "Lesion masks by cnnres-infer", sections, styles=[_STYLE], scripts=[_SCRIPT]
    ).encode()


def _rank(entry: Entry) -> tuple[int, int, float, str]:
    order = {"failed": 0, "done": 1, "skipped": 2}[entry.row["status"]]
    return order, -entry.count_of_warnings, -(entry.row.get("volume_ml") or 0.0), entry.name


def _heading() -> Iterator[str]:
    for text, kind in _COLUMNS:
        content = f'<button type="button">{escape(text)}</button>' if kind else escape(text)
        yield f'<th scope="col" data-kind="{kind}">{content}</th>'


def _row(out: Path, entry: Entry) -> str:
    row, status = entry.row, entry.row["status"]
    volume, lesions, rejected = (row.get(name) for name in ("volume_ml", "lesions", "rejected"))
    diffusion = _DIFFUSION.get(row.get("diffusion_checked", ""), "")
    items = "".join(f"<li>{prose(text)}</li>" for text in entry.messages)
    cells = (
        f"<td>{_picture(out, entry)}</td>",
        _cell(entry.name, f"<a{_link(row.get('mask'))}>{escape(entry.name)}</a>"),
        _cell(status, escape(status), f"is-{status}"),
        _cell(entry.count_of_warnings, str(entry.count_of_warnings), "number"),
        _cell(volume or 0.0, "" if volume is None else f"{volume:.2f}", "number"),
        _cell(lesions or 0, "" if lesions is None else str(lesions), "number"),
        _cell(rejected or 0, "" if rejected is None else str(rejected), "number"),
        _cell(diffusion, diffusion),
        f"<td><ul>{items}</ul></td>",
    )
    return f"<tr>{''.join(cells)}</tr>"


def _cell(value: object, content: str, style: str = "") -> str:
    return f'<td data-value="{escape(str(value))}" class="{escape(style)}">{content}</td>'


def _link(path: str | None) -> str:
    return f' href="{escape(relative_uri(Path(path)))}"' if path else ""


def _picture(out: Path, entry: Entry) -> str:
    """The thumbnail of a case, with a link to its overlay if there is one."""
    if entry.row["status"] != "done":
        return ""
    figures = Path(entry.row["participant_id"], "figures")
    thumbnail = out / figures / f"{entry.name}_thumbnail.jpg"
    if not thumbnail.is_file():
        return ""
    data = base64.b64encode(thumbnail.read_bytes()).decode()
    image = f'<img alt="{escape(entry.name)}" loading="lazy" src="data:image/jpeg;base64,{data}">'
    overlay = figures / f"{entry.name}_overlay.png"
    return f"<a{_link(overlay.as_posix())}>{image}</a>" if (out / overlay).is_file() else image
