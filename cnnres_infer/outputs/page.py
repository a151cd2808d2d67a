"""What all HTML pages share: escaping, tables, pictures, and the frame of a page."""

import base64
import hashlib
import html
import json
import re
from collections.abc import Iterable
from importlib.resources import files
from typing import Any

from cnnres_infer.core.text import printable

RESEARCH_ONLY = "Research use only; not a medical device."
_CODE = re.compile(r"`([^`]+)`")
_ASSETS = files("cnnres_infer.outputs") / "assets"


def escape(text: str) -> str:
    """Escape markup, and what acts instead of being seen."""
    return html.escape(printable(text))


def prose(text: str) -> str:
    """Escape a message, with what it has in backticks as code."""
    return _CODE.sub(r"<code>\1</code>", escape(text))


def escape_lines(text: str) -> str:
    """Escape a text of several lines."""
    return "\n".join(escape(line) for line in text.splitlines())


def asset(name: str) -> str:
    """Text of a file in ``outputs/assets``."""
    return (_ASSETS / name).read_text(encoding="utf-8")


def document(
    title: str, sections: Iterable[str], *, styles: Iterable[str] = (), scripts: Iterable[str] = ()
) -> str:
    """Make a self-contained page, which may load nothing and run nothing but its own scripts.

    Parameters
    ----------
    title
        Title of the page, not escaped yet.
    sections
        HTML of the body.
    styles
        Style sheets besides the one that all pages share.
    scripts
        JavaScript, run in this order after the body; must not contain ``</script``.
    """
    sheets, code = [asset("page.css"), *styles], list(scripts)
    return (
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        f'<meta http-equiv="Content-Security-Policy" content="{_policy(sheets, code)}">\n'
        '<meta name="viewport" content="width=device-width">\n'
        f"<title>{escape(title)}</title>\n"
        + "".join(f"<style>{sheet}</style>\n" for sheet in sheets)
        + "</head>\n<body>\n"
        + "\n".join(sections)
        + "".join(f"\n<script>{each}</script>" for each in code)
        + "\n</body>\n</html>\n"
    )


def _policy(styles: list[str], scripts: list[str]) -> str:
    """The Content-Security-Policy: no connection, pictures of the page itself, scripts by hash."""
    return "; ".join(
        (
            "default-src 'none'",
            "img-src data: blob:",
            f"style-src {_hashes(styles)}",
            f"script-src {_hashes(scripts)}",
            "base-uri 'none'",
            "form-action 'none'",
        )
    )


def _hashes(texts: list[str]) -> str:
    digests = [hashlib.sha256(text.encode()).digest() for text in texts]
    found = [f"'sha256-{base64.b64encode(digest).decode()}'" for digest in digests]
    return " ".join(found) or "'none'"


def table(
    rows: Iterable[tuple[str, ...]],
    heading: tuple[str, ...] = (),
    style: str = "about",
    caption: str = "",
) -> str:
    """Make a table of texts, see `prose`; the first cell of each row is its heading."""
    head = "".join(f'<th scope="col">{escape(text)}</th>' for text in heading)
    body = [
        f'<tr><th scope="row">{escape(label)}</th>'
        + "".join(f"<td>{prose(cell)}</td>" for cell in cells)
        + "</tr>"
        for label, *cells in rows
    ]
    above = [f"<caption>{escape(caption)}</caption>"] * bool(caption)
    above += [f"<tr>{head}</tr>"] * bool(head)
    return "\n".join((f'<table class="{style}">', *above, *body, "</table>"))


def picture(png: bytes, alternative: str) -> str:
    """Make an image of the content of a PNG file and its description, which is escaped."""
    data = base64.b64encode(png).decode()
    return f'<img alt="{escape(alternative)}" src="data:image/png;base64,{data}">'


def data_block(name: str, value: Any) -> str:
    """Hold a value for scripts, as JSON in an element with an ID."""
    # An end tag in a text would end the element.
    text = json.dumps(value).replace("<", "\\u003c")
    return f'<script type="application/json" id="{name}">{text}</script>'
