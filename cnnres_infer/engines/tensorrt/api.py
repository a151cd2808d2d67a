"""The two flavours of TensorRT: one interface under two module names."""

from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from typing import Any

from cnnres_infer.errors import BackendUnavailableError
from cnnres_infer.host import machine

# Logged by every build on a machine without a GPU, where it is harmless.
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
        The distributions that may provide it.
    install
        Command that installs it.
    portable
        Whether engines are completed on the GPU that runs them. They are then
        built without a GPU, for given compute capabilities, and work with any
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
        """Versions of the installed distributions; empty if there are none."""
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
    """A logger that prints nothing; its ``summary()`` lists the errors since the last call.

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
