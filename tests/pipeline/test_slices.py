from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from cnnres_infer.core.batch import SliceBatch
from cnnres_infer.core.grid import Grid
from cnnres_infer.core.spec import FusionSpec, SliceSpec
from cnnres_infer.core.volume import Volume
from cnnres_infer.errors import GeometryError, VolumeError
from cnnres_infer.pipeline.fusion import Fused
from cnnres_infer.pipeline.resample import resampling_matrix
from cnnres_infer.pipeline.shading import remove_shading
from cnnres_infer.pipeline.slices import source
from cnnres_infer.pipeline.slices.back import SliceOutputs
from cnnres_infer.pipeline.slices.batches import to_batches, whole_slices
from cnnres_infer.pipeline.slices.geometry import SliceGeometry
from cnnres_infer.pipeline.slices.normalisation import tissue_median
from tests.conftest import ORIENTATIONS, blob_volume, oriented_affine

SPEC = SliceSpec(size=160, spacing=1.25, ceiling=2.0)
BRAINS = SliceSpec(size=160, spacing=1.25, ceiling=2.0, frame="brain")
orientations = st.sampled_from(ORIENTATIONS)
tilts = st.tuples(*[st.floats(-0.4, 0.4)] * 3)


@pytest.mark.parametrize(("order", "signs"), ORIENTATIONS)
def test_axial_axes_of_the_48_orientations(order: tuple[int, ...], signs: tuple[int, ...]) -> None:
    shape = (4, 5, 6)
    grid = Grid(shape, oriented_affine(order, signs, (1.0, 2.0, 3.0), shape=shape))
    mm = grid.to_mm(np.moveaxis(np.indices(shape), 0, -1).astype(float))
    right, anterior, superior = (grid.orientation.view(mm[..., i]) for i in range(3))
    assert (np.diff(anterior, axis=0) < 0).all()
    assert (np.diff(right, axis=1) < 0).all()
    assert (np.diff(superior, axis=2) > 0).all()


def test_parallel_axes_are_refused() -> None:
    affine = np.eye(4)
    affine[:3, 1] = [1.0, 1e-5, 0.0]
    with pytest.raises(GeometryError, match="parallel"):
        Grid((4, 4, 4), affine).orientation  # noqa: B018


@given(orientations, tilts, st.floats(1.25, 3.0), st.floats(1.25, 3.0), st.data())
def test_a_marked_voxel_returns_to_its_position(
    orientation: tuple[tuple[int, ...], tuple[int, ...]],
    tilt: tuple[float, float, float],
    across: float,
    along: float,
    data: st.DataObject,
) -> None:
    order, signs = orientation
    shape = data.draw(st.tuples(*[st.integers(1, 40)] * 3))
    grid = Grid(shape, oriented_affine(order, signs, (across, along, 2.0), tilt, shape))
    geometry = SliceGeometry.of(grid, np.ones(shape, np.bool_), SPEC)
    place = data.draw(st.tuples(*[st.integers(0, n - 1) for n in shape]))
    marked = np.zeros(shape, np.float32)
    marked[place] = 1.0
    back = np.zeros(shape, np.float32)
    images = geometry.to_pixels(geometry.planes(marked))
    geometry.planes(back)[:] = geometry.to_voxels(images)
    assert np.unravel_index(back.argmax(), shape) == place


@given(st.floats(0.4, 3.0), st.floats(0.4, 3.0), st.floats(-20, 20), st.floats(-20, 20), tilts)
def test_a_smooth_image_survives_a_round_trip(
    across: float, along: float, x: float, y: float, tilt: tuple[float, float, float]
) -> None:
    shape = (int(150 / across), int(150 / along), 3)
    grid = Grid(shape, oriented_affine((0, 1, 2), (1, 1, 1), (across, along, 5.0), tilt, shape))
    i, j, _ = np.indices(shape).astype(np.float32)
    distance = ((i - shape[0] / 2) * across - x) ** 2 + ((j - shape[1] / 2) * along - y) ** 2
    smooth = np.exp(-distance / (2 * 12.0**2)).astype(np.float32)
    geometry = SliceGeometry.of(grid, np.ones(shape, np.bool_), SPEC)
    back = np.zeros(shape, np.float32)
    geometry.planes(back)[:] = geometry.to_voxels(geometry.to_pixels(geometry.planes(smooth)))
    assert np.abs(back - smooth).max() < 0.04


@pytest.mark.parametrize("shape", [(160, 160, 3), (97, 141, 1), (61, 60, 4)])
def test_the_inverse_is_exact_at_the_networks_spacing(shape: tuple[int, int, int]) -> None:
    grid = Grid(shape, oriented_affine((1, 0, 2), (1, -1, -1), (1.25, 1.25, 6.0), shape=shape))
    values = np.random.default_rng(0).random(shape, np.float32)
    geometry = SliceGeometry.of(grid, np.ones(shape, np.bool_), SPEC)
    images = geometry.to_pixels(geometry.planes(values))
    assert np.array_equal(geometry.to_voxels(images), geometry.planes(values))


def test_the_brain_is_centred_in_the_image() -> None:
    shape = (100, 100, 2)
    grid = Grid(shape, oriented_affine((0, 1, 2), (-1, 1, 1), (2.0, 2.0, 5.0), shape=shape))
    brain = np.zeros(shape, np.bool_)
    brain[60:90, 5:45] = True
    geometry = SliceGeometry.of(grid, brain, SPEC)
    rows, columns = np.nonzero(geometry.to_pixels(geometry.planes(brain).astype(np.float32))[0])
    assert abs(rows.mean() - 80) <= 2
    assert abs(columns.mean() - 80) <= 2


def test_an_empty_brain_mask_is_refused() -> None:
    grid = Grid((4, 4, 4), np.eye(4))
    with pytest.raises(VolumeError, match="brain"):
        SliceGeometry.of(grid, np.zeros((4, 4, 4), np.bool_), SPEC)


@given(st.integers(1, 80), st.integers(1, 80), st.floats(-9, 9), st.floats(0.2, 4.0))
def test_resampling_weights_sum_to_one_inside_and_zero_outside(
    n_in: int, n_out: int, start: float, step: float
) -> None:
    matrix = resampling_matrix(n_in, n_out, start, step)
    position = start + step * np.arange(n_out)
    reach = max(1.0, step)
    inside = (position >= reach) & (position <= n_in - 1 - reach)
    outside = (position <= -reach - 1) | (position >= n_in + reach)
    assert matrix.shape == (n_out, n_in)
    assert (matrix >= 0).all()
    np.testing.assert_allclose(matrix[inside].sum(axis=1), 1.0, rtol=1e-5)
    assert not matrix[outside].any()


def test_tissue_median_ignores_fluid_and_edges() -> None:
    volume, _ = blob_volume()
    brain = volume.data > 0
    assert tissue_median(volume, brain) == pytest.approx(100.0, rel=2e-3)
    dark = volume.data.copy()
    dark[:20] *= 0.2
    assert tissue_median(Volume(dark, volume.grid), brain) == pytest.approx(100.0, rel=5e-3)


def test_a_dark_brain_is_refused() -> None:
    volume = Volume(-np.ones((3, 3, 3), np.float32), Grid((3, 3, 3), np.eye(4)))
    with pytest.raises(VolumeError, match="dark"):
        tissue_median(volume, np.ones((3, 3, 3), np.bool_))


def test_batches_are_normalised_and_skip_slices_without_brain() -> None:
    volume, _ = blob_volume()
    brain = volume.data > 0
    brain[:, :, 7] = False
    geometry = SliceGeometry.of(volume.grid, brain, SPEC)
    batches = list(to_batches((volume, volume), brain, geometry, SPEC, 3))
    z = np.concatenate([batch.z for batch in batches])
    images = np.concatenate([batch.images for batch in batches])
    assert images.dtype == np.float32
    assert images.shape == (len(z), 2, 160, 160)
    assert 7 not in z
    assert max(len(batch.z) for batch in batches) == 3
    assert np.array_equal(z, np.flatnonzero(brain.any(axis=(0, 1))))
    np.testing.assert_allclose(np.median(images[images > 0.4]), 0.5, rtol=2e-3)
    np.testing.assert_allclose(images.max(), 0.95, rtol=2e-3)


def test_slices_in_no_batch_are_exactly_zero() -> None:
    volume, _ = blob_volume()
    brain = volume.data > 0
    geometry = SliceGeometry.of(volume.grid, brain, SPEC)
    batches = to_batches((volume,), brain, geometry, SPEC, 5)
    output = SliceOutputs(volume.grid, geometry)
    for batch in batches:
        if batch.z[0] != 5:
            output.put(batch, np.ones_like(batch.images))
    probabilities = output.probabilities().data
    filled = np.asarray(probabilities.any(axis=(0, 1)))
    assert filled.any()
    assert not probabilities[:, :, ~brain.any(axis=(0, 1))].any()
    assert not filled[5]
    assert probabilities.max() <= 1.0


@pytest.mark.parametrize("shape", [(64, 64, 1), (64, 64, 3), (512, 512, 2), (1, 64, 9)])
def test_odd_sizes_keep_their_shape(shape: tuple[int, int, int]) -> None:
    grid = Grid(shape, oriented_affine((0, 1, 2), (1, 1, 1), (0.45, 0.45, 5.0), shape=shape))
    volume = Volume(np.full(shape, 7.0, np.float32), grid)
    brain = np.ones(shape, np.bool_)
    geometry = SliceGeometry.of(grid, brain, SPEC)
    output = SliceOutputs(grid, geometry)
    for batch in to_batches((volume,), brain, geometry, SPEC, 2):
        output.put(batch, batch.images)
    probabilities = output.probabilities()
    assert probabilities.data.shape == shape
    assert 0.1 < float(np.median(probabilities.data)) <= 0.5


def brain_of(shape: tuple[int, int, int], seed: int) -> tuple[Volume, NDArray[np.bool_]]:
    """An egg of noise, off-centre and of another size in each slice."""
    rng = np.random.default_rng(seed)
    x, y, z = np.indices(shape)
    middle, radii = rng.uniform(0.4, 0.6, 2), rng.uniform(0.2, 0.45, 2)
    middle, radii = middle * shape[:2], radii * shape[:2] * np.sqrt((z[..., None] + 1) / shape[2])
    distance = ((x - middle[0]) / radii[..., 0]) ** 2 + ((y - middle[1]) / radii[..., 1]) ** 2
    brain = np.asarray(distance + 0.1 * (x > middle[0]) < 1)
    data = np.where(brain, rng.uniform(50, 150, shape), 0.0).astype(np.float32)
    grid = Grid(shape, oriented_affine((0, 1, 2), (-1, 1, 1), (1.9, 1.7, 5.0), shape=shape))
    return Volume(data, grid), brain


def crops_of(volume: Volume, brain: NDArray[np.bool_], spec: SliceSpec) -> dict[int, SliceBatch]:
    geometry = SliceGeometry.of(volume.grid, brain, spec)
    return {int(batch.z[0]): batch for batch in to_batches((volume,), brain, geometry, spec, 1)}


@given(st.integers(0, 10_000), st.integers(70, 90), st.integers(80, 110))
@settings(max_examples=10)
def test_a_mirrored_volume_has_the_mirrored_crops(seed: int, x: int, y: int) -> None:
    volume, brain = brain_of((x, y, 5), seed)
    crops = crops_of(volume, brain, BRAINS)
    assert len(crops) == 5
    for axis, pixels_axis in ((0, 3), (1, 2)):
        mirrored = Volume(np.flip(volume.data, axis).copy(), volume.grid)
        for z, batch in crops_of(mirrored, np.flip(brain, axis), BRAINS).items():
            expected = np.flip(crops[z].images, pixels_axis)
            assert batch.images.shape == expected.shape
            np.testing.assert_allclose(batch.images, expected, atol=1e-4)
            spans = list(crops[z].boxes[0])
            spans[pixels_axis - 2] = slice(
                160 - spans[pixels_axis - 2].stop, 160 - spans[pixels_axis - 2].start
            )
            assert batch.boxes == (tuple(spans),)


@given(st.integers(0, 10_000), st.integers(1, 4))
@settings(max_examples=10)
def test_crops_land_where_whole_slices_do(seed: int, batch_size: int) -> None:
    """What is computed from crops is at the voxels that it was computed from."""
    volume, brain = brain_of((80, 100, 6), seed)
    geometry = SliceGeometry.of(volume.grid, brain, BRAINS)
    outputs = [SliceOutputs(volume.grid, geometry) for _ in range(2)]
    for batches, output in zip((to_batches, whole_slices), outputs, strict=True):
        for batch in batches((volume,), brain, geometry, BRAINS, batch_size):
            output.put(batch, batch.images)
    from_crops, from_slices = (output.probabilities().data for output in outputs)
    # Pixels that are nearly black may be cut off.
    np.testing.assert_allclose(from_crops, from_slices, atol=0.02)
    assert from_crops.max() > 0.3


@given(
    st.integers(0, 10_000),
    st.floats(0.05, 0.95),
    st.floats(0.9, 0.9999),
    st.tuples(*[st.sampled_from([0.5, 1.25, 3.0])] * 2),
)
@settings(max_examples=20)
def test_a_threshold_is_that_of_all_probabilities(
    seed: int, threshold: float, dark: float, spacing: tuple[float, float]
) -> None:
    """Where few pixels are bright, only those around them are computed, to the same answer."""
    rng = np.random.default_rng(seed)
    grid = Grid((60, 50, 20), np.diag([*spacing, 4.0, 1.0]))
    brain = np.ones(grid.shape, np.bool_)
    geometry = SliceGeometry.of(grid, brain, SPEC)
    outputs = [SliceOutputs(grid, geometry) for _ in range(2)]
    covered = rng.random(grid.shape) < 0.5
    for output in outputs:
        images = rng.random((20, 1, 160, 160), np.float32)
        images *= rng.random(images.shape) > dark
        output.put(SliceBatch(images, np.arange(20)), images)
    fused = Fused(outputs[0], outputs[1], geometry, covered, FusionSpec("mean", 0.7))
    for each in (outputs[0], fused):
        found = each.above(lambda values: values >= threshold)
        np.testing.assert_array_equal(found, each.probabilities().data >= threshold)


def test_a_grid_with_the_networks_spacing_is_not_interpolated() -> None:
    for extent in (79, 80):
        shape = (extent, extent, 2)
        affine = oriented_affine((0, 1, 2), (-1, 1, 1), (1.25, 1.25, 5.0), shape=shape)
        brain = np.zeros(shape, np.bool_)
        brain[3:-3, 5:-5] = True
        brain[2, 10:40] = brain[10:40, 4] = True
        values = np.where(brain, np.random.default_rng(0).random(shape), 0).astype(np.float32)
        geometry = SliceGeometry.of(Grid(shape, affine), brain, BRAINS)
        planes = geometry.planes(values)
        assert np.array_equal(geometry.to_voxels(geometry.to_pixels(planes)), planes)


@pytest.mark.parametrize("kept", [0, 1 << 22])
def test_shading_is_removed_as_from_the_whole_volume(
    kept: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(source, "_KEPT", kept)
    volume, brain = brain_of((40, 48, 12), 1)
    bright = np.linspace(0.7, 1.4, 40, dtype=np.float32)[:, None, None]
    shaded = Volume(volume.data * bright, volume.grid)
    geometry = SliceGeometry.of(volume.grid, brain, SPEC)
    removed = replace(SPEC, shading="removed")
    (found,) = to_batches((shaded,), brain, geometry, removed, 99)
    (expected,) = to_batches((remove_shading(shaded, brain),), brain, geometry, SPEC, 99)
    (untouched,) = to_batches((shaded,), brain, geometry, SPEC, 99)
    np.testing.assert_allclose(found.images, expected.images, atol=1e-6)
    assert np.abs(found.images - untouched.images).max() > 0.05
