"""Segment a volume with a network that Triton serves: ``python examples/triton_client.py --help``.

Reading, brain extraction, slices and outputs are those of cnnres-infer; only the
network runs on the server, which ``python -m export triton`` makes a model
repository for. It speaks the KServe protocol, version 2, over HTTP, with
nothing but the standard library.
"""

import json
from pathlib import Path
from typing import Annotated, ClassVar, Self
from urllib.request import Request, urlopen

import numpy as np
import typer

from cnnres_infer import Bundle, Precision, Predictor
from cnnres_infer.core.arrays import FloatArray
from cnnres_infer.core.provenance import EngineInfo
from cnnres_infer.engines.base import ModelFile, Probe, SharedEngine, Variants
from cnnres_infer.errors import BackendUnavailableError
from cnnres_infer.selection.select import Selection

_TIMEOUT_S = 60.0
_LENGTH = "Inference-Header-Content-Length"


class TritonEngine(SharedEngine[str]):
    """A network on a server; see `cnnres_infer.engines.base.Engine`.

    Parameters
    ----------
    server, model
        Address of the server, and name of the model.
    bundle
        The bundle that the model was exported from.
    """

    RUNTIME: ClassVar[str] = "Triton"
    VARIANTS: ClassVar[Variants] = {}
    BATCH: ClassVar[int] = 16
    LEAST: ClassVar[int] = 1

    def __init__(self, server: str, model: str, bundle: Bundle) -> None:
        sides = bundle.spec.slices.sides
        extent = sides if len(sides) > 1 else sides[0]
        info = EngineInfo("triton", server, Precision.FP32, model, 0, {})
        super().__init__(
            f"{server}/v2/models/{model}/infer", info, (bundle.spec.channels, extent, extent)
        )

    @classmethod
    def probe(cls) -> Probe:
        return Probe(True, "any server")

    @classmethod
    def open(cls, model: ModelFile, precision: Precision, threads: int) -> Self:
        raise BackendUnavailableError("the model is on the server, not in a file")

    def _compute(self, handle: str, images: FloatArray) -> FloatArray:
        tensor = {
            "name": "images",
            "shape": images.shape,
            "datatype": "FP32",
            "parameters": {"binary_data_size": images.nbytes},
        }
        wanted = {"name": "probabilities", "parameters": {"binary_data": True}}
        head = json.dumps({"inputs": [tensor], "outputs": [wanted]}).encode()
        body = head + np.ascontiguousarray(images, "<f4").tobytes()
        request = Request(handle, body, {_LENGTH: str(len(head))})  # noqa: S310
        with urlopen(request, timeout=_TIMEOUT_S) as response:  # noqa: S310
            content, length = response.read(), int(response.headers[_LENGTH])
        (output,) = json.loads(content[:length])["outputs"]
        values = np.frombuffer(content, "<f4", offset=length)
        return values.reshape(output["shape"]).astype(np.float32)


def main(
    volume: Annotated[Path, typer.Argument(help="NIfTI file or DICOM study.")],
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder for the outputs.")],
    model: Annotated[str, typer.Option(help="Name of the model on the server.")],
    server: Annotated[str, typer.Option(help="Address.")] = "http://127.0.0.1:8000",
    bundle: Annotated[Path | None, typer.Option(help="Bundle; default: the built-in one.")] = None,
) -> None:
    """Segment a volume."""
    opened = Bundle.open(bundle)
    engine = TritonEngine(server.rstrip("/"), model, opened)
    with Predictor(opened, Selection(engine)) as predictor:
        result = predictor.predict(volume)
        typer.echo(f"{result.mask.volume_ml:.2f} ml in {result.save(out)['mask']}")


if __name__ == "__main__":
    typer.run(main)
