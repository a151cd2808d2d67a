"""What is the same for all cases of a cohort, sent to every process that segments some."""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Self

from cnnres_infer import __version__
from cnnres_infer.bundle.bundle import DEFAULT_BUNDLE, Bundle
from cnnres_infer.engines import AUTO
from cnnres_infer.errors import BundleError
from cnnres_infer.host.cache import cache_folder
from cnnres_infer.host.lock import locked
from cnnres_infer.limits import DEFAULT_LIMITS, Limits
from cnnres_infer.predictor import Predictor

_LOCK = "cohort.lock"


@dataclass(frozen=True)
class Settings:
    """The model, its engine, and what is written.

    Attributes
    ----------
    out
        The output folder.
    bundle
        Folder of the model bundle, which must be the same one for all processes.
    digest
        SHA-256 of the bundle's ``model.json``; set by `pinned`.
    backend, precision, threads, self_check, strict_backend, limits, trusted_key
        See `Predictor.load`.
    bvalue
        b-value to segment in s/mm2; None for the one nearest to 1000.
    probabilities, overlay
        Whether to write these as well.
    overwrite
        Whether masks of other inputs, bundles or options may be replaced.
    lease
        Seconds after which the claims of a process on another machine lapse.
    """

    out: Path
    bundle: Path = DEFAULT_BUNDLE
    digest: str = ""
    backend: str = AUTO
    precision: str = AUTO
    threads: int | None = None
    self_check: bool = True
    strict_backend: bool = False
    limits: Limits = DEFAULT_LIMITS
    trusted_key: Path | None = None
    bvalue: float | None = None
    probabilities: bool = False
    overlay: bool = True
    overwrite: bool = False
    lease: float = field(default=180.0)

    def pinned(self, bundle: Bundle) -> Self:
        """The same settings for one bundle, by absolute paths."""
        return replace(
            self,
            out=self.out.absolute(),
            bundle=bundle.folder.absolute(),
            digest=bundle.digest,
            trusted_key=self.trusted_key and self.trusted_key.absolute(),
        )

    @cached_property
    def options(self) -> dict[str, Any]:
        """Everything besides the images that outputs depend on, for done markers."""
        return {
            "cnnres-infer": __version__,
            "bundle_sha256": self.digest,
            "backend": self.backend,
            "precision": self.precision,
            "bvalue": self.bvalue,
            "probabilities": self.probabilities,
            "overlay": self.overlay,
        }

    def load(self) -> Predictor:
        """Load the model, one process of this machine at a time.

        Of several that start together, the first one finds out what is fastest
        here, undisturbed, and the others do the same as it.

        Raises
        ------
        BundleError
            If it is another bundle than that of the settings, besides what
            `Predictor.load` raises.
        """
        with _one_at_a_time():
            predictor = Predictor.load(
                self.bundle,
                self.backend,
                self.precision,
                self.threads,
                self_check=self.self_check,
                strict_backend=self.strict_backend,
                limits=self.limits,
                trusted_key=self.trusted_key,
            )
        if self.digest and predictor.bundle.digest != self.digest:
            predictor.close()
            raise BundleError(
                f"{self.bundle}: not the bundle that the cohort was started with; copy that one "
                "to this machine"
            )
        return predictor


@contextmanager
def _one_at_a_time() -> Iterator[None]:
    with ExitStack() as stack:
        # Without a cache or locks, each process finds out for itself.
        with suppress(OSError):
            stack.enter_context(locked(cache_folder() / _LOCK))
        yield
