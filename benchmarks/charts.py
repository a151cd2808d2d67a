"""Bar charts as PNG, drawn with Pillow, which the package needs anyway."""

import io
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

from cnnres_infer.host.atomic import write_all

_ROW, _LABEL, _BAR, _VALUE, _PAD = 30, 380, 460, 110, 20


def bar_chart(path: Path, title: str, bars: dict[str, float], unit: str) -> None:
    """Draw horizontal bars that start at zero, with their names and values.

    Parameters
    ----------
    bars
        Value of each bar, in `unit`; those whose name starts with ``ours`` are
        highlighted.
    """
    width = _LABEL + _BAR + _VALUE + 2 * _PAD
    image = Image.new("RGB", (width, (len(bars) + 1) * _ROW + 2 * _PAD), "white")
    draw = ImageDraw.Draw(image)
    font = ImageFont.load_default(16)
    draw.text((_PAD, _PAD), title, "black", font)
    longest = max(bars.values())
    for row, (name, value) in enumerate(bars.items(), start=1):
        top = _PAD + row * _ROW
        start = _PAD + _LABEL
        end = start + max(1, round(_BAR * value / longest))
        draw.text((start - 10, top + _ROW / 2), name, "black", font, anchor="rm")
        colour = "#2a7f62" if name.startswith("ours") else "#9aa5b1"
        draw.rectangle((start, top + 4, end, top + _ROW - 4), fill=colour)
        draw.text((end + 8, top + _ROW / 2), f"{value:.3g} {unit}", "black", font, anchor="lm")
    picture = io.BytesIO()
    image.save(picture, format="PNG", optimize=True)
    write_all({path: picture.getvalue()}, overwrite=True)
