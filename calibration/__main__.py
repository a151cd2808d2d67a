"""Command line of the calibration: ``python -m calibration BUNDLE --data FOLDER``."""

from pathlib import Path
from typing import Annotated

import typer
from rich.table import Table

from calibration.calibrate import Calibration, Outcome, calibrate
from calibration.plan import INT8_TRT, SCHEMES, WeightScales
from calibration.trials import Trial
from cnnres_infer.cli.console import wide_console
from cnnres_infer.cli.default_command import DefaultCommandGroup, run_tool
from cnnres_infer.core.precision import Precision
from cnnres_infer.errors import VerificationError
from cnnres_infer.verification.agreement import GATES

app = typer.Typer(cls=DefaultCommandGroup, no_args_is_help=True, add_completion=False, help=__doc__)
_console = wide_console()


@app.callback()
def _options() -> None: ...


@app.command("calibrate")
def calibrate_command(
    bundle: Annotated[Path, typer.Argument(help="Bundle to add INT8 variants to.")],
    data: Annotated[
        Path, typer.Option(help="Folder of NIfTI volumes, or of the training collections.")
    ],
    slices: Annotated[int, typer.Option(min=8, help="Number of calibration slices.")] = 64,
    seed: Annotated[
        int, typer.Option(help="Seed of the split, the selection and the estimate.")
    ] = 0,
    variant: Annotated[
        list[str], typer.Option(help=f"Variants to make: {', '.join(SCHEMES)}.")
    ] = list(SCHEMES),  # noqa: B006
    weight_scales: Annotated[
        WeightScales, typer.Option(help="How int8-trt stores the scales of weights.")
    ] = INT8_TRT.weight_scales,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Overwrite existing INT8 variants.")
    ] = False,
) -> None:
    """Make INT8 variants that pass the accuracy gate, and check the float16 one."""
    calibration = Calibration(slices, seed, tuple(variant), weight_scales)
    outcomes = calibrate(bundle, data, calibration, overwrite, _print_trial)
    _console.print(_table([trial for outcome in outcomes for trial in outcome.trials]))
    for outcome in outcomes:
        _print_outcome(outcome)
    if any(outcome.misses for outcome in outcomes):
        raise typer.Exit(VerificationError.exit_status)


def _print_trial(trial: Trial) -> None:
    _console.print(
        f"{trial.candidate.plan.scheme.variant}: {trial.candidate.name}: "
        f"{trial.candidate.share_in_int8:.1%} of multiply-adds in 8 bits, "
        f"{'; '.join(trial.misses(GATES[Precision.INT8])) or 'passed'}",
        style="dim",
    )


def _table(trials: list[Trial]) -> Table:
    table = Table(
        *("variant", "tried", "logit error", "mean", "p5", "volumes", "drop"),
        *("one empty", "in 8 bits"),
        title="Agreement of slices and volumes with PyTorch",
    )
    for trial in trials:
        verdict, agreement = trial.verdict, trial.verdict.agreement
        table.add_row(
            trial.candidate.plan.scheme.variant,
            trial.candidate.name,
            *(
                f"{value:.4f}"
                for value in (
                    trial.error,
                    agreement.mean,
                    agreement.tail,
                    verdict.volume_dice,
                    verdict.drop,
                )
            ),
            f"{agreement.one_empty} of {len(agreement.counted)}",
            f"{trial.candidate.share_in_int8:.1%}",
        )
    return table


def _print_outcome(outcome: Outcome) -> None:
    if not outcome.misses:
        share = (
            f", {outcome.share_in_int8:.1%} of multiply-adds in 8 bits" if outcome.content else ""
        )
        _console.print(f"{outcome.variant}: passed, {outcome.tried}{share}")
        return
    _console.print(f"{outcome.variant}: failed, {'; '.join(outcome.misses)}", style="bold")
    if outcome.layers:
        blamed = ", ".join(
            f"{layer.name} (logit error {layer.error_without:.3f} if in float)"
            for layer in outcome.layers[:3]
        )
        _console.print(f"  layers to blame: {blamed}")


if __name__ == "__main__":
    run_tool(app, "calibration")
