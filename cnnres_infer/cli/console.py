"""Printing to the terminal, and turning errors into one line and an exit status."""

import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from functools import cache
from typing import TYPE_CHECKING, Any, NoReturn, TypeVar

import typer

from cnnres_infer.cli.flags import with_flags
from cnnres_infer.codes import ErrorCode
from cnnres_infer.core.failure import Failure
from cnnres_infer.core.jsonable import dumps

if TYPE_CHECKING:
    from rich.console import Console

T = TypeVar("T")


@cache
def stdout() -> "Console":
    """Console for standard output; Rich is slow to import, and JSON does not need it."""
    from rich.console import Console

    return Console(highlight=False, soft_wrap=True)


@cache
def stderr() -> "Console":
    """Console for standard error."""
    from rich.console import Console

    return Console(stderr=True, highlight=False, soft_wrap=True)


def wide_console() -> "Console":
    """Console for wide tables, which are not truncated to 80 columns in a file or pipe."""
    from rich.console import Console

    return Console(highlight=False, width=None if sys.stdout.isatty() else 200)


def show(
    work: Callable[[], T], render: Callable[[T, "Console"], None], as_json: bool, verbose: bool
) -> NoReturn:
    """Do the work, print the report or the error, and exit."""
    raise typer.Exit(present(attempt(work, verbose), render, as_json))


def attempt(work: Callable[[], T], verbose: bool) -> T | Failure:
    """Do the work, printing any error as one line on standard error and returning it."""
    try:
        return work()
    except Exception as error:
        failure = Failure.of(error, with_flags)
        print_error(failure, verbose)
        return failure


def print_error(failure: Failure, verbose: bool) -> None:
    """Print an error as one line, preceded by its traceback if `verbose`."""
    if verbose:
        stderr().print(failure.traceback, markup=False)
    advice = " (add -v)" if failure.code == ErrorCode.INTERNAL and not verbose else ""
    stderr().print(f"cnnres-infer: {failure.code}: {failure.message}{advice}", markup=False)


def present(outcome: T | Failure, render: Callable[[T, "Console"], None], as_json: bool) -> int:
    """Print a report, or an error too if `as_json`, and return the exit status."""
    failed = isinstance(outcome, Failure)
    if as_json:
        print_json({"status": "failed", "error": outcome} if failed else outcome)
    elif not isinstance(outcome, Failure):
        render(outcome, stdout())
    return outcome.exit_status if isinstance(outcome, Failure) else 0


def print_json(report: Any) -> None:
    """Print a report as JSON."""
    typer.echo(dumps(report))


def progress(entries: Iterable[T], count: int, hidden: bool) -> Iterable[T]:
    """Show a progress bar while iterating, if there are several entries and a terminal."""
    if count == 1 or hidden or not sys.stderr.isatty():
        return entries
    from rich.progress import track

    return track(entries, "segmenting", total=count, console=stderr())


@contextmanager
def phase_bars(hidden: bool) -> Iterator[Callable[[str, int, int], None] | None]:
    """Show a progress bar for each phase of a long task.

    Yields a function that takes a phase, its completed steps and their total,
    or None without a terminal.
    """
    if hidden or not sys.stderr.isatty():
        yield None
        return
    from rich.progress import Progress

    with Progress(console=stderr(), transient=True) as bars:
        tasks: dict[str, Any] = {}

        def show_phase(phase: str, done: int, total: int) -> None:
            if phase not in tasks:
                tasks[phase] = bars.add_task(phase)
            bars.update(tasks[phase], completed=done, total=total, visible=done < total)

        yield show_phase
