"""The classes of objects that the listener takes.

Those with images of the brain, and all that scanners send along with them: a
sender whose object is declined may give up the rest of the study. PS3.4, B.5;
PS3.6, annex A.
"""

_STORAGE = "1.2.840.10008.5.1.4.1.1"

MR = tuple(f"{_STORAGE}.{each}" for each in ("4", "4.1", "4.2", "4.3", "4.4"))
SECONDARY_CAPTURE = tuple(f"{_STORAGE}.7{each}" for each in ("", ".1", ".2", ".3", ".4"))
STRUCTURED_REPORTS = tuple(
    f"{_STORAGE}.88.{each}"
    for each in (11, 22, 33, 34, 35, 40, 50, 59, 65, 67, 68, 69, 70, 71, 72, 73, 74, 75, 76, 77)
)
PRESENTATION_STATES = tuple(f"{_STORAGE}.11.{each}" for each in range(1, 13))
# Raw data, registrations, fiducials, segmentations, parametric maps, documents.
OTHERS = tuple(
    f"{_STORAGE}.{each}"
    for each in (
        *("66", "66.1", "66.2", "66.3", "66.4", "66.5", "66.6", "66.7"),
        *("30", "67", "104.1", "104.2"),
    )
)
# What Siemens calls a CSA non-image, and Philips a private MR spectrum, series data and others.
PRIVATE = (
    "1.3.12.2.1107.5.9.1",
    *(f"1.3.46.670589.11.0.0.12.{each}" for each in (1, 2, 4)),
    "1.3.46.670589.5.0.8",
    "1.3.46.670589.5.0.10",
)
STORED = (*MR, *SECONDARY_CAPTURE, *STRUCTURED_REPORTS, *PRESENTATION_STATES, *OTHERS, *PRIVATE)
