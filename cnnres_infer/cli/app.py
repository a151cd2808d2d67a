"""The command line: its commands and entry point."""

import os
import sys
from contextlib import suppress
from importlib import import_module
from typing import Annotated

import typer

from cnnres_infer import __version__
from cnnres_infer.cli.console import prepare_streams, print_error, print_warnings
from cnnres_infer.cli.default_command import DefaultCommandGroup
from cnnres_infer.cli.flags import with_flags
from cnnres_infer.cli.signals import end_on_sigterm
from cnnres_infer.core.failure import Failure
from cnnres_infer.errors import InputError

# Made beforehand, for when there is no memory left to word it.
_NO_MEMORY = b"cnnres-infer: E-SYSTEM: not enough memory; raise its limit, or free some\n"

# In the order of the help. Each command is a function in a module of the same name, unless that
# would be this one; the first one is the default.
COMMANDS = (
    "predict",
    "cohort",
    "demo",
    "verify",
    "inspect",
    "watch",
    "listen",
    "app",
    "status",
    "info",
    "doctor",
    "build",
    "cache",
)

_MODULES = {"app": "container"}

app = typer.Typer(
    cls=DefaultCommandGroup,
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="markdown",
    context_settings={"help_option_names": ["-h", "--help"]},
    help="Segment acute stroke lesions on DWI and FLAIR MRI with CNN-Res.\n\n"
    "`cnnres-infer VOLUME` is short for `cnnres-infer predict VOLUME`.\n\n"
    "Research use only; not a medical device.",
    epilog="Exit status: 0 success, 1 internal error, 2 usage, 3 input or output refused, "
    "4 verification failed, 5 backend not usable.",
)
for _name in COMMANDS:
    _module = _MODULES.get(_name, _name)
    app.command(_name)(getattr(import_module(f"cnnres_infer.cli.{_module}"), _module))


def run() -> None:
    """Run the command line; the entry point of ``cnnres-infer``."""
    prepare_streams()
    print_warnings()
    end_on_sigterm()
    try:
        app(prog_name="cnnres-infer")
    except Exception as error:
        # Whatever fails beside the work of a command, such as loading what prints its report.
        sys.exit(_report(error))


def _report(error: Exception) -> int:
    """Print an error and return the exit status, even if hardly any memory is left."""
    try:
        failure = Failure.of(error, with_flags)
        print_error(failure, verbose=not {"-v", "--verbose"}.isdisjoint(sys.argv))
    except MemoryError:
        with suppress(OSError):
            os.write(2, _NO_MEMORY)
        return InputError.exit_status
    return failure.exit_status


def _show_version(wanted: bool) -> None:
    if wanted:
        typer.echo(__version__)
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool,
        typer.Option(
            "--version", callback=_show_version, is_eager=True, help="Print the version and exit."
        ),
    ] = False,
) -> None: ...
