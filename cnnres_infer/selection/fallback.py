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
    and where it fails under several threads, it is replaced once.

    Parameters
    ----------
    selection
        The first engine; the chain closes it.
    """

    def __init__(self, selection: Selection) -> None:
        self._selection = selection
        self._state = threading.Condition()
        self._users = 0
        self._replacing = False
        # What ended the chain: closing it, or the failure of its last engine.
        self._ended: CnnresError | None = None

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
            If the chain was closed.
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
        """Close the engine, once no thread uses it."""
        with self._state:
            self._state.wait_for(self._idle)
            self._ended = UsageError("the predictor is closed: load it again")
            self._selection.engine.close()

    @contextmanager
    def _in_use(self) -> Iterator[Selection]:
        with self._state:
            self._state.wait_for(lambda: not self._replacing)
            self._check_open()
            self._users += 1
            selection = self._selection
        try:
            yield selection
        finally:
            with self._state:
                self._users -= 1
                self._state.notify_all()

    def _replace(self, failed: Selection, failure: EngineRunError) -> None:
        """Let another engine take the place of one that failed, for later volumes too."""
        with self._state:
            self._state.wait_for(self._idle)
            self._check_open()
            if self._selection is not failed:
                return
            if failed.reselect is None:
                raise failure
            self._replacing = True
        try:
            # The next one may need its memory; what a lost device refuses must not end the volume.
            with suppress(Exception):
                failed.engine.close()
            self._selection = failed.next(failure)
        except CnnresError as error:
            # What is closed would say no more of why it failed.
            self._ended = error
            raise
        finally:
            with self._state:
                self._replacing = False
                self._state.notify_all()

    def _check_open(self) -> None:
        if self._ended is not None:
            raise type(self._ended)(str(self._ended), code=self._ended.code)

    def _idle(self) -> bool:
        return not self._users and not self._replacing
