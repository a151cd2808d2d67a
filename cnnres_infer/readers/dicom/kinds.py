"""What a frame shows, as far as it can be told without the others of its series."""

import re
from enum import StrEnum

from cnnres_infer.readers.dicom.vendors import image_type
from cnnres_infer.readers.dicom.views import View

CLASSIC_MR = "1.2.840.10008.5.1.4.1.1.4"
ENHANCED_MR = ("1.2.840.10008.5.1.4.1.1.4.1", "1.2.840.10008.5.1.4.1.1.4.4")
_ADC_CODE = "113041"
_ADC_NAME = re.compile(r"adc\b|adc_|apparent diffusion|average dc\b", re.IGNORECASE)
_OTHER_NAME = re.compile(
    r"\bfa\b|fractional|exponential|\beadc\b|\bexp\b|colou?r|tensor|\bmpr\b|\bmip\b", re.IGNORECASE
)
_FLAIR_NAME = re.compile(r"flair|dark.?fluid|tirm_tra_dark", re.IGNORECASE)
_LOCALIZER_NAME = re.compile(r"locali[sz]er|\bscout\b|survey|\baahead", re.IGNORECASE)
_PARTS = {"P", "PHASE", "PHASE MAP", "R", "REAL", "I", "IMAGINARY", "VELOCITY"}
_GE_PARTS = {1.0, 2.0, 3.0}
_MAPS = {
    *("FA", "TENSOR", "TENSOR_B0", "EXP", "EADC", "CALC_BVALUE", "DIFFUSION_ANISO", "FRACTIONAL"),
    *("MPR", "CSA MPR", "MIP", "MAX_IP", "MIN_IP", "MNIP", "PROJECTION IMAGE", "REFORMATTED"),
    *("CBF", "CBV", "MTT", "TTP", "TMAX", "PBP", "RCBF", "RCBV", "SUBTRACT", "SUBTRACTION"),
    *("T1 MAP", "T2 MAP", "T2_STAR MAP", "B0 MAP", "SWI", "PERFUSION_ASL"),
}
# In ms: the inversion that nulls cerebrospinal fluid, and the weighting of FLAIR.
_FLAIR_TI, _FLAIR_TE, _FLAIR_TR = (1500.0, 3500.0), 60.0, 4000.0


class Kind(StrEnum):
    """What a frame shows, as far as it can be told without the others."""

    IMAGE = "image"
    FLAIR = "FLAIR"
    ADC = "ADC"
    SKIPPED = "skipped"


def no_image(view: View) -> str:
    """Why a file is no grey image of MRI; empty if it is one."""
    modality, photometric = view.text("Modality"), view.text("PhotometricInterpretation")
    sop_class = view.text("SOPClassUID")
    if sop_class not in (CLASSIC_MR, *ENHANCED_MR):
        from pydicom.uid import UID

        return UID(sop_class).name if sop_class else "no SOP class"
    if modality and modality != "MR":
        return f"modality {modality}"
    if view.number("SamplesPerPixel") not in (None, 1) or photometric not in ("", "MONOCHROME2"):
        return f"colours or inverted grey ({photometric})"
    return ""


def kind_of(view: View, name: str) -> tuple[Kind, str]:
    """What a frame of a series of some name shows, b-values apart, and by what that was told."""
    types = image_type(view)
    words = set(types)
    derived = "DERIVED" in words
    code = _quantity(view)
    part = view.text("ComplexImageComponent").upper()
    ge_part = view.private_numbers(0x0043, 0x2F, "GEMS_PARM")
    if words & {"LOCALIZER", "SCOUT"} or _LOCALIZER_NAME.search(name):
        return Kind.SKIPPED, "localizer"
    if part in ("PHASE", "REAL", "IMAGINARY") or set(types[2:]) & _PARTS:
        return Kind.SKIPPED, f"{part.lower() or 'phase or complex part'}, not magnitude"
    if ge_part is not None and ge_part[0] in _GE_PARTS:
        return Kind.SKIPPED, "phase or complex part, not magnitude"
    if "ADC" in words or any(word.startswith("ADC_") for word in words):
        return Kind.ADC, "ImageType"
    if code:
        return (Kind.ADC if code == _ADC_CODE else Kind.SKIPPED), "RealWorldValueMappingSequence"
    if maps := words & _MAPS:
        return Kind.SKIPPED, f"derived ({', '.join(sorted(maps))})"
    coded = bool(words & {"DIFFUSION", "TRACEW", "TRACE"})
    if derived and not coded and _OTHER_NAME.search(name):
        return Kind.SKIPPED, f"derived ({name})"
    if derived and not coded and _ADC_NAME.search(name):
        return Kind.ADC, "series description"
    if reason := _flair(view, words, name):
        return Kind.FLAIR, reason
    if is_of_diffusion(view):
        return Kind.IMAGE, "diffusion, without b-value"
    return Kind.IMAGE, "other contrast"


def is_of_diffusion(view: View) -> bool:
    """Whether a frame says that it was acquired to show diffusion, weighted or not.

    A b-value of zero says less: some scanners write it into all their images.
    """
    contrast = view.text("AcquisitionContrast").upper()
    return "DIFFUSION" in image_type(view) or contrast == "DIFFUSION"


def _quantity(view: View) -> str:
    """Code of the quantity that the pixels stand for; empty if they are intensities."""
    mapping = view.get("QuantityDefinitionSequence")
    for item in mapping or ():
        codes = item.get("ConceptCodeSequence") or ()
        for code in codes:
            if code.get("CodeValue") == _ADC_CODE:
                return _ADC_CODE
    return ""


def _flair(view: View, words: set[str], name: str) -> str:
    """By what a FLAIR was recognised; empty if it is none."""
    if "FLUID_ATTENUATED" in {*words, view.text("AcquisitionContrast").upper()}:
        return "AcquisitionContrast"
    inversion, echo = view.number("InversionTime"), view.number("EchoTime")
    echo = view.number("EffectiveEchoTime") if echo is None else echo
    inversion = _first(view, "InversionTimes") if inversion is None else inversion
    repetition = view.number("RepetitionTime")
    lowest, highest = _FLAIR_TI
    if (
        inversion is not None
        and lowest <= inversion <= highest
        and (echo or 0) >= _FLAIR_TE
        and (repetition or 0) >= _FLAIR_TR
    ):
        return f"inversion time {inversion:g} ms, echo time {echo:g} ms"
    names = (
        name,
        view.text("ProtocolName"),
        view.text("SequenceName"),
        view.text("PulseSequenceName"),
    )
    if any(_FLAIR_NAME.search(each) for each in names):
        return "sequence name"
    return ""


def _first(view: View, keyword: str) -> float | None:
    value = view.get(keyword)
    try:
        return float(value[0] if hasattr(value, "__len__") else value)
    except (TypeError, ValueError):
        return None
