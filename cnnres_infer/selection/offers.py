"""The variants of a bundle that a backend can run, and opening one of them."""

from cnnres_infer.bundle.bundle import Bundle
from cnnres_infer.core.precision import Precision
from cnnres_infer.engines import NVIDIA, backend, probe
from cnnres_infer.engines.base import Engine, ModelFile
from cnnres_infer.errors import BackendUnavailableError, UsageError
from cnnres_infer.host.machine import usable_cores


def offers(bundle: Bundle, name: str) -> dict[Precision, str]:
    """Map the precisions that a backend offers with a bundle to the variants it would run.

    What missed the bundle's accuracy gate is left out, even if its file is there: bfloat16
    has none of its own.

    Parameters
    ----------
    bundle
        The bundle to run.
    name
        Name of the backend.

    Returns
    -------
    dict
        The variant for each precision, in the backend's order of preference.

    Raises
    ------
    UsageError
        If the backend does not exist.
    """
    usable = bundle.variants.keys() - bundle.failed
    return {
        precision: next(variant for variant in variants if variant in usable)
        for precision, variants in backend(name).VARIANTS.items()
        if precision not in bundle.failed and not usable.isdisjoint(variants)
    }


def open_engine(
    bundle: Bundle, name: str, precision: Precision | str, threads: int | None = None
) -> Engine:
    """Open an engine for one of the bundle's variants, without a self-check.

    Parameters
    ----------
    bundle
        The bundle to run.
    name, precision
        The backend and precision; no other is tried.
    threads
        Number of threads; by default one per usable core.

    Returns
    -------
    Engine
        The open engine, which the caller closes.

    Raises
    ------
    UsageError
        If the backend does not exist, or `threads` is less than 1.
    BundleError
        If the variant's file cannot be trusted.
    BackendUnavailableError
        If the backend cannot be used here, or not with this precision.
    """
    if threads is not None and threads < 1:
        raise UsageError(f"`threads` is {threads}; it must be at least 1")
    offered = offers(bundle, name)
    if precision not in offered:
        raise BackendUnavailableError(
            f"backend {name} does not offer precision {str(precision)!r} with this bundle"
            f"{_why_not(bundle, name, precision)}; it offers {', '.join(offered) or 'none'}"
        )
    precision = Precision(precision)
    # Probing is faster than reading and hashing a variant that may not be needed.
    probe(name).require()
    model = model_file(bundle, offered[precision])
    return backend(name).open(model, precision, threads or usable_cores())


def _why_not(bundle: Bundle, name: str, precision: str) -> str:
    """Why a backend does not offer a precision, if that is known."""
    if precision == Precision.FP16 and name not in NVIDIA:
        return ", since it is for GPUs"
    variants = backend(name).VARIANTS
    if precision in variants and bundle.failed & {precision, *variants[Precision(precision)]}:
        return ", since it missed the accuracy gate of the bundle's calibration"
    return ""


def model_file(bundle: Bundle, variant: str) -> ModelFile:
    """Read and check one of a bundle's variants.

    Raises
    ------
    BundleError
        If the variant's file cannot be trusted.
    """
    # The cache is not signed: what must be signed is compiled at every start.
    return ModelFile(
        variant,
        bundle.model(variant),
        bundle.spec.slices.sides,
        use_cache=not bundle.must_be_signed,
        known_sha256=bundle.sha256[bundle.variants[variant]],
    )
