"""The codes of DICOM outputs."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pydicom.dataset import Dataset

# Designator of the codes that no standard has.
OWN_SCHEME = "99CNNRES"


@dataclass(frozen=True)
class Concept:
    """A code; see PS3.3, section 8.

    Attributes
    ----------
    value, scheme, meaning
        The code, the designator of its scheme, and what it stands for.
    """

    value: str
    scheme: str
    meaning: str

    def item(self) -> "Dataset":
        """It as an item of a code sequence."""
        from pydicom.dataset import Dataset

        item = Dataset()
        item.CodeValue, item.CodingSchemeDesignator = self.value, self.scheme
        item.CodeMeaning = self.meaning
        return item

    def coded(self) -> Any:
        """It as highdicom takes it."""
        from highdicom.sr import CodedConcept

        return CodedConcept(self.value, self.scheme, self.meaning)


BRAIN = Concept("12738006", "SCT", "Brain")
ABNORMAL = Concept("49755003", "SCT", "Morphologically Abnormal Structure")
INFARCT = Concept("55641003", "SCT", "Infarct")
# Of what is rejected, and of a FLAIR alone, in which infarcts cannot be told from other lesions.
LESION = Concept("301766008", "SCT", "Lesion of Brain")
MRI_OF_BRAIN = Concept("816077007", "SCT", "Magnetic resonance imaging of brain")

ARTIFICIAL_INTELLIGENCE = Concept("123110", "DCM", "Artificial Intelligence")
ACQUISITION = Concept("109101", "DCM", "Acquisition Equipment")
PROCESSING = Concept("109102", "DCM", "Processing Equipment")
SEGMENTATION = Concept("113076", "DCM", "Segmentation")
SOURCE_IMAGE = Concept("121322", "DCM", "Source image for image processing operation")

COMMENT = Concept("121106", "DCM", "Comment")
CENTRE_OF_MASS = Concept("128138", "DCM", "Center of Mass")
VOLUME = Concept("118565006", "SCT", "Volume")
COUNT = Concept("246206008", "SCT", "Number of lesions")
ADC = Concept("113041", "DCM", "Apparent Diffusion Coefficient")
MEDIAN = Concept("373099004", "SCT", "Median")

MILLILITRE = Concept("ml", "UCUM", "milliliter")
MM2_PER_S = Concept("mm2/s", "UCUM", "square millimeter per second")
NO_UNIT = Concept("1", "UCUM", "no units")

RELATIVE_ADC = Concept("RELATIVE-ADC", OWN_SCHEME, "ADC relative to that of the brain")
RESTRICTED_SHARE = Concept(
    "RESTRICTED-SHARE", OWN_SCHEME, "Share of voxels that restrict diffusion"
)
STATUS = Concept("STATUS", OWN_SCHEME, "Result")
NO_LESION = Concept("NO-LESION", OWN_SCHEME, "No lesion was found")
FOUND = Concept("FOUND", OWN_SCHEME, "Lesions were found")
REJECTED = Concept("REJECTED", OWN_SCHEME, "Rejected: diffusion is not restricted")
ACCEPTED = Concept("ACCEPTED", OWN_SCHEME, "In the segmentation")
PARITY = Concept("PARITY", OWN_SCHEME, "Agreement with PyTorch")
PASSED = Concept("PASSED", OWN_SCHEME, "Passed")
FAILED = Concept("FAILED", OWN_SCHEME, "Failed")
UNCHECKED = Concept("UNCHECKED", OWN_SCHEME, "Not checked")
SLICES = Concept("PARITY-SLICES", OWN_SCHEME, "Slices compared with PyTorch")
DICE_MEAN = Concept("DICE-MEAN", OWN_SCHEME, "Mean Dice with PyTorch")
DICE_MIN = Concept("DICE-MIN", OWN_SCHEME, "Smallest Dice with PyTorch")
DICE_POOLED = Concept("DICE-POOLED", OWN_SCHEME, "Pooled Dice with PyTorch")
DIFFERENCE = Concept("PROB-DIFFERENCE", OWN_SCHEME, "Largest difference of probability")
