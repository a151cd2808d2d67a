"""Every code is used, tested and documented in docs/errors.md."""

import re
from pathlib import Path

import pytest

from cnnres_infer.codes import ErrorCode, WarningCode
from cnnres_infer.errors import CnnresError
from tests.conftest import BundleMaker
from tests.faults.files import REFUSED, WARNED
from tests.faults.situations import ELSEWHERE, NOTED, RAISED, Scene

ROOT = Path(__file__).resolve().parents[2]
PAGE = (ROOT / "docs" / "errors.md").read_text(encoding="utf-8")
MEMBER = re.compile(r"(?:Error|Warning)Code\.[A-Z][A-Z_]+\b")


@pytest.fixture
def scene(tmp_path: Path, make_bundle: BundleMaker) -> Scene:
    return Scene(tmp_path, make_bundle)


@pytest.mark.parametrize("code", RAISED)
def test_raised(scene: Scene, code: str) -> None:
    with pytest.raises(CnnresError) as caught:
        RAISED[code](scene)
    assert caught.value.code == code, caught.value


@pytest.mark.parametrize("code", NOTED)
def test_noted(scene: Scene, code: str) -> None:
    assert code in [notice.code for notice in NOTED[code](scene).warnings]


@pytest.mark.parametrize("code", ELSEWHERE)
def test_tested_elsewhere(code: str) -> None:
    assert f'"{code}"' in (ROOT / ELSEWHERE[code]).read_text(encoding="utf-8")


def test_every_code_has_a_test() -> None:
    tested = {*REFUSED, *RAISED, *WARNED, *NOTED, *ELSEWHERE}
    assert tested == {*ErrorCode, *WarningCode}


@pytest.mark.parametrize("code", [*ErrorCode, *WarningCode])
def test_every_code_is_documented(code: str) -> None:
    (row,) = [line for line in PAGE.splitlines() if line.startswith(f"| `{code}` |")]
    _, _, cause, remedy, tested, _ = (cell.strip() for cell in row.split("|"))
    assert cause
    assert remedy
    assert (ROOT / tested.strip("`")).is_file()


def test_no_other_code_is_documented() -> None:
    assert set(re.findall(r"^\| `([EW]-[A-Z-]+)`", PAGE, re.MULTILINE)) == set(ErrorCode) | set(
        WarningCode
    )


def test_every_code_is_used() -> None:
    given = set()
    for path in sorted((ROOT / "cnnres_infer").rglob("*.py")):
        given |= set(MEMBER.findall(path.read_text(encoding="utf-8")))
    assert given == {f"{type(code).__name__}.{code.name}" for code in (*ErrorCode, *WarningCode)}
