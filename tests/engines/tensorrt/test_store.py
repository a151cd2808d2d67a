import json
import multiprocessing
import os
from dataclasses import fields, replace
from pathlib import Path

import pytest

from cnnres_infer.engines.tensorrt.store import PlanKey, PlanStore

KEY = PlanKey(
    backend="tensorrt",
    version="10.16.1.11",
    onnx_sha256="a" * 64,
    precision="fp16",
    batch="1,16,16",
    flags="strongly-typed",
    sm="86",
    gpu="NVIDIA Fake 3060",
    driver="580.1",
    cuda="13.0",
    system="Linux",
    architecture="x86_64",
)


def refuse() -> bytes:
    pytest.fail("built again")


def test_a_plan_is_built_once_and_found_again(tmp_path: Path) -> None:
    store = PlanStore(tmp_path)
    first = store.get_or_build(KEY, lambda: b"plan")
    assert (first.content, first.rebuilt) == (b"plan", "")
    assert first.seconds > 0
    again = PlanStore(tmp_path).get_or_build(KEY, refuse)
    assert (again.content, again.path, again.seconds) == (b"plan", first.path, 0)
    sidecar = json.loads(first.path.with_suffix(".json").read_text())
    assert sidecar["key"]["driver"] == "580.1"
    assert sidecar["bytes"] == 4


@pytest.mark.parametrize("field", [field.name for field in fields(PlanKey)])
def test_every_input_makes_another_plan(tmp_path: Path, field: str) -> None:
    store = PlanStore(tmp_path)
    store.get_or_build(KEY, lambda: b"plan")
    other = replace(KEY, **{field: "b" * 64 if field == "onnx_sha256" else "other"})
    assert other.name != KEY.name
    plan = store.get_or_build(other, lambda: b"other plan")
    assert plan.content == b"other plan"
    if field not in ("backend", "precision", "batch"):
        assert plan.rebuilt.count(" was ") == 1
    assert store.get_or_build(KEY, refuse).content == b"plan"


def test_the_reason_names_what_changed(tmp_path: Path) -> None:
    store = PlanStore(tmp_path)
    store.put(replace(KEY, gpu="another", sm="75", driver="1"), b"x", 1.0)
    store.put(KEY, b"x", 1.0)
    plan = store.get_or_build(replace(KEY, driver="590.2"), lambda: b"y")
    assert plan.rebuilt == "driver was 580.1, is 590.2"


def test_a_refused_plan_is_replaced_and_no_other(tmp_path: Path) -> None:
    store = PlanStore(tmp_path)
    path = store.get_or_build(KEY, lambda: b"plan").path

    def fail() -> bytes:
        raise ValueError("no memory for a build")

    with pytest.raises(ValueError, match="no memory"):
        store.get_or_build(KEY, fail, refused=b"plan")
    assert store.get_or_build(KEY, refuse).content == b"plan"
    plan = store.get_or_build(KEY, lambda: b"new", refused=b"plan")
    assert (plan.content, plan.rebuilt) == (b"new", f"TensorRT refused {path.name}")
    # Another process has replaced it meanwhile.
    assert store.get_or_build(KEY, refuse, refused=b"plan").content == b"new"


@pytest.mark.parametrize("damage", ["torn", "gone"])
def test_a_damaged_plan_is_built_anew(tmp_path: Path, damage: str) -> None:
    store = PlanStore(tmp_path)
    path = store.get_or_build(KEY, lambda: b"plan").path
    path.write_bytes(b"pla") if damage == "torn" else path.unlink()
    plan = store.get_or_build(KEY, lambda: b"new")
    assert plan.content == path.read_bytes() == b"new"
    assert plan.rebuilt == f"{path.name} was damaged"


def test_a_sidecar_of_something_else_is_no_plan(tmp_path: Path) -> None:
    store = PlanStore(tmp_path)
    path = store.get_or_build(KEY, lambda: b"plan").path
    nested = "[" * (1 << 18)
    for text in (
        "{",
        "[]",
        "{}",
        nested,
        '{"format": 1}',
        '{"format": 2, "key": {"backend": "x"}}',
    ):
        path.with_suffix(".json").write_text(text)
        assert list(store.entries()) == []
    assert store.get_or_build(KEY, lambda: b"new").content == b"new"


def test_the_newest_batch_range_is_the_one_that_is_used(tmp_path: Path) -> None:
    store = PlanStore(tmp_path)
    assert store.newest_batch(KEY) is None
    for age, batch in ((200, "1,2,4"), (100, "1,4,8"), (300, "1,1,1")):
        path = store.put(replace(KEY, batch=batch), b"x", 1.0)
        os.utime(path, (2e9 - age, 2e9 - age))
    store.put(replace(KEY, driver="other", batch="2,2,2"), b"x", 1.0)
    assert store.newest_batch(KEY) == "1,4,8"


def build_and_count(folder: str, start: "multiprocessing.synchronize.Event") -> None:
    start.wait()

    def build() -> bytes:
        with (Path(folder) / "builds").open("a") as file:
            file.write("x")
        return b"plan"

    assert PlanStore(Path(folder)).get_or_build(KEY, build).content == b"plan"


def test_processes_that_build_at_once_do_the_work_once(tmp_path: Path) -> None:
    context = multiprocessing.get_context("spawn")
    start = context.Event()
    arguments = (str(tmp_path), start)
    processes = [context.Process(target=build_and_count, args=arguments) for _ in range(4)]
    for process in processes:
        process.start()
    start.set()
    for process in processes:
        process.join(timeout=60)
        assert process.exitcode == 0
    assert (tmp_path / "builds").read_text() == "x"
