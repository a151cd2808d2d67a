"""The log, the figures, and what `status` makes of them."""

import os
import re
import stat
from dataclasses import replace
from pathlib import Path

import pytest

from cnnres_infer.errors import UsageError
from cnnres_infer.service.health import (
    Health,
    LogLine,
    Waiting,
    check_metrics,
    percentiles,
    read_log,
)
from cnnres_infer.service.state import open_area
from cnnres_infer.service.status import read_status

LINE = LogLine("abc", "done", None, 10.0, 11.0, 12.5, 1.25, 1, 2, 3.5, ("W-X",))
SAMPLE = re.compile(r'[a-z_:]+(\{[a-z]+="[^"]*"\})? -?[0-9.e+-]+')


def test_each_case_is_logged_once(tmp_path: Path) -> None:
    Health(tmp_path).observe(LINE)
    again = Health(tmp_path)
    again.observe(LINE)
    again.observe(replace(LINE, claimed=20.0, status="failed", code="E-X"))
    assert list(read_log(tmp_path / "log.jsonl")) == [
        LINE,
        replace(LINE, claimed=20.0, status="failed", code="E-X"),
    ]


@pytest.mark.skipif(os.name == "nt", reason="permissions of POSIX")
def test_another_user_can_collect_the_figures(tmp_path: Path) -> None:
    before = os.umask(0o077)
    try:
        Health(tmp_path, tmp_path / "a.prom").publish(Waiting(0, 0, 0, None), 1.0)
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "a.prom").stat().st_mode) == 0o644


def test_damaged_lines_are_skipped(tmp_path: Path) -> None:
    Health(tmp_path).observe(LINE)
    with (tmp_path / "log.jsonl").open("ab") as log:
        log.write(b'{"study": "x"}\n\xff\n[]\n{"stu')
    assert list(read_log(tmp_path / "log.jsonl")) == [LINE]


def test_figures_are_what_prometheus_reads(tmp_path: Path) -> None:
    health = Health(tmp_path)
    for number in range(10):
        health.observe(replace(LINE, claimed=float(number), ended=11.0 + number))
    health.observe(replace(LINE, status="failed", code="E-X"))
    health.count("object received")
    Health(tmp_path).publish(Waiting(2, 1, 3, 90.0), 100.0)
    health.publish(Waiting(2, 1, 3, 90.0), 100.0)
    lines = (tmp_path / "metrics.prom").read_text().splitlines()
    assert all(SAMPLE.fullmatch(line) for line in lines if not line.startswith("#")), lines
    for expected in (
        'cnnres_infer_cases_total{status="done"} 10',
        'cnnres_infer_cases_total{status="failed"} 1',
        'cnnres_infer_events_total{event="object received"} 1',
        'cnnres_infer_latency_seconds{quantile="0.5"} 6',
        'cnnres_infer_latency_seconds{quantile="0.99"} 10',
        'cnnres_infer_queue_length{state="arriving"} 2',
        "cnnres_infer_pushes_pending 3",
        "cnnres_infer_oldest_age_seconds 10",
    ):
        assert expected in lines


def test_figures_replace_figures_alone(tmp_path: Path) -> None:
    path = tmp_path / "a.prom"
    check_metrics(path)
    path.touch()
    check_metrics(path)
    Health(tmp_path, path).publish(Waiting(0, 0, 0, None), 1.0)
    check_metrics(path)
    path.write_text("# HELP node_load1 1m load average.\n")
    with pytest.raises(UsageError, match="choose another"):
        check_metrics(path)


def test_percentiles_are_values() -> None:
    assert percentiles([]) == {}
    assert percentiles([3.0]) == {0.5: 3.0, 0.9: 3.0, 0.99: 3.0}
    assert percentiles(map(float, range(100))) == {0.5: 50.0, 0.9: 90.0, 0.99: 99.0}


def test_status(tmp_path: Path) -> None:
    (tmp_path / "a.nii.gz").write_text("")
    with open_area(tmp_path):
        Health(tmp_path).observe(replace(LINE, status="failed", code="E-X"))
        report = read_status(tmp_path)
    assert report.running
    assert (report.arriving, report.working, report.done, report.failed) == (1, 0, 0, 1)
    assert report.last_failed[0].code == "E-X"
    assert report.oldest_age_s is not None
    assert not read_status(tmp_path).running
    with pytest.raises(UsageError):
        read_status(tmp_path / "nowhere")
