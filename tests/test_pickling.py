"""A predictor in other processes: pickled by how it was loaded, and opened there again."""

import copy
import multiprocessing
import os
import pickle
import sys
import weakref
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import pytest

from cnnres_infer import Limits, Predictor
from cnnres_infer.core.result import Result
from cnnres_infer.errors import BundleError, UsageError
from cnnres_infer.selection.select import Selection
from tests.conftest import BundleMaker, blob_volume

VOLUME, _ = blob_volume()


def again(predictor: Predictor) -> Predictor:
    other = pickle.loads(pickle.dumps(predictor))
    assert isinstance(other, Predictor)
    return other


def segment(predictor: Predictor) -> tuple[int, Result]:
    with predictor:
        return os.getpid(), predictor.predict(VOLUME)


@pytest.mark.slow
def test_another_process_segments_the_same(bright_bundle: Path) -> None:
    with (
        Predictor.load(bright_bundle, "ort", "fp32", threads=1) as predictor,
        ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool,
    ):
        process, result = pool.submit(segment, predictor).result()
        here = predictor.predict(VOLUME)
    assert process != os.getpid()
    assert result.mask.data.any()
    assert result.mask.data.tobytes() == here.mask.data.tobytes()
    assert result.lesions == here.lesions
    assert result.provenance.engine == here.provenance.engine
    assert result.probabilities.data.tobytes() == here.probabilities.data.tobytes()


def test_what_is_carried_over(
    bright_bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(bright_bundle.parent)
    limits = Limits(max_memory=4 << 30, timeout=100)
    with Predictor.load(
        bright_bundle.name, "ort", "fp32", 1, self_check=False, limits=limits
    ) as predictor:
        pickled = pickle.dumps(predictor)
    monkeypatch.chdir(tmp_path)
    with pickle.loads(pickled) as other:
        assert other.bundle.folder == bright_bundle
        assert other.limits == limits
        assert other.selection.verification is None
        info = other.engine.describe()
        assert (info.backend, info.precision, info.threads) == ("ort", "fp32", 1)
    assert len(pickled) < 2000, "the model travels by its path"


def test_the_trusted_key_is_asked_for_again(make_bundle: BundleMaker, tmp_path: Path) -> None:
    pytest.importorskip("cryptography")
    from export.signing import make_key, sign_bundle

    bundle, private = make_bundle(), tmp_path / "key"
    public = make_key(private)
    sign_bundle(bundle, private)
    with Predictor.load(bundle, "ort", "fp32", trusted_key=public) as predictor:
        pickled = pickle.dumps(predictor)
        with pickle.loads(pickled) as other:
            assert other.bundle.must_be_signed
    (bundle / "model.json.sig").unlink(missing_ok=True)
    with pytest.raises(BundleError, match="sign"):
        pickle.loads(pickled)


def test_another_bundle_in_its_place_is_refused(make_bundle: BundleMaker) -> None:
    bundle, other = make_bundle(), make_bundle(version="2")
    with Predictor.load(bundle, "ort", "fp32", self_check=False) as predictor:
        pickled = pickle.dumps(predictor)
    (other / "model.json").replace(bundle / "model.json")
    with pytest.raises(BundleError, match="not the bundle") as caught:
        pickle.loads(pickled)
    assert caught.value.code == "E-BUNDLE-HASH"


def test_a_copy_is_closed_on_its_own(bright_bundle: Path) -> None:
    with Predictor.load(bright_bundle, "ort", "fp32", self_check=False) as predictor:
        copy.deepcopy(predictor).close()
        assert again(predictor).predict(VOLUME).mask.data.any()
        assert predictor.predict(VOLUME).mask.data.any()


def test_a_closed_one_is_refused(bright_bundle: Path) -> None:
    predictor = Predictor.load(bright_bundle, "ort", "fp32", self_check=False)
    predictor.close()
    with pytest.raises(UsageError, match="the predictor is closed"):
        pickle.dumps(predictor)


def test_one_around_an_open_engine_is_refused(bright_bundle: Path) -> None:
    with Predictor.load(bright_bundle, "ort", "fp32", self_check=False) as predictor:
        made = Predictor(predictor.bundle, Selection(predictor.engine))
        with pytest.raises(UsageError, match=r"Predictor\.load"):
            pickle.dumps(made)


def open_files() -> set[str]:
    folder = Path("/proc/self/fd")
    return {str(each.readlink()) for each in folder.iterdir() if each.is_symlink()}


def count_threads() -> int:
    return len(list(Path("/proc/self/task").iterdir()))


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="asks /proc")
@pytest.mark.parametrize("name", ["ort", "openvino"])
def test_closing_releases_engine_threads_and_files(bright_bundle: Path, name: str) -> None:
    if name == "openvino":
        pytest.importorskip("openvino")
    with Predictor.load(bright_bundle, name, "fp32", threads=2):
        pass  # what a runtime keeps for the life of the process is there from here on
    files, threads = open_files(), count_threads()
    predictor = Predictor.load(bright_bundle, name, "fp32", threads=2)
    engine = weakref.ref(predictor.engine._handle)  # type: ignore[attr-defined]
    result = predictor.predict(VOLUME)
    predictor.close()
    assert engine() is None
    assert count_threads() <= threads
    assert open_files() <= files
    # What was computed stays.
    assert result.probabilities.data.any()
