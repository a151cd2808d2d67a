"""The overlay as a DICOM secondary capture."""

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from cnnres_infer.core.result import Result
from cnnres_infer.outputs.dicom.concepts import SEGMENTATION
from cnnres_infer.outputs.dicom.objects import Product, finish, identity
from cnnres_infer.outputs.dicom.origin import Origin, digest_of, omission
from cnnres_infer.outputs.dicom.references import segmented_images
from cnnres_infer.outputs.writers.overlay import draw_overlay
from cnnres_infer.readers.dicom.headers import quiet

if TYPE_CHECKING:
    from PIL.Image import Image

__all__ = ["omission", "render"]

_PRODUCT = Product("sc", 9004, "Lesion overlay")
_NOTE = "RESEARCH USE ONLY - not a medical device, not for diagnosis"
_BANNER_HEIGHT = 34
_NOTE_SIZE = 20
_NOTE_COLOUR = (255, 200, 60)


def render(result: Result) -> bytes:
    """Render the overlay, with the note that it is for research use only burnt in."""
    from highdicom.sc import SCImage

    origin = Origin.of(result)
    with quiet():
        dataset = SCImage(
            pixel_array=np.asarray(_picture(origin)),
            photometric_interpretation="RGB",
            bits_allocated=8,
            coordinate_system="PATIENT",
            # Of each tile: the patient's left is on the right, posterior is at the bottom.
            patient_orientation=("L", "P"),
            study_instance_uid=origin.source.study,
            **identity(
                origin,
                _PRODUCT,
                digest_of(result.rejected_mask),
                digest_of(result.brain),
                origin.warnings,
            ),
        )
    del dataset.DateOfSecondaryCapture, dataset.TimeOfSecondaryCapture
    dataset.ConversionType = "WSD"
    dataset.BodyPartExamined, dataset.BurnedInAnnotation = "BRAIN", "YES"
    dataset.DerivationDescription = "Slices with lesions and brain outlined"
    dataset.DerivationCodeSequence = [SEGMENTATION.item()]
    dataset.SourceImageSequence = segmented_images(origin)
    return finish(dataset, origin)


def _picture(origin: Origin) -> "Image":
    """The overlay below a note; it names the series, since a case may be named as its patient."""
    from PIL import Image, ImageDraw, ImageFont

    result = origin.result
    volume = replace(result.volume, name=origin.source.label)
    overlay = draw_overlay(volume, result.mask, origin.warnings, result.rejected_mask, result.brain)
    picture = Image.new("RGB", (overlay.width, overlay.height + _BANNER_HEIGHT))
    picture.paste(overlay, (0, _BANNER_HEIGHT))
    font = ImageFont.load_default(_NOTE_SIZE)
    ImageDraw.Draw(picture).text((6, 4), _NOTE, fill=_NOTE_COLOUR, font=font)
    return picture
