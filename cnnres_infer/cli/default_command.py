"""Command lines that do their main job without naming it."""

import sys
from typing import Any

import typer
from typer.core import TyperGroup

from cnnres_infer.cli.flags import with_flags
from cnnres_infer.errors import CnnresError

_GROUP_OPTIONS = ("--help", "-h", "--version")


class DefaultCommandGroup(TyperGroup):
    """Takes arguments that begin with no command as those of the first command."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        default = next(iter(self.commands))
        if args and args[0] not in self.commands and args[0] not in _GROUP_OPTIONS:
            args = [default, *args]
        return super().parse_args(ctx, args)

    def list_commands(self, ctx: Any) -> list[str]:
        return list(self.commands)


def run_tool(app: typer.Typer, name: str) -> None:
    """Run a module's command line: an error of ours is one line and its exit status."""
    try:
        app(prog_name=f"python -m {name}")
    except CnnresError as error:
        typer.echo(f"{name}: {with_flags(str(error))}", err=True)
        sys.exit(error.exit_status)
