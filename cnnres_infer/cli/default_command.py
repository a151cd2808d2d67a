"""Command lines with a default command."""

import sys
from typing import Any

import typer
from typer.core import TyperGroup

from cnnres_infer.cli.flags import with_flags
from cnnres_infer.errors import CnnresError

_GROUP_OPTIONS = ("--help", "-h", "--version")


class DefaultCommandGroup(TyperGroup):
    """A group that passes arguments to its first command if they do not name one."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        default = next(iter(self.commands))
        if args and args[0] not in self.commands and args[0] not in _GROUP_OPTIONS:
            args = [default, *args]
        return super().parse_args(ctx, args)

    def list_commands(self, ctx: Any) -> list[str]:
        return list(self.commands)


def run_tool(app: typer.Typer, name: str) -> None:
    """Run a module's command line, turning a `CnnresError` into one line and its exit status."""
    try:
        app(prog_name=f"python -m {name}")
    except CnnresError as error:
        typer.echo(f"{name}: {with_flags(str(error))}", err=True)
        sys.exit(error.exit_status)
