"""Small wheels, for tests of what gathers, accounts for and installs them."""

import base64
import hashlib
import io
import json
import zipfile
from importlib.metadata import distribution
from pathlib import Path

MODEL = {
    "name": "tiny",
    "version": "3",
    "variants": {"fp32": "model.fp32.onnx"},
    "sha256": {"model.fp32.onnx": "ab" * 32},
    "weights_licence": "CC BY-SA 4.0",
    "training": {"data": [{"name": "Heads", "licence": "CC0"}]},
}
VIEWER = {
    "package": "@niivue/niivue",
    "version": "0.1",
    "licence": "BSD-2-Clause AND MIT",
    "member": "package/dist/viewer.js",
    "sha256": "cd" * 32,
}
PROGRAM = "def run():\n    import sys\n    print('ran', *sys.argv[1:])\n"


def wheel(name: str, version: str, *metadata: str) -> bytes:
    """A wheel with lines of metadata; that of ours has a model, a viewer and a program."""
    package = name.replace("-", "_")
    about = f"{package}-{version}.dist-info"
    lines = ["Metadata-Version: 2.4", f"Name: {name}", f"Version: {version}", *metadata]
    files = {
        f"{package}/__init__.py": PROGRAM,
        f"{about}/METADATA": "\n".join([*lines, "", "Licence: of the description"]),
        f"{about}/WHEEL": "Wheel-Version: 1.0\nGenerator: x\nRoot-Is-Purelib: true\n"
        "Tag: py3-none-any\n",
    }
    if name == "cnnres-infer":
        files["cnnres_infer/models/cnnres/model.json"] = json.dumps(MODEL)
        viewer = "cnnres_infer/outputs/assets/niivue"
        files[f"{viewer}/source.json"] = json.dumps(VIEWER)
        files[f"{viewer}/viewer.js"] = "// a viewer"
        files[f"{about}/entry_points.txt"] = "[console_scripts]\ncnnres-infer = cnnres_infer:run\n"
    record = [f"{path},sha256={_hash(text)},{len(text)}" for path, text in files.items()]
    files[f"{about}/RECORD"] = "\n".join([*record, f"{about}/RECORD,,", ""])
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for path, text in files.items():
            archive.writestr(zipfile.ZipInfo(path), text)
    return buffer.getvalue()


def pip_wheel() -> bytes:
    """The installed pip as a wheel, which runs as it is."""
    pip = distribution("pip")
    about = f"pip-{pip.version}.dist-info/METADATA"
    package = Path(str(pip.locate_file("pip")))
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr(about, pip.read_text("METADATA") or "")
        for path in package.rglob("*"):
            if path.is_file() and path.suffix != ".pyc":
                archive.write(path, f"pip/{path.relative_to(package).as_posix()}")
    return buffer.getvalue()


def _hash(text: str) -> str:
    digest = hashlib.sha256(text.encode()).digest()
    return base64.urlsafe_b64encode(digest).rstrip(b"=").decode()
