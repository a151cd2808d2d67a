from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cnnres_infer.core.text import printable, without_folder


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("Größe 1 – 脳", "Größe 1 – 脳"),
        ("\x1b[31mred", "\\x1b[31mred"),
        ("a\nE-OK: b", "a\\nE-OK: b"),
        ("\x9b1m", "\\x9b1m"),
        ("\u202egpj", "\\u202egpj"),
        ("M\udcfcller", "M\\udcfcller"),
        ("a\0b\tc\u2028", "a\\x00b\\tc\\u2028"),
    ],
)
def test_what_acts_is_shown(text: str, shown: str) -> None:
    assert printable(text) == shown


@given(st.text())
def test_all_of_it_can_be_printed(text: str) -> None:
    assert printable(text).isprintable()
    printable(text).encode()


@pytest.mark.parametrize(
    ("path", "shown"),
    [
        ("/data/smith/study", "study/IM1.dcm: damaged; study: no images"),
        ("smith/study", "study/IM1.dcm: damaged; study: no images"),
        ("study", "study/IM1.dcm: damaged; study: no images"),
    ],
)
def test_a_message_loses_the_folder_and_keeps_names(path: str, shown: str) -> None:
    text = f"{path}/IM1.dcm: damaged; {path}: no images"
    assert without_folder(text, Path(path)) == shown
