"""Which files of a bundle a backend can run, and opening one of them."""

from cnnres_infer.bundle.bundle import Bundle
from cnnres_infer.core.precision import Precision
from cnnres_infer.engines import NVIDIA, backend, probe
from cnnres_infer.engines.base import Engine, ModelFile
from cnnres_infer.errors import BackendUnavailableError, UsageError
from cnnres_infer.host.machine import usable_cores


def offers(bundle: Bundle, name: str) -> dict[Precision, str]:
    """Precisions that a backend has with a bundle, the preferred first, and their variants.

    Raises
    ------
    UsageError
        If there is no such backend.
    """
    return {
        precision: next(variant for variant in variants if variant in bundle.variants)
        for precision, variants in backend(name).VARIANTS.items()
        if not bundle.variants.keys().isdisjoint(variants)
    }


def open_engine(
    bundle: Bundle, name: str, precision: Precision | str, threads: int | None = None
) -> Engine:
    """Open a backend with one of the bundle's variants, unchecked.

    Parameters
    ----------
    name, precision
        What to open and nothing else.
    threads
        Threads to compute with; by default one for each usable core.

    Raises
    ------
    UsageError
        If there is no such backend.
    BackendUnavailableError
        If it cannot be used here, or not with this precision.
    """
    if threads is not None and threads < 1:
        raise UsageError(f"threads is {threads}; give 1 or more")
    offered = offers(bundle, name)
    if precision not in offered:
        for_gpus = precision == Precision.FP16 and name not in NVIDIA
        raise BackendUnavailableError(
            f"backend {name} with this bundle has no precision {str(precision)!r}"
            + (", which is for GPUs" if for_gpus else "")
            + f"; it has {', '.join(offered) or 'none'}"
        )
    precision = Precision(precision)
    # Reading and hashing a variant takes longer than finding out that it is not needed.
    probe(name).require()
    variant = offered[precision]
    model = ModelFile(variant, bundle.model(variant))
    return backend(name).open(model, precision, threads or usable_cores())
