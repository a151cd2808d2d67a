import pytest

from cnnres_infer.bundle.bundle import Bundle
from cnnres_infer.errors import BackendUnavailableError
from cnnres_infer.selection.autotune import fastest_first
from cnnres_infer.selection.offers import offers, open_engine
from cnnres_infer.selection.select import select
from tests.conftest import BundleMaker


def judged(make_bundle: BundleMaker, **passed: bool) -> Bundle:
    """A bundle with fp32 and both INT8 variants, of which the calibration judged some."""
    return Bundle.open(
        make_bundle(
            variants=dict.fromkeys(("fp32", "int8-cpu", "int8-trt"), "model.fp32.onnx"),
            calibration={
                "variants": {
                    name.replace("_", "-"): {"passed": each} for name, each in passed.items()
                }
            },
        )
    )


def test_what_missed_the_gate_is_not_offered(make_bundle: BundleMaker) -> None:
    """bfloat16 runs a file that float32 needs, so no file is missing where it failed."""
    assert list(offers(judged(make_bundle), "openvino")) == ["int8", "bf16", "fp32"]
    assert list(offers(judged(make_bundle, bf16=True), "openvino")) == ["int8", "bf16", "fp32"]
    failed = judged(make_bundle, bf16=False)
    assert offers(failed, "openvino") == {"int8": "int8-cpu", "fp32": "fp32"}
    # Nothing is left to measure.
    assert fastest_first(failed, "openvino") == ("int8", "fp32")
    one_file = judged(make_bundle, int8_cpu=False)
    assert list(offers(one_file, "openvino")) == ["bf16", "fp32"]
    assert offers(one_file, "tensorrt") == {"int8": "int8-trt", "fp32": "fp32"}


def test_asking_for_what_missed_the_gate_says_why(make_bundle: BundleMaker) -> None:
    why = r"since it missed the accuracy gate of the bundle's calibration; it offers int8, fp32$"
    bundle = judged(make_bundle, bf16=False)
    with pytest.raises(BackendUnavailableError, match=why):
        open_engine(bundle, "openvino", "bf16")
    pytest.importorskip("openvino")
    with pytest.raises(BackendUnavailableError, match=why):
        select(bundle, "openvino", "bf16")
    with pytest.raises(BackendUnavailableError, match=r"accuracy gate .* offers bf16, fp32$"):
        open_engine(judged(make_bundle, int8_cpu=False), "openvino", "int8")


def test_the_built_in_bundle_offers_nothing_that_failed() -> None:
    bundle = Bundle.open()
    verdicts = bundle.manifest["calibration"]["variants"]
    failed = {name for name, verdict in verdicts.items() if not verdict["passed"]}
    assert bundle.failed == failed
    assert failed.isdisjoint(offers(bundle, "openvino"))
