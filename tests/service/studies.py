"""Small studies and what the tests of the service need around them."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from pydicom.dataset import FileDataset
from pydicom.uid import generate_uid

from cnnres_infer.core.grid import Grid
from cnnres_infer.readers.nifti.write import save_volume
from cnnres_infer.service.store import Instance
from tests.conftest import blob_volume
from tests.fakes.dicom import Scan, classic_images, encode, save, siemens

SETTLE = "0.4"


def images(name: str = "one") -> list[FileDataset]:
    """A study with a trace and its b0, of UIDs that depend on its name."""
    volume, _ = blob_volume((48, 56, 12))
    stored = np.round(volume.data * 10).astype(np.uint16)
    affine = volume.grid.affine
    trace = Scan(stored, affine, 1000.0, "trace")
    b0 = Scan(np.full_like(stored, 2000) - stored // 3, affine)
    made = classic_images([b0, trace], siemens, uid=generate_uid(entropy_srcs=["series", name]))
    for index, image in enumerate(made):
        image.StudyInstanceUID = generate_uid(entropy_srcs=["study", name])
        uid = generate_uid(entropy_srcs=["instance", name, str(index)])
        image.SOPInstanceUID = image.file_meta.MediaStorageSOPInstanceUID = uid
        image.PatientName, image.PatientID = "Secret^Person", "SECRET-ID"
    return made


def instance(image: FileDataset) -> Instance:
    """What a sender of an image sends."""
    content = encode(image)
    group = 132 + 12 + int.from_bytes(content[140:144], "little")
    return Instance(
        str(image.SOPClassUID),
        str(image.SOPInstanceUID),
        str(image.file_meta.TransferSyntaxUID),
        content[:group],
        content[group:],
    )


def write_study(folder: Path, name: str = "one") -> Path:
    return save(folder, images(name))


def write_nifti(path: Path) -> Path:
    volume, _ = blob_volume((48, 56, 12))
    stored = np.round(volume.data * 10).astype(np.uint16)
    save_volume(path, stored, Grid((48, 56, 12), volume.grid.affine))
    return path


class Process:
    """A command of ours that runs until it is killed."""

    def __init__(self, *arguments: object, folder: Path) -> None:
        self._log = (folder / "stderr.txt").open("ab")
        self._process = subprocess.Popen(
            [sys.executable, "-m", "cnnres_infer", *map(str, arguments)],
            stdout=subprocess.PIPE,
            stderr=self._log,
            text=True,
            env={**os.environ, "PYTHONUNBUFFERED": "1"},
        )
        assert self._process.stdout is not None
        self.line = self._process.stdout.readline()
        assert self.line, (folder / "stderr.txt").read_text()

    @property
    def port(self) -> int:
        return int(self.line.partition(" as ")[0].rpartition(":")[2])

    def kill(self) -> None:
        self._process.send_signal(signal.SIGKILL)
        self._process.wait()
        assert self._process.stdout is not None
        self._process.stdout.close()
        self._log.close()

    def __enter__(self) -> "Process":
        return self

    def __exit__(self, *_: object) -> None:
        self.kill()


def wait_for(happened: Callable[[], Any], seconds: float = 60.0) -> Any:
    """What is waited for, once it is true."""
    until = time.monotonic() + seconds
    while not (found := happened()):
        assert time.monotonic() < until, "it did not happen"
        time.sleep(0.02)
    return found


def log_lines(root: Path) -> list[dict[str, Any]]:
    path = root / "log.jsonl"
    return [json.loads(each) for each in path.read_text().splitlines()] if path.exists() else []
