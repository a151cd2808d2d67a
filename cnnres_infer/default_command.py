"""Command lines that do their main job without naming it."""

from typing import Any

from typer.core import TyperGroup

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
