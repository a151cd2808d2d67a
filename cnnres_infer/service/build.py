"""Puts a service together from its settings, which are checked before a model is loaded."""

import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path

from cnnres_infer.batch import Job
from cnnres_infer.errors import CnnresError, UsageError
from cnnres_infer.outputs.save import check_folder, check_formats
from cnnres_infer.predictor import Predictor
from cnnres_infer.service.health import Health, check_metrics
from cnnres_infer.service.hot_folder import HotFolder
from cnnres_infer.service.receiver import Listening, Receiver
from cnnres_infer.service.retry_queue import RetryQueue
from cnnres_infer.service.run import Service
from cnnres_infer.service.sender import Destination, Sender
from cnnres_infer.service.silence import require_pynetdicom
from cnnres_infer.service.state import INCOMING, WorkArea, is_of_listener, open_area, own_folders
from cnnres_infer.service.store import Store
from cnnres_infer.service.stuck import Stuck
from cnnres_infer.service.transport import ClientFiles
from cnnres_infer.service.worker import Worker

Watch = Callable[[Path], AbstractContextManager[None]]


@dataclass(frozen=True)
class Settings:
    """What the hot folder and the listener have in common.

    Attributes
    ----------
    root
        The work area.
    job
        Where outputs go, and how they are made.
    settle
        Seconds that a case must be quiet for.
    named_formats
        Whether `job` has the formats that were asked for.
    send_to
        Where results are pushed, each as ``HOST:PORT/AET`` or ``tls://HOST:PORT/AET``.
    send_tls
        Files for the destinations with TLS.
    ae_title
        Own AE title.
    metrics
        Where the figures for Prometheus go; by default the work area.

    Raises
    ------
    UsageError
        If a setting is wrong.
    """

    root: Path
    job: Job
    settle: float
    named_formats: bool = False
    send_to: tuple[str, ...] = ()
    send_tls: ClientFiles = field(default_factory=ClientFiles)
    ae_title: str = "CNNRES"
    metrics: Path | None = None

    def __post_init__(self) -> None:
        assert self.job.out is not None
        check_formats(self.job.formats)
        check_folder(self.job.out)
        if self.metrics is not None:
            check_metrics(self.metrics)
        _ = HotFolder(self.root, self.settle), self.send_tls.context()
        encrypted = [each for each in self.peers if Destination.parse(each).tls]
        if self.send_tls.is_given and not encrypted:
            raise UsageError(
                "files for pushing with TLS are of no use: no `send_to` asks for it; give "
                "tls://HOST:PORT/AET"
            )

    @property
    def peers(self) -> tuple[str, ...]:
        """Destinations, each once."""
        return tuple(dict.fromkeys(str(Destination.parse(each)) for each in self.send_to))


@dataclass
class Running:
    """A service that is ready to run.

    Attributes
    ----------
    service
        The service.
    port
        The port that it listens on; None in a hot folder.
    """

    service: Service
    port: int | None = None

    def abandon(self, path: Path | None, error: CnnresError) -> None:
        """Fail the case under way, since the process has to end."""
        self.service.worker.abandon(path, error)


@contextmanager
def hot_folder(
    settings: Settings, load: Callable[[], Predictor], watch: Watch = lambda _: nullcontext()
) -> Iterator[Running]:
    """Serve a folder in which cases are put, inside the context.

    Parameters
    ----------
    settings
        How to serve it.
    load
        Loads the model.
    watch
        Gives a context in which each case is computed.

    Raises
    ------
    CnnresError
        If a setting is wrong, or the model cannot be loaded.
    """
    root, out = settings.root, settings.job.out
    assert out is not None
    if not root.is_dir():
        raise UsageError(f"{root}: no such folder; create it, or give the one to watch")
    _check_outside(out, root, "the folder that is watched")
    if is_of_listener(root):
        raise UsageError(
            f"{root}: belongs to a listener, whose studies would be taken for cases; give another"
        )
    with open_area(root) as area, load() as predictor:
        yield Running(_service(area, settings, predictor, watch))


@contextmanager
def listener(
    settings: Settings,
    listening: Listening,
    min_free: int,
    load: Callable[[], Predictor],
    watch: Watch = lambda _: nullcontext(),
) -> Iterator[Running]:
    """Listen for studies and serve them, inside the context.

    Parameters
    ----------
    settings, load, watch
        See `hot_folder`.
    listening
        How to listen.
    min_free
        Bytes that must stay free on the disk.

    Raises
    ------
    CnnresError
        If a setting is wrong, the model cannot be loaded, or the port is in use.
    """
    require_pynetdicom()
    listening.tls()
    root, out = settings.root, settings.job.out
    assert out is not None
    for folder in own_folders(root):
        _check_outside(out, folder, f"{folder.name}/ of the listener")
    with open_area(root, root / INCOMING) as area, load() as predictor:
        store = Store(area, min_free, settings.settle)
        store.recover()
        service = _service(area, settings, predictor, watch, store)
        receiver = Receiver(listening, store, service.health)
        with receiver.listen() as port:
            yield Running(service, port)


def _check_outside(out: Path, folder: Path, what: str) -> None:
    """Raise if outputs would lie in a folder of cases."""
    if out.resolve().is_relative_to(folder.resolve()):
        raise UsageError(
            f"{out}: lies in {what}, where outputs would be taken for cases; choose another"
        )


def _service(
    area: WorkArea,
    settings: Settings,
    predictor: Predictor,
    watch: Watch,
    store: Store | None = None,
) -> Service:
    health = Health(area.root, settings.metrics)
    queue = RetryQueue(area.root, settings.peers)
    queue.open()
    worker = Worker(
        area,
        predictor,
        settings.job,
        health,
        queue,
        named_formats=settings.named_formats,
        watch=watch,
    )
    if settings.peers:
        Sender(queue, settings.ae_title, health, settings.send_tls).start()
    folder = HotFolder(area.incoming, settings.settle, None if store is None else store.wait_s)
    service = Service(area, folder, worker, health, queue, Stuck(area.root), store)
    # Now, so that a place that cannot be written to is said at once.
    health.publish(service.waiting(), time.time())
    return service
