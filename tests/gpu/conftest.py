"""Tests on real NVIDIA hardware: `pytest -m gpu`; see docs/gpu-checklist.md."""

import pytest

from cnnres_infer.engines.base import Probe
from cnnres_infer.engines.nvidia.device import Gpu, find_gpu

MEASURED: list[tuple[str, ...]] = []
COLUMNS = (
    "backend",
    "precision",
    "slices/s",
    "mean Dice",
    "smallest",
    "pooled",
    "largest diff.",
    "cold start s",
)


@pytest.fixture(scope="session")
def gpu() -> Gpu:
    found = find_gpu()
    if isinstance(found, Probe):
        pytest.skip(found.reason)
    return found


@pytest.fixture(scope="session")
def table() -> list[tuple[str, ...]]:
    """Rows of the table that is printed at the end."""
    return MEASURED


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    if MEASURED:
        terminalreporter.section("backends on this GPU")
        widths = [max(len(row[i]) for row in (COLUMNS, *MEASURED)) for i in range(len(COLUMNS))]
        for row in (COLUMNS, *MEASURED):
            terminalreporter.write_line(
                "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True))
            )
