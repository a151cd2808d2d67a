"""The two flavours of TensorRT: one interface under two module names."""

from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from typing import Any

from cnnres_infer.core.precision import Precision
from cnnres_infer.engines.nvidia.device import Gpu
from cnnres_infer.engines.nvidia.libraries import check_driver, cuda_of_packages
from cnnres_infer.errors import (
    BackendUnavailableError,
    DeviceUnsupportedError,
    NotInstalledError,
    PrecisionUnavailableError,
)
from cnnres_infer.host import machine

# Logged by every build on a machine without a GPU, where it is harmless.
NO_DEVICE = "cudaError 35"
# Turing has 8-bit tensor cores, but TensorRT-RTX builds float layers for it (seen in 1.7).
_RTX_FLOAT_ONLY = (75,)
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
            If it is not installed (`NotInstalledError`), or one of its libraries is missing.
        """
        try:
            return import_module(self.module)
        except ModuleNotFoundError as error:
            raise NotInstalledError(
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

    def check_precision(self, precision: Precision, sm: int) -> None:
        """Refuse a precision that would be computed in another one.

        Parameters
        ----------
        sm
            Compute capability: 86 for 8.6.

        Raises
        ------
        PrecisionUnavailableError
            If there are no kernels for it.
        """
        if self.portable and precision == Precision.INT8 and sm in _RTX_FLOAT_ONLY:
            raise PrecisionUnavailableError(
                f"TensorRT-RTX has no INT8 kernels for compute capability {sm / 10:.1f}: it would "
                "compute the int8 file in float; use fp16 as `precision`"
            )

    def check(self, trt: Any, gpu: Gpu) -> None:
        """Refuse a GPU or driver that the installed version does not support.

        Raises
        ------
        BackendUnavailableError
            If it does not support this one.
        """
        cuda = cuda_of_packages(self.installed())
        what = f"{self.module} {trt.__version__}"
        package = f"{self.backend}-cu{gpu.cuda_major}"
        remedy = f"pip install {package}" if package in self.distributions else ""
        check_driver(gpu, cuda, what, remedy)
        known = capabilities(trt)
        if self.portable and gpu.sm not in known:
            listed = ", ".join(f"{sm / 10:.1f}" for sm in known)
            raise DeviceUnsupportedError(
                f"{what} does not exist for compute capability {gpu.capability} ({gpu.name}); "
                f"it supports {listed}",
                "use another `backend`",
            )


def capabilities(trt: Any) -> tuple[int, ...]:
    """The compute capabilities (86 for 8.6) for which engines can be built without that GPU."""
    members = getattr(trt, "ComputeCapability", None)
    names = members.__members__ if members else ()
    return tuple(int(name[2:]) for name in names if name.startswith("SM"))


TENSORRT = Flavour(
    "tensorrt",
    "tensorrt",
    ("tensorrt", "tensorrt-cu12", "tensorrt-cu13"),
    "pip install tensorrt (from NVIDIA's index; tensorrt-cu12 with a driver for CUDA 12)",
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


def reasons(trt: Any, diagnostics: int) -> list[str]:
    """Names of TensorRT-RTX's reasons why an engine is invalid, from their bit mask."""
    members = trt.EngineInvalidityDiagnostics.__members__
    return [name for name, bit in members.items() if int(bit) & diagnostics]


def make_logger(
    trt: Any, log: Callable[[str], None] | None = None, *, needs_device: bool = True
) -> Any:
    """A logger that prints nothing; its ``summary()`` lists the errors since the last call.

    Parameters
    ----------
    trt
        The module.
    log
        Called with every message.
    needs_device
        Whether it is an error if there is no GPU.
    """
    severities = trt.ILogger.Severity
    failures = (severities.ERROR, severities.INTERNAL_ERROR)

    class Logger(trt.ILogger):  # type: ignore[misc]
        def __init__(self) -> None:
            trt.ILogger.__init__(self)
            self._errors: list[str] = []

        def log(self, severity: Any, message: str) -> None:
            if severity in failures and (needs_device or NO_DEVICE not in message):
                self._errors.append(message)
            if log is not None:
                log(message)

        def summary(self) -> str:
            errors, self._errors = self._errors, []
            return f": {'; '.join(errors)}" if errors else ""

    return Logger()
