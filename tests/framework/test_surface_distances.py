"""Distances between surfaces, on shapes whose distances are known and against plain searches."""

from __future__ import annotations

import math
from itertools import product

import numpy as np
import pytest
from scipy.ndimage import distance_transform_edt, gaussian_filter
from scipy.spatial.distance import cdist

from framework.evaluation import surface_elements as elements_module
from framework.evaluation.surface_distances import surface_distances
from framework.evaluation.surface_elements import element_areas, surface_elements


def box(shape: tuple[int, ...], *ranges: tuple[int, int]) -> np.ndarray:
    mask = np.zeros(shape, bool)
    mask[tuple(slice(*each) for each in ranges)] = True
    return mask


def surface_area(mask: np.ndarray, spacing: tuple[float, ...]) -> float:
    return float(element_areas(spacing)[surface_elements(mask).codes].sum())


def blobs(seed: int, shape: tuple[int, ...], sigma: float = 1.0) -> np.ndarray:
    noise = gaussian_filter(np.random.default_rng(seed).normal(size=shape), sigma)
    return noise > noise.std()


def distances_by_trying_all(
    reference: np.ndarray, prediction: np.ndarray, spacing: tuple[float, ...]
) -> tuple[np.ndarray, np.ndarray]:
    """Distances from both sides, cell by cell and pair by pair."""

    def points(mask: np.ndarray) -> np.ndarray:
        padded = np.pad(mask, 1)
        found = []
        for corner in product(*(range(size + 1) for size in mask.shape)):
            values = padded[tuple(slice(index, index + 2) for index in corner)]
            if values.any() and not values.all():
                found.append(corner)
        return np.array(found, float) * spacing

    between = cdist(points(reference), points(prediction))
    return between.min(axis=1), between.min(axis=0)


@pytest.mark.parametrize("spacing", [(1.0, 1.0, 1.0), (3.0, 0.7, 1.2)])
def test_area_of_a_box_is_that_of_a_box_whose_edges_are_cut(spacing: tuple[float, float, float]):
    size = (5, 6, 8)
    area = surface_area(box((9, 9, 9), (2, 7), (1, 7), (0, 8)), spacing)
    # The surface runs half a voxel outside of the outermost voxel centres: flat faces between these, bevelled edges
    # over one half-voxel on each side, and a triangle through three half-voxels at each corner.
    expected = 0.0
    for axis in range(3):
        one, other = (each for each in range(3) if each != axis)
        expected += 2 * (size[one] - 1) * (size[other] - 1) * spacing[one] * spacing[other]
        expected += 4 * (size[axis] - 1) * spacing[axis] * math.hypot(spacing[one], spacing[other]) / 2
    x, y, z = (step / 2 for step in spacing)
    expected += 8 * math.sqrt((x * y) ** 2 + (y * z) ** 2 + (z * x) ** 2) / 2
    assert area == pytest.approx(expected, rel=1e-12)


def test_area_does_not_depend_on_how_the_mask_is_turned_or_which_side_is_inside():
    mask = blobs(1, (7, 7, 7))
    mask[[0, -1]] = mask[:, [0, -1]] = mask[:, :, [0, -1]] = False
    area = surface_area(mask, (1, 1, 1))
    for axes in ((1, 0, 2), (2, 1, 0), (1, 2, 0)):
        assert surface_area(mask.transpose(axes)[::-1, :, ::-1], (1, 1, 1)) == pytest.approx(area)
    # The complement has the surface of the array besides.
    of_the_array = surface_area(np.ones((7, 7, 7), bool), (1, 1, 1))
    assert surface_area(~mask, (1, 1, 1)) - of_the_array == pytest.approx(area)


def test_every_code_of_a_cell_has_an_area_except_empty_and_full():
    areas = element_areas((1, 1, 1))
    assert areas[0] == areas[255] == 0
    assert (areas[1:255] > 0).all()
    # one corner: a triangle through the middles of three edges, with sides of sqrt(1/2)
    assert areas[1] == pytest.approx(math.sqrt(3) / 8)
    # one face inside: a unit square
    assert areas[0b00001111] == pytest.approx(1)
    lengths = element_areas((1, 2))
    # inside on one side of the first axis: a line along the second one
    assert lengths[0b0011] == pytest.approx(2)
    assert lengths[0b0001] == pytest.approx(math.hypot(0.5, 1))


def test_half_spaces_a_voxel_apart_have_the_published_surface_dice():
    reference, prediction = box((100, 100, 100), (0, 50)), box((100, 100, 100), (0, 51))
    distances = surface_distances(reference, prediction, (2, 1, 1))
    # The example in the tests of the surface-distance package by the authors of Nikolov et al. (2021).
    assert distances.surface_dice(1) == pytest.approx(0.836145008498, abs=1e-9)
    assert distances.hausdorff() == distances.hausdorff(95) == 2
    assert distances.surface_dice(2) == 1


@pytest.mark.parametrize(
    ("seed", "spacing", "surface_dice", "hausdorff_95", "average", "area"),
    [
        (0, (1.0, 1.0, 1.0), 0.6550954952565373, 5.916079783099616, 1.767325847809716, 3245.2674966148306),
        (1, (3.0, 0.7, 0.7), 0.5112126831656777, 5.643580423808984, 2.122593047271227, 3901.9414896995613),
        (2, (1.0, 2.0, 3.0), 0.4679434995275712, 11.704699910719626, 3.4174022901103296, 12719.819118927493),
    ],
)
def test_curved_surfaces_have_the_scores_that_the_surface_distance_package_gives_them(
    seed: int,
    spacing: tuple[float, float, float],
    surface_dice: float,
    hausdorff_95: float,
    average: float,
    area: float,
):
    # Recorded from version 0.1 of that package, by the authors of Nikolov et al. (2021); its two directed averages
    # are put together by area.
    distances = surface_distances(blobs(seed, (24, 26, 28), 2), blobs(seed + 100, (24, 26, 28), 2), spacing)
    assert distances.reference_areas.sum() == pytest.approx(area, rel=1e-9)
    assert distances.surface_dice(2) == pytest.approx(surface_dice, rel=1e-9)
    assert distances.hausdorff(95) == pytest.approx(hausdorff_95, rel=1e-9)
    assert distances.average() == pytest.approx(average, rel=1e-9)


@pytest.mark.parametrize(("axis", "voxels"), [(0, 2), (1, 5), (2, 1)])
def test_a_shifted_box_is_as_far_away_as_it_was_shifted(axis: int, voxels: int):
    spacing = (2.5, 0.8, 1.1)
    reference = box((24, 24, 24), (6, 16), (5, 15), (7, 18))
    moved = np.roll(reference, voxels, axis)
    distances = surface_distances(reference, moved, spacing)
    assert distances.hausdorff() == pytest.approx(voxels * spacing[axis])
    assert distances.hausdorff(95) == pytest.approx(voxels * spacing[axis])
    assert distances.surface_dice(voxels * spacing[axis]) == 1  # the tolerance itself is within


def test_single_voxels_two_apart_are_measured_between_their_corners():
    reference, prediction = box((9, 9, 9), (4, 5), (4, 5), (4, 5)), box((9, 9, 9), (4, 5), (4, 5), (6, 7))
    distances = surface_distances(reference, prediction, (3, 2, 1))
    # Of the eight corners of each voxel, four are 1 mm from the nearest corner of the other one, four 2 mm.
    assert sorted(distances.to_prediction) == [1] * 4 + [2] * 4
    assert sorted(distances.to_reference) == [1] * 4 + [2] * 4
    assert distances.average() == pytest.approx(1.5)
    assert distances.hausdorff() == distances.hausdorff(95) == 2
    assert distances.hausdorff(50) == 1
    assert distances.surface_dice(0.9) == 0
    assert distances.surface_dice(1) == pytest.approx(0.5)


def test_concentric_balls_are_as_far_apart_as_their_radii():
    grid = np.ogrid[:61, :61, :61]
    radius = np.sqrt(sum((axis - 30.0) ** 2 for axis in grid))
    distances = surface_distances(radius <= 27, radius <= 20, (0.5, 0.5, 0.5))
    # Centres of cells lie within half a voxel of the sphere that runs through the cell.
    assert distances.average() == pytest.approx(3.5, abs=0.5)
    assert distances.hausdorff() == pytest.approx(3.5, abs=0.5)
    assert distances.surface_dice(2.5) == 0
    assert distances.surface_dice(4.5) == 1


@pytest.mark.parametrize("spacing", [(1.0, 1.0, 1.0), (2.5, 0.7, 1.3)])
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_distances_equal_those_of_trying_all_pairs(seed: int, spacing: tuple[float, float, float]):
    reference, prediction = blobs(seed, (8, 9, 7)), blobs(seed + 10, (8, 9, 7))
    distances = surface_distances(reference, prediction, spacing)
    to_prediction, to_reference = distances_by_trying_all(reference, prediction, spacing)
    np.testing.assert_allclose(distances.to_prediction, to_prediction, atol=1e-12)
    np.testing.assert_allclose(distances.to_reference, to_reference, atol=1e-12)
    assert distances.hausdorff() == pytest.approx(max(to_prediction.max(), to_reference.max()))
    areas = np.concatenate([distances.reference_areas, distances.predicted_areas])
    together = np.concatenate([to_prediction, to_reference])
    assert distances.average() == pytest.approx(np.average(together, weights=areas))
    assert distances.surface_dice(1.0) == pytest.approx(areas[together <= 1].sum() / areas.sum())
    directed = []
    for values, weights in ((to_prediction, distances.reference_areas), (to_reference, distances.predicted_areas)):
        candidates = [value for value in values if weights[values <= value].sum() >= 0.95 * weights.sum()]
        directed.append(min(candidates))
    assert distances.hausdorff(95) == pytest.approx(max(directed))


def test_distances_equal_those_of_a_distance_transform():
    shape, spacing = (40, 50, 45), (2.0, 1.0, 1.5)
    reference, prediction = blobs(3, shape, 3), blobs(4, shape, 3)
    distances = surface_distances(reference, prediction, spacing)
    grids = []
    for mask in (reference, prediction):
        grid = np.zeros([size + 1 for size in shape], bool)
        grid.ravel()[surface_elements(mask).cells] = True
        grids.append(grid)
    np.testing.assert_allclose(distances.to_prediction, distance_transform_edt(~grids[1], spacing)[grids[0]], atol=1e-9)
    np.testing.assert_allclose(distances.to_reference, distance_transform_edt(~grids[0], spacing)[grids[1]], atol=1e-9)


def test_a_slice_is_measured_along_its_outline():
    # a square of 4 by 4 voxels: sides of 3 between the centres of its corners, and bevelled corners
    square = box((10, 10), (3, 7), (3, 7))
    assert surface_area(square, (1, 1)) == pytest.approx(4 * 3 + 4 * math.sqrt(0.5))
    distances = surface_distances(square, np.roll(square, 2, 1), (1, 0.5))
    assert distances.hausdorff() == pytest.approx(1)


def test_large_masks_are_worked_on_in_layers_with_the_same_result(monkeypatch: pytest.MonkeyPatch):
    mask = blobs(5, (20, 11, 13))
    whole = surface_elements(mask)
    monkeypatch.setattr(elements_module, "_VOXELS_AT_ONCE", 300)
    in_layers = surface_elements(mask)
    assert np.array_equal(whole.cells, in_layers.cells)
    assert np.array_equal(whole.codes, in_layers.codes)


def test_nothing_predicted_is_infinitely_far_and_nothing_at_all_is_undefined():
    nothing, something = np.zeros((5, 5, 5), bool), box((5, 5, 5), (1, 3), (1, 3), (1, 3))
    for reference, prediction in ((something, nothing), (nothing, something)):
        distances = surface_distances(reference, prediction, (1, 1, 1))
        assert distances.hausdorff() == distances.hausdorff(95) == distances.average() == math.inf
        assert distances.surface_dice(1000) == 0
    distances = surface_distances(nothing, nothing, (1, 1, 1))
    assert all(math.isnan(value) for value in (distances.hausdorff(), distances.average(), distances.surface_dice(1)))


def test_what_is_predicted_in_ignored_voxels_changes_nothing():
    reference = box((12, 12, 12), (3, 8), (3, 9), (3, 9))
    ignored = box((12, 12, 12), (8, 12), (0, 12), (0, 12))  # the object may go on there
    for end in (8, 9, 12):
        prediction = box((12, 12, 12), (3, end), (3, 9), (3, 9))
        distances = surface_distances(reference, prediction, (1, 1, 1), ignored)
        assert distances.average() == 0
        assert distances.surface_dice(0) == 1
        # Of the six layers of 7x7 cells, the one between the voxels 7 and 8 is beside ignored voxels. Of the other
        # five the first one is a face, and the others are a ring of 49 - 25 cells.
        assert distances.reference_areas.size == 49 + 4 * 24


def test_random_predictions_in_ignored_voxels_change_no_number():
    generator = np.random.default_rng(6)
    for seed in range(5):
        prediction, ignored = blobs(seed + 40, (10, 10, 10)), blobs(seed + 60, (10, 10, 10))
        reference = blobs(seed + 20, (10, 10, 10)) & ~ignored
        other = np.where(ignored, generator.random(ignored.shape) < 0.5, prediction)
        first, second = (surface_distances(reference, each, (1, 2, 1), ignored) for each in (prediction, other))
        assert (first.to_prediction == second.to_prediction).all()
        assert (first.to_reference == second.to_reference).all()
        assert 0 < first.reference_areas.sum() < surface_area(reference, (1, 2, 1))
