import os
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest
import threadpoolctl

from cnnres_infer.host import blas
from cnnres_infer.host.blas import single_blas_thread
from tests.threads import PATIENCE_S, in_threads


def blas_threads() -> list[int]:
    """Number of threads of each loaded OpenBLAS, including NumPy's."""
    return [
        each["num_threads"]
        for each in threadpoolctl.threadpool_info()
        if each["internal_api"] == "openblas"
    ]


def set_blas_threads(count: int) -> None:
    """Set the number on a thread that ends, so that it does not keep control."""
    with ThreadPoolExecutor(1) as pool:
        pool.submit(threadpoolctl.threadpool_limits, count, "blas").result()


@pytest.fixture(autouse=True)
def several() -> Iterator[list[int]]:
    """Numbers of threads before and after each test, none of which is one."""
    before = blas_threads()
    if not before:
        pytest.skip("numpy has no OpenBLAS")
    set_blas_threads(3)
    found = blas_threads()
    assert set(found) == {3}
    yield found
    assert blas_threads() == found
    assert (blas._users, blas._limit) == (0, None)
    set_blas_threads(before[0])


def test_one_thread_inside_the_context(several: list[int]) -> None:
    with single_blas_thread():
        assert set(blas_threads()) == {1}
    assert blas_threads() == several


def test_overlapping_contexts_end_in_any_order(several: list[int]) -> None:
    first, second = single_blas_thread(), single_blas_thread()
    first.__enter__()
    second.__enter__()
    first.__exit__(None, None, None)
    assert set(blas_threads()) == {1}
    second.__exit__(None, None, None)
    assert blas_threads() == several


def test_nested_contexts(several: list[int]) -> None:
    with single_blas_thread():
        with single_blas_thread():
            pass
        assert set(blas_threads()) == {1}
    assert blas_threads() == several


def test_overlapping_threads(several: list[int]) -> None:
    """The first thread to enter stays alive, and leaves before the last one."""
    threads = 4
    together = threading.Barrier(threads, timeout=PATIENCE_S)
    turns = [threading.Event() for _ in range(threads + 1)]

    def work(index: int) -> tuple[list[int], list[int]]:
        assert turns[index].wait(PATIENCE_S)
        with single_blas_thread():
            turns[index + 1].set()
            together.wait()
            inside = blas_threads()
            together.wait()
            if index == threads - 1:
                assert first_left.wait(PATIENCE_S)
        if index == 0:
            first_left.set()
        together.wait()
        return inside, blas_threads()

    first_left = threading.Event()
    turns[0].set()
    with ThreadPoolExecutor(threads) as pool:
        for inside, after in pool.map(work, range(threads)):
            assert set(inside) == {1}
            assert after == several


@pytest.mark.parametrize("threads", [1, 4])
def test_threads_that_come_and_go(several: list[int], threads: int) -> None:
    def work(_index: int) -> None:
        for _ in range(5):
            with single_blas_thread():
                assert set(blas_threads()) == {1}

    in_threads(threads, work)
    assert blas_threads() == several


def test_a_permanent_limit_of_the_caller_is_no_obstacle(several: list[int]) -> None:
    threadpoolctl.threadpool_limits(2, "blas")

    def work(_index: int) -> None:
        with single_blas_thread():
            assert set(blas_threads()) == {1}

    in_threads(2, work)
    assert set(blas_threads()) == {2}
    threadpoolctl.threadpool_limits(several[0], "blas")
    assert blas_threads() == several
    if hasattr(threadpoolctl.OpenBLASController, "clear_controlling_thread"):
        threadpoolctl.OpenBLASController.clear_controlling_thread()


def in_child(work: Callable[[], object]) -> int:
    """Run work in a forked process, and return its exit status."""
    child = os.fork()
    if child == 0:
        status = 1
        try:
            work()
            status = 0
        finally:
            os._exit(status)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
@pytest.mark.parametrize("locked", [False, True])
def test_a_process_forked_inside_the_context_starts_afresh(
    several: list[int], locked: bool
) -> None:
    first = single_blas_thread()

    def use_in_child() -> None:
        assert (blas._users, blas._limit) == (0, None)
        set_blas_threads(2)
        with single_blas_thread():
            assert set(blas_threads()) == {1}
            # The forked code leaves this context too; it only counts in the parent.
            first.__exit__(None, None, None)
            assert (blas._users, set(blas_threads())) == (1, {1})
        assert (blas._users, blas._limit) == (0, None)
        assert set(blas_threads()) == {2}

    first.__enter__()
    if locked:
        with blas._lock:
            status = in_child(use_in_child)
    else:
        status = in_child(use_in_child)
    assert status == 0
    assert set(blas_threads()) == {1}
    first.__exit__(None, None, None)
    assert blas_threads() == several


def test_an_error_inside_restores_the_setting(several: list[int]) -> None:
    with pytest.raises(ValueError, match="no"), single_blas_thread():
        raise ValueError("no")
    assert blas_threads() == several


def test_an_error_on_entry_leaves_nothing_behind(
    several: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail() -> None:
        raise OSError("a library cannot be looked into")

    with monkeypatch.context() as patch:
        patch.setattr(blas, "_openblas", fail)
        with pytest.raises(OSError, match="looked into"), single_blas_thread():
            pytest.fail("it was entered")
    assert blas_threads() == several
    with single_blas_thread():
        assert set(blas_threads()) == {1}
    assert blas_threads() == several


def test_a_setting_made_between_contexts_is_restored(several: list[int]) -> None:
    for count in (2, several[0]):
        set_blas_threads(count)
        with single_blas_thread():
            assert set(blas_threads()) == {1}
        assert set(blas_threads()) == {count}
