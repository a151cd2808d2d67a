"""The loop of a service: complete cases are claimed and computed, the longest waiting first."""

import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass

from cnnres_infer.errors import CnnresError, InputError
from cnnres_infer.readers import case_name
from cnnres_infer.service.health import Health, Waiting
from cnnres_infer.service.hot_folder import Arrival, HotFolder
from cnnres_infer.service.retry_queue import RetryQueue
from cnnres_infer.service.state import ClaimedCase, WorkArea
from cnnres_infer.service.store import Store
from cnnres_infer.service.stuck import Stuck
from cnnres_infer.service.worker import Worker

_PUBLISH_S, _AGAIN_S = 5.0, 2.0


@dataclass(frozen=True)
class Service:
    """What runs in a work area.

    Attributes
    ----------
    area
        The work area.
    folder
        Where cases arrive.
    worker
        What computes them.
    health
        The log and the figures.
    queue
        What is to be pushed.
    stuck
        What cannot be claimed.
    store
        Where received studies are kept; None in a hot folder.
    """

    area: WorkArea
    folder: HotFolder
    worker: Worker
    health: Health
    queue: RetryQueue
    stuck: Stuck
    store: Store | None = None

    def recover(self) -> None:
        """Go on with the cases that an earlier process left behind."""
        for case in list(self.area.claimed()):
            self.worker.process(case)

    def run(self, is_over: Callable[[], bool] = lambda: False) -> None:
        """Compute cases until it is over."""
        threading.Thread(target=self._publish, name="figures", daemon=True).start()
        is_behind = True
        while not is_over():
            try:
                if is_behind:
                    self.recover()
                is_behind = False
                self.stuck.forget_gone(self.area.incoming)
                for arrival in self.folder.complete():
                    self._handle(arrival)
                    self._publish_now()
            except OSError:
                # The disk is full, or away: what was claimed is gone on with once it is back.
                is_behind = True
                self.health.count("disk failed")
                time.sleep(_AGAIN_S)
            time.sleep(self.folder.poll_s)

    def _handle(self, arrival: Arrival) -> None:
        name = arrival.main.name
        if self.stuck.is_passed_over(name) or not self.folder.is_unchanged(arrival):
            return
        refusal = self.worker.refusal(arrival.main) if self.store is None else None
        try:
            case = self._claim(arrival, time.time())
        except InputError as error:
            self.stuck.add(name, self.area.study(name), f"{error.code}: {error}")
            return
        if case is None:
            return
        if refusal is None:
            self.worker.process(case)
        else:
            self.worker.fail(case, refusal)

    def _claim(self, arrival: Arrival, now: float) -> ClaimedCase | None:
        main = arrival.main
        # It may have been moved away since it was looked at.
        with suppress(FileNotFoundError):
            if self.store is not None:
                return self.store.claim(main, arrival.arrived, now)
            name = _name(arrival)
            if not (self.area.working / name).exists():
                return self.area.claim(name, arrival.paths, main.name, arrival.arrived, now)
        return None

    def waiting(self) -> Waiting:
        """What has not been computed yet."""
        return waiting(self.area, self.folder, self.queue)

    def _publish(self) -> None:
        while True:
            self._publish_now()
            time.sleep(_PUBLISH_S)

    def _publish_now(self) -> None:
        # The disk may be full; figures are not worth ending for.
        with suppress(OSError):
            self.health.publish(self.waiting(), time.time())


def waiting(area: WorkArea, folder: HotFolder, queue: RetryQueue) -> Waiting:
    """What has not been computed yet in a work area."""
    arriving = folder.waiting()
    working = [path for path in area.working.iterdir() if path.is_dir()]
    times = arriving + [path.stat().st_mtime for path in working]
    return Waiting(len(arriving), len(working), len(queue.pending()), min(times, default=None))


def _name(arrival: Arrival) -> str:
    """Name of a case, from which its outputs are named; of no valid one, that of its file."""
    try:
        return case_name(arrival.main)
    except CnnresError:
        return arrival.main.name
