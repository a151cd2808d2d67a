"""Falling back to the next engine when one fails, for all threads that share it."""

import logging
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from copy import copy
from typing import TypeVar

from cnnres_infer.codes import ErrorCode
from cnnres_infer.engines.base import Engine
from cnnres_infer.errors import CnnresError, EngineRunError, UsageError
from cnnres_infer.pipeline.deadline import Stopwatch
from cnnres_infer.selection.select import Selection

T = TypeVar("T")

_log = logging.getLogger(__name__)
# Whoever was out of time or patience says nothing about the engines.
_OF_THIS_CALL = (ErrorCode.CANCELLED, ErrorCode.LIMIT_TIME)


class EngineChain:
    """The engine in use, and the engines to fall back to if it fails.

    The chain is thread-safe. An engine is closed only when no thread is using
    it, and if it fails in several threads, it is replaced only once: threads
    that are using it may finish, and no new work starts until its replacement
    is open.

    Parameters
    ----------
    selection
        The first engine; the chain closes it.
    """

    def __init__(self, selection: Selection) -> None:
        self._selection = selection
        # Notified whenever any of the fields below has changed.
        self._state = threading.Condition()
        self._users: set[int] = set()
        # Threads whose calls are under way, whether or not they use the engine at the moment.
        self._callers: set[int] = set()
        self._replacing = False
        self._closed = False
        # Why the engine in use failed; None again once it is replaced.
        self._failure: EngineRunError | None = None
        # Why the failed engine could not be replaced.
        self._end: CnnresError | None = None

    @property
    def selection(self) -> Selection:
        """The engine in use."""
        return self._selection

    @property
    def closed(self) -> bool:
        """Whether no new work starts."""
        return self._closed

    @contextmanager
    def kept_open(self) -> Iterator[None]:
        """Let `close` wait until the end of the block, in which this thread may `run`.

        Raises
        ------
        UsageError
            If the chain is closed.
        """
        caller = threading.get_ident()
        if caller in self._callers:
            yield
            return
        try:
            with self._state:
                self._refuse_if_closed()
                self._callers.add(caller)
            yield
        finally:
            self._callers.discard(caller)
            self._notify()

    def run(self, work: Callable[[Engine], T], clock: Stopwatch) -> tuple[T, Selection]:
        """Do work with one engine; if that fails, do all of it again with the next.

        Parameters
        ----------
        work
            Called with the engine.
        clock
            Times the change of engines.

        Returns
        -------
        result
            What `work` returned.
        selection
            The engine that produced it.

        Raises
        ------
        EngineRunError
            If the engine fails and no other may or can take over.
        CnnresError
            If the change of engines fails for another reason, such as a
            `BundleError`. Every later call raises the same error again.
        UsageError
            If the chain is closed, or if `work` calls this itself.
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
        """Close the engine as soon as no call is under way; no new one starts.

        Raises
        ------
        UsageError
            If work in progress on this thread calls it, which would be a deadlock.
        """
        self._refuse_own_work(self._users | self._callers)
        with self._state:
            self._closed = True
            self._state.wait_for(lambda: not (self._users or self._callers or self._replacing))
        if self._failure is None:
            self._selection.engine.close()
        else:
            self._close_failed()

    @contextmanager
    def _in_use(self) -> Iterator[Selection]:
        self._refuse_own_work(self._users)
        user = threading.get_ident()
        try:
            with self._state:
                self._state.wait_for(lambda: not self._replacing)
                if user not in self._callers:
                    self._refuse_if_closed()
                self._check_end()
                self._users.add(user)
                selection = self._selection
            yield selection
        finally:
            # Done first, so that an interrupt cannot prevent it.
            self._users.discard(user)
            self._notify()

    def _replace(self, failed: Selection, failure: EngineRunError) -> None:
        """Replace an engine that failed, for later volumes too."""
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
                # After an interrupted replacement, the new failure only says "closed".
                self._failure = self._failure or failure
                self._state.wait_for(lambda: not self._users)
                if self._closed and threading.get_ident() not in self._callers:
                    raise failure
            # The next engine may need its memory.
            self._close_failed()
            self._open_next(self._failure)
        finally:
            if replacing:
                self._replacing = False
                self._notify()

    def _open_next(self, failure: EngineRunError) -> None:
        info = self._selection.engine.describe()
        _log.warning(
            "%s %s failed (%s); trying the next", info.backend, info.precision, failure.code
        )
        try:
            self._selection = self._selection.next(failure)
        except CnnresError as error:
            if error.code not in _OF_THIS_CALL:
                self._end = error
            raise
        self._failure = None

    def _close_failed(self) -> None:
        # A lost device may fail to close; that must not fail the volume.
        with suppress(Exception):
            self._selection.engine.close()

    def _notify(self) -> None:
        with self._state:
            self._state.notify_all()

    def _refuse_if_closed(self) -> None:
        if self._closed:
            raise UsageError("the predictor is closed: load it again")

    def _check_end(self) -> None:
        if self._end is not None:
            # A copy, since the traceback of an error grows wherever it is raised again.
            raise copy(self._end) from self._end

    def _refuse_own_work(self, busy: set[int]) -> None:
        if threading.get_ident() in busy:
            raise UsageError("this thread is computing with the predictor: wait until it is done")
