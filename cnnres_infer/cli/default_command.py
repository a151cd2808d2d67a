"""Command lines with a default command."""

import sys
from difflib import get_close_matches
from pathlib import Path
from typing import Any

import typer
from typer.core import TyperGroup

from cnnres_infer.cli.flags import with_flags
from cnnres_infer.errors import CnnresError

_GROUP_OPTIONS = ("--help", "-h", "--version")
# How alike a word and a command must be for the word to be a misspelling.
_ALIKE = 0.75


class DefaultCommandGroup(TyperGroup):
    """A group that passes arguments to its first command if they do not name one."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        default = next(iter(self.commands))
        if args and args[0] not in self.commands and args[0] not in _GROUP_OPTIONS:
            self._refuse_misspelling(ctx, args[0])
            args = [default, *args]
        return super().parse_args(ctx, args)

    def _refuse_misspelling(self, ctx: Any, word: str) -> None:
        similar = get_close_matches(word, self.commands, n=1, cutoff=_ALIKE)
        if similar and not Path(word).exists():
            ctx.fail(f"No such command or file: {word} (did you mean {similar[0]}?)")

    def list_commands(self, ctx: Any) -> list[str]:
        return list(self.commands)


def run_tool(app: typer.Typer, name: str) -> None:
    """Run a module's command line, turning a `CnnresError` into one line and its exit status."""
    try:
        app(prog_name=f"python -m {name}")
    except CnnresError as error:
        typer.echo(f"{name}: {with_flags(str(error))}", err=True)
        sys.exit(error.exit_status)
