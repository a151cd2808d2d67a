"""Printing to the terminal, and turning errors into one line and an exit status."""

import io
import logging
import os
import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from functools import cache
from typing import TYPE_CHECKING, Any, NoReturn, TypeVar

import typer

from cnnres_infer.cli.flags import with_flags
from cnnres_infer.codes import ErrorCode
from cnnres_infer.core.failure import Failure
from cnnres_infer.core.jsonable import dumps
from cnnres_infer.core.text import printable
from cnnres_infer.errors import OutputError

if TYPE_CHECKING:
    from rich.console import Console

T = TypeVar("T")

# Why standard output was lost, if it was.
_lost: list[str] = []


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
        for line in failure.traceback.splitlines():
            warn(line)
    advice = " (add -v)" if failure.code == ErrorCode.INTERNAL and not verbose else ""
    warn(f"cnnres-infer: {failure.code}: {failure.message}{advice}")


def warn(line: str) -> None:
    """Print a line on standard error, with everything escaped that a terminal would obey."""
    with suppress(OSError, ValueError):
        typer.echo(printable(line), err=True)


class _Warnings(logging.Handler):
    """Prints what the log says of engines and of a service; everything else is said by reports."""

    def emit(self, record: logging.LogRecord) -> None:
        warn(f"cnnres-infer: {record.getMessage()}")


def print_warnings() -> None:
    """Print warnings, such as that an engine takes minutes to be built or a case is stuck."""
    for name in ("cnnres_infer.engines", "cnnres_infer.service"):
        logging.getLogger(name).addHandler(_Warnings(logging.WARNING))


def present(outcome: T | Failure, render: Callable[[T, "Console"], None], as_json: bool) -> int:
    """Print a report, or an error too if `as_json`, and return the exit status."""
    failed = isinstance(outcome, Failure)
    if as_json:
        print_json({"status": "failed", "error": outcome} if failed else outcome)
    elif not isinstance(outcome, Failure):
        with printing():
            render(outcome, stdout())
    return exit_status(outcome if isinstance(outcome, Failure) else None)


def print_json(report: Any) -> None:
    """Print a report as JSON."""
    with printing():
        typer.echo(dumps(report))


@contextmanager
def printing() -> Iterator[None]:
    """Print on standard output; once it is full or closed, nothing more is printed there.

    What else is to be done goes on, and `exit_status` tells that output was lost.
    """
    try:
        yield
        if sys.stdout is not None:
            sys.stdout.flush()
    except OSError as error:
        # What is buffered would fail again when the interpreter ends.
        nowhere = os.open(os.devnull, os.O_WRONLY)
        with suppress(OSError, ValueError):
            os.dup2(nowhere, sys.stdout.fileno())
        os.close(nowhere)
        if not _lost:
            _lost.append(f"standard output cannot be written ({error.strerror or error})")
            warn(f"cnnres-infer: {ErrorCode.OUTPUT_WRITE}: {_lost[0]}")


def exit_status(failure: Failure | None) -> int:
    """Exit status of a command that has failed so, or of one that has lost output."""
    if failure is not None:
        return failure.exit_status
    return OutputError.exit_status if _lost else 0


def prepare_streams() -> None:
    """Make sure that there are three standard streams, and that they can print any text."""
    for number, name in enumerate(("stdin", "stdout", "stderr")):
        try:
            os.fstat(number)
        except OSError:
            # Otherwise, the next file to be opened would take its place.
            if os.open(os.devnull, os.O_RDWR) != number:
                continue
            if number:
                setattr(sys, name, os.fdopen(number, "w"))
        if isinstance(stream := getattr(sys, name), io.TextIOWrapper) and number:
            stream.reconfigure(errors="backslashreplace")


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
