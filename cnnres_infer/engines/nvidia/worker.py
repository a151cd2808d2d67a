"""A thread that runs functions one after another."""

import threading
import weakref
from collections.abc import Callable
from concurrent.futures import Future
from queue import SimpleQueue
from typing import Any, TypeAlias, TypeVar

T = TypeVar("T")
_Task: TypeAlias = tuple[Callable[[], Any], Future[Any]]
_Tasks: TypeAlias = SimpleQueue[_Task | None]


class WorkerStoppedError(RuntimeError):
    """The worker has stopped and accepts no more work."""


class Worker:
    """A thread with a queue of work.

    Unlike the threads of `concurrent.futures.ThreadPoolExecutor`, it is a
    daemon: the interpreter does not wait for its work at exit, and the worker
    accepts work until then, also from functions registered with `atexit`. It
    stops when it is garbage-collected.

    Parameters
    ----------
    name
        Name of the thread.
    """

    def __init__(self, name: str) -> None:
        self._tasks: _Tasks = SimpleQueue()
        self._stopped = False
        # Nothing may be queued behind the end of the queue, where it would never run.
        self._queueing = threading.Lock()
        self._thread = threading.Thread(target=_work, args=(self._tasks,), name=name, daemon=True)
        self._thread.start()
        weakref.finalize(self, self._tasks.put, None)

    def submit(self, work: Callable[[], T]) -> Future[T]:
        """Queue work.

        Raises
        ------
        WorkerStoppedError
            If `stop` was called.
        """
        done: Future[T] = Future()
        with self._queueing:
            if self._stopped:
                raise WorkerStoppedError("the worker has stopped")
            self._tasks.put((work, done))
        return done

    def stop(self, wait: bool = True) -> None:
        """Let the thread end once all queued work is done.

        Parameters
        ----------
        wait
            Whether to return only then.
        """
        with self._queueing:
            if not self._stopped:
                self._stopped = True
                self._tasks.put(None)
        if wait:
            self._thread.join()


def _work(tasks: _Tasks) -> None:
    while (task := tasks.get()) is not None:
        work, done = task
        try:
            done.set_result(work())
        except BaseException as error:
            done.set_exception(error)
        # Otherwise what the work holds would stay in memory until the next task.
        del task, work, done
