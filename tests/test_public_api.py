"""What others rely on changes only on purpose: by the record in `public_api.txt`."""

import inspect
from pathlib import Path

import pytest

import cnnres_infer
from tests.public_api import INTERNAL, names, promises

ROOT = Path(__file__).resolve().parents[1]
RECORD = Path(__file__).with_name("public_api.txt").read_text(encoding="utf-8")
NAMES, PROMISES = (part.splitlines() for part in RECORD.split("\n\n"))
ADVICE = "see docs/stability.md, then: python -m tests.public_api > tests/public_api.txt"


def test_public_names_and_signatures_are_those_on_record() -> None:
    assert names() == NAMES, ADVICE


def test_codes_and_errors_stay() -> None:
    assert set(PROMISES) <= set(promises()), ADVICE


def test_the_record_would_notice_a_change(monkeypatch: pytest.MonkeyPatch) -> None:
    def predict(self: object, source: object, *, flair: object = None) -> None: ...

    monkeypatch.setattr(cnnres_infer.Predictor, "predict", predict)
    assert set(NAMES) - set(names()) == {line for line in NAMES if line.startswith("  predict(")}
    monkeypatch.setattr(cnnres_infer, "__all__", ["Predictor"])
    assert "Case" not in {line.partition("(")[0] for line in names()}


@pytest.mark.parametrize("name", cnnres_infer.__all__)
def test_public_names_are_documented(name: str) -> None:
    item = getattr(cnnres_infer, name)
    if not inspect.isclass(item):
        return
    assert item.__doc__
    page = (ROOT / "docs" / "reference.md").read_text(encoding="utf-8")
    assert f"::: cnnres_infer.{name}\n" in page or f"`{name}`" in page
    for member in vars(item):
        if member in INTERNAL.get(name, ()) or member.startswith("_"):
            continue
        value = inspect.getattr_static(item, member)
        if inspect.isroutine(value) or isinstance(value, (classmethod, property)):
            assert inspect.getdoc(value), f"{name}.{member}"


def test_internal_members_exist() -> None:
    """Otherwise they are listed in vain."""
    for name, members in INTERNAL.items():
        item = getattr(cnnres_infer, name)
        known = {*vars(item), *getattr(item, "__dataclass_fields__", ()), "limits"}
        assert set(members) <= known
