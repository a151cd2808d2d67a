import pytest

from cnnres_infer.errors import LimitError, UsageError
from cnnres_infer.limits import DEFAULT_LIMITS, Limits, parse_size


@pytest.mark.parametrize(
    ("text", "size"), [("1500", 1500), ("2k", 2048), (" 3M ", 3 << 20), ("4G", 4 << 30)]
)
def test_sizes(text: str, size: int) -> None:
    assert parse_size(text) == size


@pytest.mark.parametrize("text", ["", "G", "-1", "1.5G", "1T", "1e9", "²"])
def test_invalid_sizes_are_refused(text: str) -> None:
    with pytest.raises(UsageError, match="is not a size"):
        parse_size(text)


@pytest.mark.parametrize("name", ["max_voxels", "max_bytes", "max_memory", "timeout"])
@pytest.mark.parametrize("value", [0, -1, float("nan")])
def test_limits_that_are_not_positive_are_refused(name: str, value: float) -> None:
    with pytest.raises(UsageError, match=f"`{name}` is"):
        Limits(**{name: value})  # type: ignore[arg-type]


def test_a_batch_is_never_smaller_than_the_minimum() -> None:
    resident = 100_000_000
    limits = Limits(max_memory=resident + 9_900_000)
    assert 1 <= limits.batch_size("a", (1, 64), (0, 0, 0), 1000, resident) < 12
    assert limits.batch_size("a", (4, 64), (0, 0, 0), 1000, resident) >= 4
    with pytest.raises(
        LimitError, match="a `backend` that needs fewer than 32 slices at once"
    ) as caught:
        limits.batch_size("a", (32, 64), (0, 0, 0), 1000, resident)
    assert caught.value.code == "E-LIMIT-MEMORY"
    with pytest.raises(LimitError, match=r": raise the limit$"):
        limits.batch_size("a", (32, 64), (0, 0, 0), 100_000, resident)
    assert DEFAULT_LIMITS.batch_size("a", (32, 64), (0, 0, 0), 100_000, resident) == 64


def test_sizes_are_compared_with_the_limits() -> None:
    cube = (512, 512, 512)
    DEFAULT_LIMITS.check_size("a", cube, 1 << 30, 0)
    with pytest.raises(LimitError, match="max_voxels=134217728"):
        DEFAULT_LIMITS.check_size("a", (*cube[:2], 513), 1 << 30, 0)
    with pytest.raises(LimitError, match="max_bytes="):
        DEFAULT_LIMITS.check_size("a", cube, (1 << 30) + 1, 0)
    with pytest.raises(LimitError, match="max_memory="):
        Limits(max_memory=1 << 20).check_size("a", (1, 1, 1), 1, 1 << 20)


def test_a_long_axis_counts() -> None:
    limits = Limits(max_memory=100_000_000)
    limits.check_size("a", (200, 200, 20), 0, 0)
    with pytest.raises(LimitError, match="max_memory="):
        limits.check_size("a", (50_000, 1, 1), 0, 0)
    assert limits.batch_size("a", (1, 64), (100, 100, 10), 1000, 0) == 64
    assert limits.batch_size("a", (1, 64), (5_000, 1, 1), 1000, 0) < 20


@pytest.mark.parametrize(
    ("name", "value", "unit"),
    [
        ("max_memory", "2G", "bytes"),
        ("max_bytes", "1G", "bytes"),
        ("max_bytes", None, "bytes"),
        ("max_voxels", [7], "voxels"),
        ("max_voxels", None, "voxels"),
        ("timeout", "60", "seconds"),
    ],
)
def test_a_limit_that_is_no_number_is_refused(name: str, value: object, unit: str) -> None:
    with pytest.raises(UsageError, match=f"`{name}` is .*give a number of {unit}"):
        Limits(**{name: value})  # type: ignore[arg-type]
