"""``python -m cnnres_infer``."""

from cnnres_infer.cli.app import run

run()
