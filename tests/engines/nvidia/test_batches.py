from hypothesis import given
from hypothesis import strategies as st

from cnnres_infer.engines.nvidia.batches import LADDER, ladder, split

SIZES = st.integers(1, 64)


@given(SIZES, SIZES, st.integers(0, 200))
def test_every_image_is_in_one_batch_of_an_allowed_size(a: int, b: int, count: int) -> None:
    smallest, largest = sorted((a, b))
    sizes = ladder(smallest, largest)
    assert list(sizes) == sorted(set(sizes))
    assert smallest <= sizes[0]
    assert sizes[-1] == largest
    parts = list(split(count, sizes))
    assert [i for part in parts for i in range(part.rows.start, part.rows.stop)] == [*range(count)]
    for part in parts:
        held = part.rows.stop - part.rows.start
        assert part.padded in sizes
        assert not any(held <= size < part.padded for size in sizes)


def test_a_usual_volume_of_73_slices() -> None:
    assert ladder(1, 16) == LADDER == (4, 8, 16)
    assert [part.padded for part in split(73, LADDER)] == [16] * 5
    assert [part.padded for part in split(67, LADDER)] == [16] * 4 + [4]
    assert ladder(1, 1) == (1,)
    assert ladder(1, 32) == (4, 8, 16, 32)
