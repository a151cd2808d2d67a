"""An HTTP service: volumes in, lesions out, one predictor for all threads.

    pip install fastapi uvicorn && uvicorn examples.fastapi_service:app
    curl --data-binary @dwi.nii.gz http://127.0.0.1:8000/lesions

Whatever limits uploads and checks who is calling stands in front of it.
"""

import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

from fastapi import Depends, FastAPI, Request
from fastapi.responses import JSONResponse

from cnnres_infer import CnnresError, Limits, Predictor
from cnnres_infer.errors import InputError


@asynccontextmanager
async def lifespan(app: FastAPI) -> AsyncIterator[None]:
    """Open the predictor with the server, and close it with the server."""
    with Predictor.load(limits=Limits(max_bytes=1 << 28, timeout=60)) as app.state.predictor:
        yield


app = FastAPI(lifespan=lifespan)


@app.exception_handler(CnnresError)
def refuse(_request: Request, error: CnnresError) -> JSONResponse:
    """Answer with the stable code; only inputs are the caller's fault."""
    status = 422 if isinstance(error, InputError) else 500
    return JSONResponse({"code": error.code, "message": error.code.meaning}, status)


async def body(request: Request) -> bytes:
    """The uploaded file."""
    return await request.body()


@app.post("/lesions")
def lesions(request: Request, upload: Annotated[bytes, Depends(body)]) -> dict[str, Any]:
    """Segment a .nii.gz; FastAPI calls this in a thread of its pool."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "dwi.nii.gz")
        path.write_bytes(upload)
        result = request.app.state.predictor.predict(path)
    return {
        "volume_ml": result.mask.volume_ml,
        "lesions": [asdict(lesion) for lesion in result.lesions],
        "warnings": [asdict(warning) for warning in result.warnings],
    }
