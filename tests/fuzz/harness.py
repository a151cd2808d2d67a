"""What must hold for any input: it is refused with an error, or read as a valid object.

Run for longer with ``python tests/fuzz/run.py -max_total_time=3600``.
"""

import gzip
import io
import json
import tempfile
import warnings
import zlib
from collections.abc import Callable
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np

from cnnres_infer.bundle.bundle import DEFAULT_BUNDLE, Bundle
from cnnres_infer.bundle.manifest import MANIFEST, spec_from_json, spec_to_json
from cnnres_infer.bundle.onnx_check import check_model
from cnnres_infer.bundle.reference_slices import read_slices
from cnnres_infer.core.case import Modality
from cnnres_infer.core.spec import ModelSpec
from cnnres_infer.core.volume import Volume
from cnnres_infer.errors import BundleError, InputError
from cnnres_infer.limits import Limits
from cnnres_infer.readers import load_case, load_volume
from cnnres_infer.readers.nifti.header import TRANSFORM_FIELDS
from cnnres_infer.readers.nifti.source import NiftiSource
from cnnres_infer.readers.nifti.write import volume_bytes
from tests.conftest import bright_model
from tests.faults.files import INF, NAN, extension, nifti

LIMITS = Limits(max_voxels=1 << 14, max_bytes=1 << 18)
PLAIN, PACKED, GZIP, ONNX, BUNDLE, SIDECARS, ARRAYS, DICOM = range(8)
MINIMAL: dict[str, Any] = {
    "format": 1,
    "name": "a",
    "version": "1",
    "input": {
        "channels": 1, "modalities": ["dwi"], "size": 160, "spacing_mm": 1.25, "ceiling": 2.0,
    },
    "fusion": {"rule": "mean", "dwi_weight": 0.5},
    "mask": {"threshold": 0.5, "smallest_lesion_ml": 0.0},
    "variants": {"fp32": "a.onnx"},
    "sha256": {"a.onnx": "00"},
}  # fmt: skip
SMALL = np.asfortranarray(np.arange(60, dtype="<i2").reshape(3, 4, 5))


def check(data: bytes) -> str:
    """Read bytes as a file of the kind given by the first byte; return the outcome."""
    warnings.simplefilter("error")
    kind, content = (data[0] % 8, data[1:]) if data else (PLAIN, b"")
    if kind in _CHECKS:
        return _CHECKS[kind](content)
    path = _folder() / _NAMES[kind]
    path.write_bytes(gzip.compress(content, 0, mtime=0) if kind == PACKED else content)
    try:
        volume = load_volume(path, LIMITS)
    except InputError as error:
        return error.code if str(error).startswith((str(path), "a")) else repr(error)
    _check_volume(volume, path)
    return "volume"


def _check_volume(volume: Volume, path: Path) -> None:
    grid = volume.grid
    assert volume.data.dtype == np.float32
    assert volume.data.shape == grid.shape
    assert np.isfinite(volume.data).all()
    assert np.isfinite(grid.affine).all()
    assert 0 < grid.voxel_ml < np.inf
    assert len(set(grid.orientation.axes)) == 3
    path.with_name("m.nii").write_bytes(
        volume_bytes(
            (volume.data > volume.data.min()).astype(np.uint8),
            grid,
            volume.source,
            compressed=False,
        )
    )
    mask = load_volume(path.with_name("m.nii"), LIMITS)
    if isinstance(volume.source, NiftiSource):
        assert np.array_equal(mask.grid.affine, grid.affine)
    # NIfTI holds affines of other sources in float32.
    np.testing.assert_allclose(mask.grid.affine, grid.affine, rtol=1e-6, atol=1e-6)
    for field in TRANSFORM_FIELDS if isinstance(volume.source, NiftiSource) else ():
        assert isinstance(volume.source, NiftiSource)
        assert isinstance(mask.source, NiftiSource)
        before, after = volume.source.transforms[field], mask.source.transforms[field]
        assert before.tobytes() == after.tobytes(), field


def seeds() -> list[bytes]:
    """Small valid and invalid files, as inputs of `check`."""
    odd: list[dict[str, Any]] = [
        {},
        {"wide": True},
        {"order": ">"},
        {"wide": True, "order": ">"},
        {"extension": extension(32)},
        {"scl_slope": 2, "scl_inter": 3},
        {"scl_slope": NAN},
        {"sform_code": 0},
        {"qform_code": 0, "srow_x": [-2.4, 0.6, 0, 3]},
        {"quatern_b": 0.9},
        {"pixdim": [-1, 0, -2.5, 5, 1, 1, 1, 1]},
        {"dim": [4, 3, 4, 5, 1, 1, 1, 1]},
        {"dim": [3, 32767, 32767, 32767, 1, 1, 1, 1]},
        {"vox_offset": INF},
        {"xyzt_units": 1},
        {"datatype": 16, "bitpix": 32, "data": SMALL.astype("<f4")},
        {"datatype": 64, "bitpix": 64, "data": SMALL.astype("<f8") * 1e300},
        {"datatype": 1280, "bitpix": 64, "data": SMALL.astype("<u8")},
    ]
    files = [nifti(**{"data": SMALL, **fields}) for fields in odd]
    packed = [gzip.compress(files[0], level, mtime=0) for level in (0, 1, 9)]
    packed += [packed[1][:60] + gzip.compress(b""), packed[1] + gzip.compress(b""), packed[1] * 2]
    raw = zlib.compressobj(1, wbits=31)
    packed.append(raw.compress(files[0]) + raw.flush(zlib.Z_FULL_FLUSH))
    return [
        *(bytes([kind]) + file for file in files for kind in (PLAIN, PACKED)),
        *(bytes([GZIP]) + file for file in packed),
        bytes([ONNX]) + bright_model(),
        bytes([BUNDLE]) + (DEFAULT_BUNDLE / MANIFEST).read_bytes()[:600] + b"}",
        bytes([BUNDLE]) + json.dumps(MINIMAL).encode(),
        *(bytes([SIDECARS]) + each for each in _SIDECARS),
        bytes([ARRAYS]) + _archive(),
        *(bytes([DICOM]) + scan for scan in _dicom_files()),
    ]


def _check_model(content: bytes) -> str:
    try:
        check_model(content, "model")
    except BundleError as error:
        return error.code
    return "model"


def _check_bundle(content: bytes) -> str:
    (_folder() / MANIFEST).write_bytes(content)
    try:
        bundle = Bundle.open(_folder())
    except BundleError as error:
        return error.code
    assert spec_from_json(spec_to_json(bundle.spec)) == bundle.spec
    assert 0 < bundle.spec.slices.size <= 1024
    return "bundle"


def _check_sidecars(content: bytes) -> str:
    """Lay a list of b-values and a BIDS sidecar beside an image; the first byte says which."""
    which, (bvalues, _, sidecar) = content[:1], content[1:].partition(b"\0")
    folder = _folder() / "beside"
    folder.mkdir(exist_ok=True)
    path, count = folder / "a.nii", 1 if which < b"\x80" else 4
    path.write_bytes(nifti(data=np.stack([SMALL] * count, axis=-1) if count > 1 else SMALL))
    (folder / "a.bval").write_bytes(bvalues)
    (folder / "a.json").write_bytes(sidecar)
    try:
        case = load_case(path, list(Modality)[which > b"\x40"], LIMITS)
    except InputError as error:
        return error.code
    assert case.volume.data.shape == SMALL.shape
    assert case.b_value is None or 0 < case.b_value < np.inf
    return "case"


def _check_arrays(content: bytes) -> str:
    try:
        images, probabilities = read_slices(content, _spec())
    except ValueError:
        return "not arrays"
    assert len(images) == len(probabilities)
    assert np.isfinite(probabilities).all()
    return "arrays"


@cache
def _spec() -> ModelSpec:
    return spec_from_json({**MINIMAL, "input": {**MINIMAL["input"], "size": 32}})


def _archive() -> bytes:
    """Reference slices of one lesion."""
    images = np.zeros((1, 1, 32, 32), np.uint8)
    images[..., 4:16, 4:16] = 200
    archive = io.BytesIO()
    np.savez_compressed(archive, images=images, probabilities=np.float32(images > 100))
    return archive.getvalue()


def _dicom_files() -> list[bytes]:
    """A slice in a classic file, and a volume in an enhanced one; none without pydicom."""
    if find_spec("pydicom") is None:
        return []
    from tests.fakes.dicom import Scan, classic_images, encode, enhanced_image

    scan = Scan(np.arange(60, dtype=np.uint16).reshape(3, 4, 5), np.diag([-2.0, -2.0, 5.0, 1.0]))
    return [encode(classic_images([scan])[0]), encode(enhanced_image([scan]))]


_NAMES = {PLAIN: "a.nii", PACKED: "a.nii.gz", GZIP: "a.nii.gz", DICOM: "a.dcm"}
_CHECKS: dict[int, Callable[[bytes], str]] = {
    ONNX: _check_model,
    BUNDLE: _check_bundle,
    SIDECARS: _check_sidecars,
    ARRAYS: _check_arrays,
}
_SIDECARS = (
    b"\x001000\0{}",
    b'\x000\0{"ImageType": ["ORIGINAL", "PRIMARY", "DIFFUSION", "TRACEW"], "BValue": 1000}',
    b'\x500 0\0{"DiffusionBValue": 1e9, "ImageTypeText": "ADC\\\\FA"}',
    b"\x900 1000 1000 2000\0{",
    b"\xff0 1 nan -3\0[]",
)


@cache
def _folder() -> Path:
    memory = Path("/dev/shm")
    return Path(tempfile.mkdtemp("", "cnnres-fuzz-", memory if memory.is_dir() else None))
