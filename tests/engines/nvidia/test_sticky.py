"""Which errors of CUDA are sticky, by CUDA's own documentation."""

from typing import Any

import pytest

from cnnres_infer.engines.nvidia import sticky

STICKY = {226, 700, 702, 710, 714, 715, 716, 717, 718, 719, 721, 810, 911}
# Not said to be sticky, but what has been computed since is in doubt.
MEMORY_IS_DAMAGED = 214
# Formerly the error of calls after 719, with the same words.
PRIOR_LAUNCH_FAILED = 53


@pytest.fixture
def runtime() -> Any:
    return pytest.importorskip("cuda.bindings.runtime", reason="needs pip install cuda-bindings")


def is_noted(message: str, noted: list[str]) -> bool:
    noted.clear()
    sticky.note(RuntimeError(message))
    return bool(noted)


def test_they_are_those_of_the_documentation(runtime: Any) -> None:
    texts = {int(each): " ".join((each.__doc__ or "").split()) for each in runtime.cudaError_t}
    found = {n for n, text in texts.items() if "must be terminated and relaunched" in text}
    if not found:
        pytest.skip("these bindings do not document errors")
    assert found == STICKY


def test_they_are_told_by_number_and_by_words(runtime: Any, sticky_errors: list[str]) -> None:
    words = {
        int(each): runtime.cudaGetErrorString(each)[1].decode() for each in runtime.cudaError_t
    }
    for written in ("CUDA error {}: ", "CUDA failure {}: ", "(cudaError {}: "):
        by_number = {n for n in words if is_noted(written.format(n), sticky_errors)}
        assert by_number == {*STICKY, MEMORY_IS_DAMAGED}
    by_words = {n for n in words if is_noted(f"Cuda Runtime ({words[n]})", sticky_errors)}
    assert by_words == {*STICKY, MEMORY_IS_DAMAGED, PRIOR_LAUNCH_FAILED}
