"""The library names arguments, the command line names flags, and all of them exist."""

import ast
import re
from collections.abc import Iterator
from inspect import signature
from pathlib import Path

import pytest
import typer

from cnnres_infer import Predictor, Result
from cnnres_infer.cli.app import COMMANDS, app
from cnnres_infer.cli.flags import FLAGS, with_flags
from cnnres_infer.cohort.local import run_local
from cnnres_infer.cohort.plan import Plan, share_of
from cnnres_infer.cohort.settings import Settings as CohortSettings
from cnnres_infer.limits import Limits
from cnnres_infer.maintenance.build import build_plans
from cnnres_infer.service.build import Settings
from cnnres_infer.service.receiver import Listening
from cnnres_infer.verification.reference import load_case

PACKAGE = Path(__file__).resolve().parents[2] / "cnnres_infer"
LIBRARY = [
    path for path in sorted(PACKAGE.rglob("*.py")) if path.relative_to(PACKAGE).parts[0] != "cli"
]
# A flag belongs to the command that it follows, as in "cnnres-infer verify --backend ort".
COMMAND_TO_RUN = re.compile(r"(?:cnnres-infer|python -m|pip|docker run) [^;,)]*")
FLAG = re.compile(r"--[a-z]")
NAMED = re.compile(r"`(\w+)(?:=[^`]*)?`")
ARGUMENTS = {
    name
    for function in (
        Predictor.load,
        Predictor.predict,
        Result.save,
        Limits,
        build_plans,
        load_case,
        Listening,
        Settings,
        CohortSettings,
        Plan.make,
        run_local,
        share_of,
    )
    for name in signature(function).parameters
}


def texts(path: Path) -> Iterator[tuple[str, bool]]:
    """Every string of a module, with {} for fields, and whether it is a docstring."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    docstrings, parts = set(), set()
    for node in ast.walk(tree):
        body = getattr(node, "body", None)
        if isinstance(body, list) and body and isinstance(body[0], ast.Expr):
            docstrings.add(body[0].value)
        if isinstance(node, ast.JoinedStr):
            parts |= set(node.values)
            values = (getattr(value, "value", "{}") for value in node.values)
            yield "".join(value if isinstance(value, str) else "{}" for value in values), False
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and node not in parts:
            yield node.value, node in docstrings


@pytest.mark.parametrize("path", LIBRARY, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_the_library_knows_no_flag_but_those_of_commands_to_run(path: Path) -> None:
    for text, _ in texts(path):
        assert not FLAG.search(COMMAND_TO_RUN.sub("", text)), text


@pytest.mark.parametrize("path", LIBRARY, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_the_command_line_has_a_flag_for_every_argument_that_is_named(path: Path) -> None:
    for text, is_docstring in texts(path):
        if not is_docstring:
            assert set(NAMED.findall(text)) <= set(FLAGS), text


def test_the_rule_would_be_broken_by_a_flag() -> None:
    for text in ("use --backend ort", "run cnnres-infer info, or use --backend ort"):
        assert FLAG.search(COMMAND_TO_RUN.sub("", text))
    assert not FLAG.search(COMMAND_TO_RUN.sub("", "run cnnres-infer verify --backend ort"))


def test_every_flag_exists() -> None:
    group = typer.main.get_command(app)
    commands = group.commands.values()  # type: ignore[attr-defined]
    parameters = [each for command in commands for each in command.params]
    known = {name for each in parameters for name in (*each.opts, each.name.upper())}
    assert set(FLAGS.values()) <= known


def test_every_argument_exists() -> None:
    assert set(FLAGS) <= ARGUMENTS


def test_every_command_has_a_module() -> None:
    group = typer.main.get_command(app)
    assert list(group.commands) == list(COMMANDS)  # type: ignore[attr-defined]
    helpers = {"__init__", "app", "console", "default_command", "flags", "options", "signals"}
    helpers |= {"container", "serving", "watchdog"}
    assert {path.stem for path in (PACKAGE / "cli").glob("*.py")} == {*COMMANDS, *helpers}


@pytest.mark.parametrize(
    ("message", "printed"),
    [
        ("raise `max_memory`", "raise --max-memory"),
        ("more than `max_voxels=100`: no", "more than --max-voxels 100: no"),
        ("add `overwrite=True`", "add --overwrite"),
        (
            'use `backend="ort"`, or another `precision`',
            "use --backend ort, or another --precision",
        ),
        ("`flair` and `brain_mask`", "--flair and --brain-mask"),
        ("give `volume` and `reference`", "give VOLUME and --reference"),
        ("`nothing` that is `known=1`, flair", "`nothing` that is `known=1`, flair"),
    ],
)
def test_a_message_on_the_command_line(message: str, printed: str) -> None:
    assert with_flags(message) == printed
