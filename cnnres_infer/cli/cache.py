"""``cnnres-infer cache``."""

from enum import StrEnum
from typing import TYPE_CHECKING, Annotated, NoReturn

import typer

from cnnres_infer.cli.console import show
from cnnres_infer.cli.options import BundleOption, JsonOption, VerboseOption
from cnnres_infer.core.text import printable

if TYPE_CHECKING:
    from rich.console import Console

    from cnnres_infer.maintenance.cache import (
        CacheReport,
        ClearedReport,
        FolderSize,
        PathReport,
    )


class CacheAction(StrEnum):
    """Actions on the cache."""

    LIST = "list"
    CLEAR = "clear"
    PATH = "path"


def cache(
    action: Annotated[
        CacheAction, typer.Argument(help="What to do: list, clear or path.")
    ] = CacheAction.LIST,
    bundle: BundleOption = None,
    as_json: JsonOption = False,
    verbose: VerboseOption = False,
) -> NoReturn:
    """List, clear or locate the cache of engines and measurements."""
    from cnnres_infer.maintenance import cache as contents

    if action is CacheAction.CLEAR:
        show(contents.clear, _render_cleared, as_json, verbose)
    if action is CacheAction.PATH:
        show(contents.path, _render_path, as_json, verbose)
    show(lambda: contents.describe(bundle), _render_list, as_json, verbose)


def _render_list(report: "CacheReport", console: "Console") -> None:
    console.print(printable(str(report.folder)), markup=False)
    for plan in report.plans:
        state = f"{plan.state}: {plan.reason}" if plan.reason else plan.state
        console.print(
            printable(
                f"  {plan.path.name}, batch {plan.batch}, {plan.bytes / 1e6:.1f} MB, {state}"
            ),
            markup=False,
        )
    for name, folder in report.folders.items():
        console.print(f"  {name}/: {_size(folder)}", markup=False)


def _render_cleared(report: "ClearedReport", console: "Console") -> None:
    folder = printable(str(report.folder))
    console.print(f"removed {_size(report)} from {folder}", markup=False)


def _render_path(report: "PathReport", console: "Console") -> None:
    console.print(printable(str(report.folder)), markup=False)


def _size(held: "FolderSize | ClearedReport") -> str:
    return f"{held.files} files, {held.bytes / 1e6:.1f} MB"
