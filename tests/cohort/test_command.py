"""The command, as users run it."""

import json
import os
import signal
import subprocess
from pathlib import Path

import pytest

from tests.cohort.support import (
    ENGINE,
    claims,
    command,
    killer,
    masks,
    run,
    scheduler,
    wait_for,
    write_damaged,
    write_dataset,
    write_dwi,
)


def test_a_dry_run_says_what_would_be_done_and_writes_nothing(
    tmp_path: Path, bright_bundle: Path
) -> None:
    raw, out = write_dataset(tmp_path / "raw", 2), tmp_path / "out"
    (raw / "sub-003" / "anat").mkdir(parents=True)
    done = run(raw, out, "--dry-run", "--bundle", bright_bundle)
    assert done.returncode == 0, done.stderr
    assert "segment  sub-001: dwi sub-001_rec-TRACE_dwi.nii.gz" in done.stdout
    assert "skip  sub-003: no images in dwi/" in done.stdout
    assert "2 to segment, 0 known, 1 skipped" in done.stdout
    assert not out.exists()
    plan = json.loads(run(raw, out, "--dry-run", "--json", "--bundle", bright_bundle).stdout)
    assert [case["name"] for case in plan["plan"]["to_do"]] == ["sub-001", "sub-002"]
    assert not out.exists()


def test_outputs_may_be_derivatives_inside_a_bids_dataset(
    tmp_path: Path, bright_bundle: Path
) -> None:
    raw = write_dataset(tmp_path / "raw", 1)
    done = run(raw, raw / "derivatives" / "cnnres", "--dry-run", "--bundle", bright_bundle)
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.slow
def test_a_cohort_with_a_case_that_fails(tmp_path: Path, bright_bundle: Path) -> None:
    raw, out = write_dataset(tmp_path / "raw", 3), tmp_path / "out"
    write_damaged(raw / "sub-002/dwi/sub-002_rec-TRACE_dwi.nii.gz")
    before = {path: path.read_bytes() for path in raw.rglob("*.*")}
    done = run(raw, out, "--bundle", bright_bundle, "--jobs", "1", "--prob", *ENGINE)
    assert done.returncode == 3
    assert done.stderr.startswith("cnnres-infer: E-NIFTI-TRUNCATED: sub-002: ")
    assert done.stderr.count("\n") == 1
    assert "2 segmented, 0 unchanged, 1 failed, 0 skipped" in done.stdout
    # Each case takes a number of its own, and is counted in English.
    lines = [line for line in done.stdout.splitlines() if line.startswith("[")]
    assert [line[1:4] for line in lines] == ["1/3", "2/3", "3/3"]
    assert lines[1].endswith("] sub-002: failed, E-NIFTI-TRUNCATED")
    assert "] sub-001: 1 lesion, " in lines[0]
    assert len(masks(out)) == 2
    assert len(list(out.rglob("*_probseg.nii.gz"))) == 2
    assert before == {path: path.read_bytes() for path in raw.rglob("*.*")}
    # Another run does nothing, and still says what failed.
    again = run(raw, out, "--bundle", bright_bundle, "--json", "--prob", *ENGINE)
    report = json.loads(again.stdout)
    assert again.returncode == 3
    assert [case["status"] for case in report["cases"]] == [
        "unchanged",
        "failed before",
        "unchanged",
    ]
    # What was made with other settings is kept, which is no failure of the case.
    other = run(raw, out, "--bundle", bright_bundle, "--jobs", "1", *ENGINE)
    assert other.returncode == 3
    assert "made with other settings (--prob)" in other.stderr
    for dry in ([], ["--dry-run"]):
        printed = run(raw, out, "--bundle", bright_bundle, "--json", *dry, *ENGINE).stdout
        report = json.loads(printed)
        kept = (report["plan"]["known"] if dry else report["cases"])[0]
        assert "made with other settings (--prob)" in kept["error"]["message"]
        assert kept["error"]["message"].endswith("or add --overwrite")
    assert (
        "0 segmented, 0 unchanged, 2 kept (not known to be of these inputs and settings), 1 failed"
        in (other.stdout)
    )


@pytest.mark.parametrize(
    ("arguments", "status", "message"),
    [
        (["raw", "raw"], 2, "is the input"),
        (["plain", "plain/out"], 2, "lies in the input, where outputs would be taken for cases"),
        (["plain/scans", "plain"], 2, "the input lies in it"),
        (["nowhere", "out"], 2, "does not exist"),
        (["raw", "out", "--shard", "3/2"], 2, "--shard is '3/2'"),
        (["raw", "out", "--dask", "local", "--slurm", "short"], 2, "alternatives"),
        (["raw", "out", "--participant-label", "9"], 2, "no participant 9"),
        (["raw", "out", "--modality", "ct"], 2, "modality"),
        (["raw", "out", "--modality", "flair", "--bvalue", "1000"], 2, "leave out --bvalue"),
        (["raw", "out", "--bundle", "nowhere"], 3, "no bundle"),
        (["raw", "other"], 2, "another dataset"),
    ],
)
def test_errors_are_one_line_with_their_status(
    tmp_path: Path, bright_bundle: Path, arguments: list[str], status: int, message: str
) -> None:
    write_dataset(tmp_path / "raw", 1)
    write_dataset(tmp_path / "other", 1)
    write_dwi(tmp_path / "plain" / "scans" / "a.nii.gz")
    paths = [str(tmp_path / each) for each in arguments[:2]]
    bundle = [] if "--bundle" in arguments else ["--bundle", bright_bundle]
    done = run(*paths, *arguments[2:], *bundle)
    assert done.returncode == status, done.stderr
    assert message in done.stderr
    assert done.stderr.count("\n") == 1


@pytest.mark.slow
@pytest.mark.parametrize("as_json", [False, True])
def test_ctrl_c_finishes_the_case_in_hand(
    tmp_path: Path, bright_bundle: Path, as_json: bool
) -> None:
    raw, out = write_dataset(tmp_path / "raw", 12), tmp_path / "out"
    json_option = ["--json"] if as_json else []
    process = subprocess.Popen(
        command(raw, out, "--bundle", bright_bundle, "--jobs", "1", *ENGINE, *json_option),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    wait_for(lambda: claims(out), "a claim")
    # To all processes, as a terminal does.
    os.killpg(process.pid, signal.SIGINT)
    stdout, stderr = process.communicate(timeout=60)
    assert process.returncode == 130, stderr
    assert 1 <= len(masks(out)) < 12
    if as_json:
        report = json.loads(stdout)
        assert (report["status"], report["left"]) == ("interrupted", 12 - len(masks(out)))
    else:
        assert "finishing the cases in hand" in stderr
        assert "left; see" in stdout
    assert not claims(out)
    # The tables are of what there is.
    assert len((out / "cases.tsv").read_text().splitlines()) == 1 + len(masks(out))


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_a_run_that_was_ended_goes_on_where_it_was(
    tmp_path: Path, bright_bundle: Path, number: signal.Signals
) -> None:
    raw, out = write_dataset(tmp_path / "raw", 5), tmp_path / "out"
    arguments = (raw, out, "--bundle", bright_bundle, "--jobs", "1", "-q", *ENGINE)
    process = subprocess.Popen(command(*arguments))
    wait_for(lambda: masks(out), "a mask")
    process.send_signal(number)
    process.wait(timeout=30)
    # Its processes end by themselves, and leave nothing in hand.
    wait_for(lambda: not claims(out), "the end of the processes")
    written = {path: path.stat().st_mtime_ns for path in out.rglob("*_mask.nii.gz")}
    done = run(*arguments)
    assert (done.returncode, done.stderr) == (0, "")
    assert len(masks(out)) == 5
    assert written == {path: path.stat().st_mtime_ns for path in written}


@pytest.mark.slow
def test_all_ways_of_running_give_the_same_masks(tmp_path: Path, bright_bundle: Path) -> None:
    """Plainly, as two shards at once, and with Dask while a worker is killed."""
    pytest.importorskip("distributed")
    raw = write_dataset(tmp_path / "raw", 40)
    options = ("--bundle", bright_bundle, "--no-overlay", "-q", *ENGINE)
    plain, shared, dask = (tmp_path / name for name in ("plain", "shared", "dask"))
    done = run(raw, plain, *options)
    assert (done.returncode, done.stderr) == (0, "")

    shards = [
        subprocess.Popen(command(raw, shared, "--shard", f"{i}/2", "--jobs", "1", *options))
        for i in (1, 2)
    ]
    assert [shard.wait(timeout=120) for shard in shards] == [0, 0]

    with (
        scheduler(tmp_path, workers=2) as address,
        killer(dask, "sub-010", most=1) as killed,
    ):
        done = run(raw, dask, "--dask", address, "--json", *options)
    assert done.returncode == 0, done.stderr
    assert len(killed) == 1
    names = [case["name"] for case in json.loads(done.stdout)["cases"]]
    assert len(names) == len(set(names)) == 40

    assert len(masks(plain)) == 40
    assert masks(shared) == masks(plain)
    assert masks(dask) == masks(plain)
    for name in ("lesions.tsv", "lesions.json", "cases.json"):
        assert (shared / name).read_bytes() == (plain / name).read_bytes()
        assert (dask / name).read_bytes() == (plain / name).read_bytes()
    assert not any(claims(out) for out in (plain, shared, dask))
