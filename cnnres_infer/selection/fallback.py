"""Changing to the next engine where one fails, for all threads that share it."""

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import TypeVar

from cnnres_infer.engines.base import Engine
from cnnres_infer.errors import CnnresError, EngineRunError, UsageError
from cnnres_infer.pipeline.deadline import Stopwatch
from cnnres_infer.selection.select import Selection

T = TypeVar("T")


class EngineChain:
    """The engine in use, and what follows it should it fail.

    Threads share it. An engine is closed only when no thread uses it any more,
    and where it fails under several threads, it is replaced once: threads that
    use it may finish, and nothing new begins until its successor is open.

    Parameters
    ----------
    selection
        The first engine; the chain closes it.
    """

    def __init__(self, selection: Selection) -> None:
        self._selection = selection
        # Notified whenever what follows has changed.
        self._state = threading.Condition()
        self._users: set[int] = set()
        self._replacing = False
        self._closed = False
        # Why the engine in use failed, until another takes its place.
        self._failure: EngineRunError | None = None
        # Why no engine follows the one that failed.
        self._end: CnnresError | None = None

    @property
    def selection(self) -> Selection:
        """What computes now."""
        return self._selection

    def run(self, work: Callable[[Engine], T], clock: Stopwatch) -> tuple[T, Selection]:
        """Do work with one engine; where that fails, do all of it again with the next.

        Parameters
        ----------
        work
            Is given the engine.
        clock
            Times the change of engines.

        Returns
        -------
        result
            What the work returned.
        selection
            The engine that it was done with.

        Raises
        ------
        EngineRunError
            If the engine fails, and none may or can take over.
        UsageError
            If the chain was closed, or if this is called by work of its own.
        """
        while True:
            with self._in_use() as selection:
                try:
                    return work(selection.engine), selection
                except EngineRunError as error:
                    failure = error
            with clock("next engine"):
                self._replace(selection, failure)

    def close(self) -> None:
        """Close the engine, once no thread uses it; nothing new begins meanwhile.

        Raises
        ------
        UsageError
            If this is called by work of its own, which would wait for itself.
        """
        self._refuse_own_work()
        with self._state:
            self._closed = True
            self._state.wait_for(lambda: not (self._users or self._replacing))
        if self._failure is None:
            self._selection.engine.close()
        else:
            self._close_failed()

    @contextmanager
    def _in_use(self) -> Iterator[Selection]:
        self._refuse_own_work()
        user = threading.get_ident()
        try:
            with self._state:
                self._state.wait_for(lambda: not self._replacing)
                if self._closed:
                    raise UsageError("the predictor is closed: load it again")
                self._check_end()
                self._users.add(user)
                selection = self._selection
            yield selection
        finally:
            # First of all, so that no interrupt can leave it undone.
            self._users.discard(user)
            self._notify()

    def _replace(self, failed: Selection, failure: EngineRunError) -> None:
        """Let another engine take the place of one that failed, for later volumes too."""
        replacing = False
        try:
            with self._state:
                self._state.wait_for(lambda: not self._replacing)
                if self._selection is not failed:
                    return
                self._check_end()
                if failed.reselect is None:
                    raise failure
                self._replacing = replacing = True
                # One that was closed for a replacement which was interrupted says only that.
                self._failure = self._failure or failure
                self._state.wait_for(lambda: not self._users)
                if self._closed:
                    raise failure
            # The next one may need its memory.
            self._close_failed()
            self._open_next(self._failure)
        finally:
            if replacing:
                self._replacing = False
                self._notify()

    def _open_next(self, failure: EngineRunError) -> None:
        try:
            self._selection = self._selection.next(failure)
        except CnnresError as error:
            self._end = error
            raise
        self._failure = None

    def _close_failed(self) -> None:
        # What a lost device refuses must not end the volume.
        with suppress(Exception):
            self._selection.engine.close()

    def _notify(self) -> None:
        with self._state:
            self._state.notify_all()

    def _check_end(self) -> None:
        if self._end is not None:
            raise EngineRunError(str(self._end), code=self._end.code) from self._end

    def _refuse_own_work(self) -> None:
        if threading.get_ident() in self._users:
            raise UsageError("this thread is computing with the predictor: wait until it is done")
