"""Command line of the training: ``python -m training --data FOLDER --out RUN``."""

from pathlib import Path
from typing import Annotated

import typer

from training.data import VALIDATION_VOLUMES, load_collections, volume_images
from training.loop import Recipe, train


def main(
    data: Annotated[Path, typer.Option(help="Folder of the collections of real MRI.")],
    out: Annotated[Path, typer.Option(help="Folder for checkpoints and the log.")],
    steps: Annotated[int, typer.Option(min=1)] = Recipe.steps,
    seed: Annotated[int, typer.Option()] = Recipe.seed,
) -> None:
    """Train CNN-Res on the real slices and volumes."""
    volumes = {case: volume_images(data, case) for case in VALIDATION_VOLUMES}
    train(load_collections(data), volumes, Recipe(steps=steps, seed=seed), out)


if __name__ == "__main__":
    typer.run(main)
