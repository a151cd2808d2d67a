"""Whatever is flipped in a file, it is read or refused, and never an internal error."""

import tempfile
import warnings
from contextlib import suppress
from pathlib import Path

from hypothesis import given, settings
from hypothesis import strategies as st

from cnnres_infer.errors import CnnresError
from cnnres_infer.limits import Limits
from cnnres_infer.readers import load_case
from cnnres_infer.readers.dicom.inspect import inspect
from tests.fakes.dicom import classic_images, encode, enhanced_image, mosaic_images, siemens
from tests.readers.dicom.scans import ADC, B0, TRACE

LIMITS = Limits(max_voxels=1 << 20, max_bytes=1 << 24)
SOUND = {
    "classic": [encode(image) for image in classic_images([B0, TRACE], siemens)],
    "enhanced": [encode(enhanced_image([B0, TRACE, ADC]))],
    "mosaic": [encode(image) for image in mosaic_images([TRACE], maker="united")],
}


@settings(max_examples=150)
@given(
    layout=st.sampled_from(sorted(SOUND)),
    places=st.lists(st.tuples(st.floats(0, 1), st.integers(0, 255)), min_size=1, max_size=6),
    kept=st.floats(0, 1),
    cut=st.booleans(),
    first=st.booleans(),
)
def test_damaged_bytes(
    layout: str, places: list[tuple[float, int]], kept: float, cut: bool, first: bool
) -> None:
    files = list(SOUND[layout])
    damaged = bytearray(files[0])
    # The headers are at the start, and damage to pixels goes unnoticed.
    reach = len(damaged) if first else min(len(damaged), 1800)
    for place, value in places:
        damaged[int(place * (reach - 1))] = value
    files[0] = bytes(damaged[: int(kept * len(damaged))] if cut else damaged)
    with tempfile.TemporaryDirectory() as name:
        for number, content in enumerate(files):
            Path(name, str(number)).write_bytes(content)
        for work in (inspect, load_case):
            with suppress(CnnresError):
                work(Path(name), limits=LIMITS)


def test_no_value_of_a_header_is_warned_about(tmp_path: Path) -> None:
    for number, image in enumerate(classic_images([B0, TRACE], siemens)):
        content = encode(image).replace(b"20260101", b"Smith^Jo")
        (tmp_path / str(number)).write_bytes(content)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        load_case(tmp_path)
    assert not [str(each.message) for each in caught]
