"""What the commands that run a service have in common."""

from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from cnnres_infer.cli.console import attempt, exit_status, print_error
from cnnres_infer.cli.flags import with_flags
from cnnres_infer.core.failure import Failure
from cnnres_infer.core.text import printable
from cnnres_infer.errors import LimitError
from cnnres_infer.limits import DEFAULT_LIMITS, Limits, parse_size

if TYPE_CHECKING:
    from cnnres_infer.predictor import Predictor
    from cnnres_infer.service.build import Running, Settings, Watch

# What to say once it runs, given its port.
Line = Callable[[int | None], str]
# Opens a service, given what loads its model and what watches its cases.
Open = Callable[[Callable[[], "Predictor"], "Watch"], AbstractContextManager["Running"]]


@dataclass(frozen=True)
class Model:
    """Options about the model and what a case may cost."""

    bundle: Path | None
    backend: str
    precision: str
    threads: int | None
    self_check: bool
    strict_backend: bool
    require_signature: Path | None
    max_bytes: str
    max_memory: str | None
    timeout: float | None

    @property
    def limits(self) -> Limits:
        """The limits of each case."""
        memory = None if self.max_memory is None else parse_size(self.max_memory)
        most = parse_size(self.max_bytes)
        return Limits(DEFAULT_LIMITS.max_voxels, most, memory, self.timeout)

    def load(self) -> "Predictor":
        """Load the model."""
        from cnnres_infer.predictor import Predictor

        return Predictor.load(
            self.bundle,
            self.backend,
            self.precision,
            self.threads,
            self_check=self.self_check,
            strict_backend=self.strict_backend,
            limits=self.limits,
            trusted_key=self.require_signature,
        )


def settings_of(
    root: Path,
    out: Path,
    settle: float,
    formats: list[str] | None,
    overwrite: bool = False,
    modality: str = "dwi",
    **others: Any,
) -> "Settings":
    """The settings of a service, given its options."""
    from cnnres_infer.batch import Job
    from cnnres_infer.core.case import Modality
    from cnnres_infer.outputs.writers import DEFAULT_FORMATS
    from cnnres_infer.service.build import Settings

    job = Job(
        out=out,
        modality=Modality.parse(modality).value,
        formats=tuple(formats or DEFAULT_FORMATS),
        overwrite=overwrite,
        wording=with_flags,
    )
    return Settings(root, job, settle, named_formats=bool(formats), **others)


def serve(model: Model, start: Callable[[], tuple[Line, Open]], quiet: bool, verbose: bool) -> None:
    """Run a service until the process is ended, and say where it works once it does."""

    def work() -> None:
        from cnnres_infer.cli.watchdog import Watchdog

        running: list[Running] = []

        def ended(path: Path | None, error: LimitError) -> None:
            print_error(Failure.of(error, with_flags), verbose)
            for each in running:
                each.abandon(path, error)

        watchdog = Watchdog(model.limits, ended)

        def load() -> "Predictor":
            with watchdog.watch():
                return model.load()

        line, opened = start()
        with opened(load, watchdog.watch) as service:
            running.append(service)
            if not quiet:
                typer.echo(printable(line(service.port)))
            service.service.run()

    raise typer.Exit(exit_status(attempt(work, verbose)))
