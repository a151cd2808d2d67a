"""Studies sent to the listener in a row, with kills, and what is lost or doubled.

A study counts as lost if it has no result once all was sent and the queue is
empty, and as doubled if it was computed, logged or pushed more than once. The
sender does what a scanner does: it sends a study again until all of its objects
were answered with success.
"""

import json
import random
import signal
import statistics
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from pydicom.dataset import FileDataset, FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian, MRImageStorage, generate_uid

from benchmarks.common import machine
from cnnres_infer.outputs.writers import WRITERS
from cnnres_infer.phantom.head import make_phantom
from cnnres_infer.service.store import hashed

_SHAPE, _SPACING = (64, 64, 12), (3.5, 3.5, 10.0)
_SENDING, _COMPUTING = "while receiving", "while computing"
_LONGEST_WAIT_S = 120.0


@dataclass
class _Soak:
    """What runs, and what has happened."""

    folder: Path
    bundle: Path | None
    settle: float
    send_to: str | None
    port: int = 0
    kills: Counter[str] = field(default_factory=Counter)
    sendings: int = 0
    _process: subprocess.Popen[str] | None = None

    def start(self) -> None:
        """Start the listener, and wait until it listens."""
        options = [] if self.bundle is None else ["--bundle", str(self.bundle)]
        options += [] if self.send_to is None else ["--send-to", self.send_to]
        arguments = ("--port", str(self.port), "--settle", str(self.settle), *options)
        self._process = subprocess.Popen(
            [sys.executable, "-m", "cnnres_infer", "listen", str(self.folder), *arguments],
            stdout=subprocess.PIPE,
            text=True,
        )
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        self.port = int(line.partition(" as ")[0].rpartition(":")[2])

    def kill(self) -> None:
        """Kill the listener, as a loss of power would."""
        assert self._process is not None
        assert self._process.stdout is not None
        self._process.send_signal(signal.SIGKILL)
        self._process.wait()
        self._process.stdout.close()

    def restart(self, when: str) -> None:
        """Kill the listener and start it again."""
        self.kill()
        self.kills[when] += 1
        self.start()

    def log(self) -> list[dict[str, Any]]:
        """Lines of its log."""
        path = self.folder / "log.jsonl"
        return [json.loads(each) for each in path.read_text().splitlines()] if path.exists() else []


def soak(
    folder: Path,
    studies: int,
    bundle: Path | None,
    settle: float,
    seed: int,
    progress: Callable[[int], None] = lambda _: None,
) -> dict[str, Any]:
    """Send studies to a listener that is killed again and again.

    Parameters
    ----------
    folder
        An empty folder for the listener.
    studies
        How many to send.
    bundle
        The model; None for the built-in one.
    settle
        Seconds that a study must be quiet for.
    seed
        Of the moments of the kills.
    progress
        Told how many studies were sent.

    Returns
    -------
    dict
        How many were lost and doubled, and how long it took.
    """
    chance, template = random.Random(seed), _template()
    with _archive() as (address, stored):
        pushes = "dicom-seg" in WRITERS
        run = _Soak(folder, bundle, settle, address if pushes else None)
        run.start()
        started = time.monotonic()
        try:
            for number in range(studies):
                _send_with_kill(run, template, number, chance)
                progress(number + 1)
            names = [hashed(_uid(number)) for number in range(studies)]
            _wait(lambda: all(_results(folder, name) for name in names), lambda: len(run.log()))
            if pushes:
                _wait(lambda: not list((folder / "outbox" / "pending").glob("*.json")))
        finally:
            run.kill()
        return _figures(run, studies, stored, time.monotonic() - started)


def _send_with_kill(
    run: _Soak, template: list[FileDataset], number: int, chance: random.Random
) -> None:
    """Send a study; of four, one is killed while receiving and one while computing."""
    images = _study(template, number)
    if number % 4 == 1:
        timer = threading.Timer(chance.uniform(0.05, 1.5), run.restart, (_SENDING,))
        timer.start()
        _send(run, images)
        timer.join()
        # It may have come after the last answer.
        _send(run, images)
    else:
        _send(run, images)
    if number % 4 == 3:
        working = run.folder / "working"
        _wait(lambda: any(working.iterdir()))
        time.sleep(chance.uniform(0.0, 0.6))
        run.restart(_COMPUTING)


def _send(run: _Soak, images: list[FileDataset]) -> None:
    """Send all images until all are answered with success."""
    from pynetdicom import AE

    entity = AE(ae_title="SCANNER")
    entity.acse_timeout = entity.dimse_timeout = entity.network_timeout = 10
    entity.add_requested_context(MRImageStorage)
    while True:
        run.sendings += 1
        association = entity.associate("127.0.0.1", run.port)
        answered = 0
        for image in images if association.is_established else ():
            status = None
            with suppress(RuntimeError):
                status = getattr(association.send_c_store(image), "Status", None)
            if status != 0:
                break
            answered += 1
        if association.is_established:
            association.release()
        if answered == len(images):
            return
        time.sleep(0.1)


@contextmanager
def _archive() -> Iterator[tuple[str, Counter[str]]]:
    """A PACS that counts how often each object arrives."""
    from pynetdicom import AE, ALL_TRANSFER_SYNTAXES, AllStoragePresentationContexts, evt

    stored: Counter[str] = Counter()

    def store(event: Any) -> int:
        stored[event.request.AffectedSOPInstanceUID] += 1
        return 0

    entity = AE(ae_title="PACS")
    for context in AllStoragePresentationContexts:
        entity.add_supported_context(context.abstract_syntax, ALL_TRANSFER_SYNTAXES)
    server = entity.start_server(
        ("127.0.0.1", 0), block=False, evt_handlers=[(evt.EVT_C_STORE, store)]
    )
    try:
        yield f"127.0.0.1:{server.server_address[1]}/PACS", stored
    finally:
        server.shutdown()


def _template() -> list[FileDataset]:
    """The images of a study: b0 and b = 1000 of a synthetic head."""
    phantom = make_phantom(0, _SHAPE, _SPACING)
    dwi = np.round(phantom.data).astype("<u2")
    images: list[FileDataset] = []
    for b, data in ((0, np.full_like(dwi, 600) - dwi // 3), (1000, dwi)):
        for z in range(_SHAPE[2]):
            image = FileDataset("", {}, file_meta=FileMetaDataset(), preamble=b"\0" * 128)
            image.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
            image.file_meta.MediaStorageSOPClassUID = image.SOPClassUID = MRImageStorage
            image.Modality, image.PatientID, image.PatientName = "MR", "0", "Nobody"
            image.SeriesNumber, image.InstanceNumber = 1, len(images) + 1
            image.SeriesDescription = "DWI"
            image.DiffusionBValue = float(b)
            image.DiffusionDirectionality = "ISOTROPIC" if b else "NONE"
            image.ImageType = ["ORIGINAL", "PRIMARY", "OTHER"]
            # From RAS+ to LPS+, rows and columns along the first two axes of the array.
            x, y = (phantom.affine[:3, axis] / _SPACING[axis] * (-1, -1, 1) for axis in (0, 1))
            corner = phantom.affine @ (0, 0, z, 1)
            image.ImageOrientationPatient = [f"{each:.6f}" for each in (*x, *y)]
            image.ImagePositionPatient = [f"{each:.4f}" for each in corner[:3] * (-1, -1, 1)]
            image.PixelSpacing = [_SPACING[1], _SPACING[0]]
            image.Rows, image.Columns = _SHAPE[1], _SHAPE[0]
            image.SamplesPerPixel, image.PhotometricInterpretation = 1, "MONOCHROME2"
            image.BitsAllocated = image.BitsStored = 16
            image.HighBit, image.PixelRepresentation = 15, 0
            image.PixelData = np.ascontiguousarray(data[:, :, z].T).tobytes()
            images.append(image)
    return images


def _study(template: list[FileDataset], number: int) -> list[FileDataset]:
    """The images with the UIDs of a study of its own."""
    for index, image in enumerate(template):
        image.StudyInstanceUID = _uid(number)
        image.SeriesInstanceUID = _uid(number, "series")
        image.FrameOfReferenceUID = _uid(number, "frame")
        image.SOPInstanceUID = _uid(number, str(index))
        image.file_meta.MediaStorageSOPInstanceUID = image.SOPInstanceUID
    return template


def _uid(number: int, *more: str) -> str:
    return str(generate_uid(entropy_srcs=["soak", str(number), *more]))


def _wait(happened: Callable[[], bool], progress: Callable[[], int] = lambda: 0) -> None:
    """Wait until something has happened, as long as there is progress."""
    seen, until = progress(), time.monotonic() + _LONGEST_WAIT_S
    while not happened():
        if progress() != seen:
            seen, until = progress(), time.monotonic() + _LONGEST_WAIT_S
        if time.monotonic() > until:
            return
        time.sleep(0.02)


def _results(folder: Path, name: str) -> bool:
    """Whether a study is done, with a mask; one that has grown has a number."""
    done = [path.name for path in (folder / "done").glob(f"{name}*")]
    return any((folder / "out" / f"{each}_lesion_mask.nii.gz").exists() for each in done)


def _figures(run: _Soak, studies: int, stored: Counter[str], seconds: float) -> dict[str, Any]:
    names = [hashed(_uid(number)) for number in range(studies)]
    done = Counter(path.name.partition("-")[0] for path in (run.folder / "done").iterdir())
    logged = Counter(line["study"] for line in run.log())
    failed = [line for line in run.log() if line["status"] != "done"]
    calm = [line["latency_s"] for line in run.log() if line["attempts"] == 1]
    return {
        "machine": machine(),
        "studies": studies,
        "kills": dict(run.kills),
        "sent": run.sendings,
        "lost": sum(not _results(run.folder, name) for name in names),
        "doubled": sum(count > 1 for count in (*done.values(), *logged.values())),
        "halves_refused": len(failed),
        "left": len(list((run.folder / "working").iterdir())),
        "log_lines": sum(logged.values()),
        "most_attempts": max((line["attempts"] for line in run.log()), default=0),
        "pushed": len(stored),
        "pushed_twice": sum(count > 1 for count in stored.values()),
        "median_latency_s": round(statistics.median(calm), 3) if calm else None,
        "settle_s": run.settle,
        "seconds": round(seconds, 1),
    }
