"""The b-value of a frame and what it is an image of, as each vendor codes them."""

import re
from enum import StrEnum

from cnnres_infer.readers.dicom.views import View

# No scanner weights more; vendors mark "no b-value" by huge numbers.
_MAX_B = 50_000.0
# GE adds this to b-values of some releases.
_GE_OFFSET = 1_000_000_000
# GE's (0043,1030): which axis the gradient is along; 16 is a tensor's direction.
_GE_DIRECTIONS, _GE_COMBINED = (3, 4, 5, 16), 15
_PHILIPS_ISOTROPIC = "I"
_CANON_COMMENT = re.compile(r"\bb=(\d+(?:\.\d+)?)\s*(\()?")
# Siemens names its sequences by what they do: "*ep_b1000#3" is a direction, "*ep_b1000t" a trace.
_SIEMENS_NAME = re.compile(r"\*?ep\w*?_b(\d+)(t?)(?:#\d+)?", re.IGNORECASE)
_DIRECTIONAL = ("DIRECTIONAL", "BMATRIX")
_TRACE = {"TRACEW", "TRACE", "ISOTROPIC", "COMBINED_TRACE"}


class Directionality(StrEnum):
    """How a diffusion-weighted frame is weighted."""

    TRACE = "trace"
    DIRECTION = "direction"
    UNKNOWN = "unknown"


def image_type(view: View) -> tuple[str, ...]:
    """Values of the frame's and the file's image type, in capitals."""
    values = "\\".join((view.text("FrameType"), view.text("ImageType"))).upper().split("\\")
    return tuple(word for word in values if word)


def b_value(view: View) -> tuple[float, str] | None:
    """The b-value of a frame in s/mm2, and the attribute that it is from; None if it has none."""
    for source, values in (
        ("(0018,9087)", view.numbers("DiffusionBValue", 1)),
        ("Siemens (0019,100C)", view.private_numbers(0x0019, 0x0C, "SIEMENS MR HEADER")),
        ("GE (0043,1039)", view.private_numbers(0x0043, 0x39, "GEMS_PARM")),
        ("Philips (2001,1003)", view.private_numbers(0x2001, 0x03, "PHILIPS IMAGING", "f4")),
        ("United Imaging (0065,1009)", view.private_numbers(0x0065, 0x09, "", "f8")),
    ):
        if values is not None:
            b = values[0] % _GE_OFFSET if values[0] >= _GE_OFFSET else values[0]
            if 0 <= b <= _MAX_B:
                return b, source
    # Slow to parse, so only where there is reason to.
    if "DIFFUSION" in image_type(view) and (stated := view.csa_numbers("B_value")) is not None:
        return stated[0], "Siemens (0029,1010)"
    if (comment := _CANON_COMMENT.search(view.text("ImageComments"))) is not None:
        return float(comment[1]), "Canon (0020,4000)"
    if (name := _SIEMENS_NAME.search(view.text("SequenceName"))) is not None:
        return float(name[1]), "the sequence name (0018,0024)"
    return None


def directionality(view: View) -> Directionality:
    """Whether a diffusion-weighted frame is a trace image or that of a direction."""
    if _TRACE & set(image_type(view)):
        return Directionality.TRACE
    stated = (
        view.text("DiffusionDirectionality").upper()
        or view.private_text(0x0019, 0x0D, "SIEMENS MR HEADER")
        or ("DIFFUSION" in image_type(view) and view.csa_text("DiffusionDirectionality"))
    )
    if stated == "ISOTROPIC":
        return Directionality.TRACE
    if stated in _DIRECTIONAL:
        return Directionality.DIRECTION
    philips = view.private_text(0x2001, 0x04, "PHILIPS IMAGING")
    if philips:
        isotropic = philips == _PHILIPS_ISOTROPIC
        return Directionality.TRACE if isotropic else Directionality.DIRECTION
    ge = view.private_numbers(0x0043, 0x30, "GEMS_PARM")
    if ge is not None and ge[0] == _GE_COMBINED:
        return Directionality.TRACE
    if ge is not None and ge[0] in _GE_DIRECTIONS:
        return Directionality.DIRECTION
    for vector in (
        view.numbers("DiffusionGradientOrientation", 3),
        view.private_numbers(0x0019, 0x0E, "SIEMENS MR HEADER", "f8", 3),
        view.private_numbers(0x0065, 0x37, "", "f8", 3),
    ):
        if vector is not None and any(vector):
            return Directionality.DIRECTION
    comment = _CANON_COMMENT.search(view.text("ImageComments"))
    if comment is not None and comment[2]:
        return Directionality.DIRECTION
    name = _SIEMENS_NAME.search(view.text("SequenceName"))
    if name is not None and name[2]:
        return Directionality.TRACE
    if name is not None and "#" in name[0]:
        return Directionality.DIRECTION
    return Directionality.UNKNOWN
