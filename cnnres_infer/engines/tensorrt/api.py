"""The two flavours of TensorRT: one interface under two module names."""

from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from typing import Any

from cnnres_infer.errors import BackendUnavailableError
from cnnres_infer.host import machine

# Noise of a build on a machine without a GPU, which is no fault of the build.
NO_DEVICE = "cudaError 35"
LICENCE = (
    "NVIDIA's licence for TensorRT excludes medical and other critical use without a separate "
    "agreement; this package neither contains nor installs it unasked"
)


@dataclass(frozen=True)
class Flavour:
    """One of NVIDIA's two TensorRT products.

    Attributes
    ----------
    backend
        Name in the table of backends.
    module
        Name of its Python module.
    distributions
        What it may be installed as.
    install
        Command that installs it.
    portable
        Whether its engines are finished on the GPU where they run: then they
        are built without one, for named compute capabilities, and fit any
        driver.
    """

    backend: str
    module: str
    distributions: tuple[str, ...]
    install: str
    portable: bool

    def load(self) -> Any:
        """Import the module.

        Raises
        ------
        BackendUnavailableError
            If it is not installed, or one of its libraries is missing.
        """
        try:
            return import_module(self.module)
        except ModuleNotFoundError as error:
            raise BackendUnavailableError(
                f"{self.module} is not installed ({error})", self.install
            ) from error
        except (ImportError, OSError) as error:
            raise BackendUnavailableError(
                f"{self.module} cannot be loaded: {error}", self.install
            ) from error

    def installed(self) -> dict[str, str]:
        """Versions of what it is installed as; empty where it is not."""
        found = machine.versions(*self.distributions)
        del found["python"]
        return found


TENSORRT = Flavour(
    "tensorrt",
    "tensorrt",
    ("tensorrt", "tensorrt-cu12", "tensorrt-cu13"),
    "pip install tensorrt (from NVIDIA's index; part of JetPack on a Jetson)",
    portable=False,
)
TENSORRT_RTX = Flavour(
    "tensorrt-rtx",
    "tensorrt_rtx",
    ("tensorrt-rtx-cu12", "tensorrt-rtx-cu13"),
    "pip install tensorrt-rtx-cu12 (tensorrt-rtx-cu13 with a driver for CUDA 13)",
    portable=True,
)
FLAVOURS = {flavour.backend: flavour for flavour in (TENSORRT, TENSORRT_RTX)}


def make_logger(trt: Any, log: Callable[[str], None] | None = None) -> Any:
    """A logger that prints nothing; its ``summary()`` is what went wrong since the last one.

    Parameters
    ----------
    trt
        The module.
    log
        Called with every message.
    """
    severities = trt.ILogger.Severity
    failures = (severities.ERROR, severities.INTERNAL_ERROR)

    class Logger(trt.ILogger):  # type: ignore[misc]
        def __init__(self) -> None:
            trt.ILogger.__init__(self)
            self._errors: list[str] = []

        def log(self, severity: Any, message: str) -> None:
            if severity in failures and NO_DEVICE not in message:
                self._errors.append(message)
            if log is not None:
                log(message)

        def summary(self) -> str:
            errors, self._errors = self._errors, []
            return f": {'; '.join(errors)}" if errors else ""

    return Logger()
