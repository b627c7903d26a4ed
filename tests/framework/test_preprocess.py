"""From raw scans to preprocessed cases."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from framework.data.labels import Labels
from framework.data.raw_dataset import RawDataset
from framework.data.store import CaseStore
from framework.errors import FoldwiseError
from framework.plans import Plans
from framework.preprocessing.class_sampling import keys_to_sample, sample_class_locations
from framework.preprocessing.prepare import preprocess_dataset
from framework.preprocessing.preprocess import preprocess_array
from tests.framework.ball_dataset import ball, plans_of

LABELS = Labels({"background": 0, "a": 1, "b": 2})


def test_case_is_transposed_cropped_normalised_and_resampled() -> None:
    image, labels = ball()
    before = image.copy()
    plans = plans_of([1.0, 2.0, 1.0], forward=(2, 0, 1))
    data, segmentation, properties = preprocess_array(
        image, labels, {"spacing": [2.0, 1.0, 1.0]}, plans, plans.configuration("some"), LABELS
    )
    assert np.array_equal(image, before)
    # the rim is one voxel before and two after: 12, 14, 16 -> 9, 11, 13; transposed 13, 9, 11;
    # spacing 1, 2, 1 is kept
    assert data.shape == (1, 13, 9, 11)
    assert properties["shape_before_cropping"] == (16, 12, 14)
    assert properties["bbox_used_for_cropping"] == [[1, 14], [1, 10], [1, 12]]
    assert properties["shape_after_cropping_and_before_resampling"] == (13, 9, 11)
    assert data.dtype == np.float32
    assert segmentation is not None
    assert segmentation.dtype == np.int16
    inner = image[0, 1:-2, 1:-2, 1:-2].transpose(2, 0, 1)
    assert np.allclose(data[0], (inner - inner.mean()) / inner.std(), atol=1e-5)
    assert np.array_equal(segmentation[0], labels[0, 1:-2, 1:-2, 1:-2].transpose(2, 0, 1))


def test_grid_follows_the_spacing_and_slices_keep_theirs_in_2d() -> None:
    image, labels = ball()
    properties = {"spacing": [1.0, 1.0, 1.0]}
    fine = plans_of([0.5, 1.0, 1.0])
    data, segmentation, _ = preprocess_array(image, labels, properties, fine, fine.configuration("some"), LABELS)
    assert data.shape == (1, 18, 11, 13)
    assert segmentation is not None
    assert set(np.unique(segmentation)) == {0, 1, 2}
    flat = plans_of([2.0, 2.0])
    data, _, _ = preprocess_array(image, labels, properties, flat, flat.configuration("some"), LABELS)
    assert data.shape == (1, 9, 6, 6)  # 11 / 2 and 13 / 2, rounded to even


def test_prediction_needs_no_labels_and_gives_the_same_image() -> None:
    image, labels = ball()
    plans = plans_of([1.0, 0.7, 1.3], use_mask_for_norm=[True])
    configuration = plans.configuration("some")
    properties = {"spacing": [1.0, 1.0, 1.0]}
    with_labels, _, _ = preprocess_array(image, labels, properties, plans, configuration, LABELS)
    data, segmentation, found = preprocess_array(image, None, properties, plans, configuration, LABELS)
    assert segmentation is None
    assert "class_locations" not in found
    assert np.array_equal(data, with_labels)


def test_shapes_that_differ_are_refused() -> None:
    image, labels = ball()
    plans = plans_of([1.0, 1.0, 1.0])
    with pytest.raises(FoldwiseError, match="shape"):
        preprocess_array(image, labels[:, 1:], {"spacing": [1.0] * 3}, plans, plans.configuration("some"), LABELS)


def test_class_locations_lie_on_their_label_and_never_twice() -> None:
    segmentation = np.random.RandomState(0).choice([-1, 0, 1, 2, 4], (1, 40, 40, 40)).astype(np.int16)
    labels = Labels({"background": 0, "a": (1, 2), "b": 2, "c": 3, "ignore": 4}, (1, 2, 3))
    keys = keys_to_sample(labels)
    assert keys == ((1, 2), 2, 3, (-1, 0, 1, 2, 3))
    locations = sample_class_locations(segmentation, keys)
    assert list(locations) == list(keys)
    assert locations[3] == []
    for key, rows in locations.items():
        if key == 3:
            continue
        members = key if isinstance(key, tuple) else (key,)
        total = np.isin(segmentation, members).sum()
        assert rows.shape == (min(10_000, total), 4)  # type: ignore[union-attr]
        assert len(np.unique(rows, axis=0)) == len(rows)
        assert np.isin(segmentation[tuple(np.asarray(rows).T)], members).all()


def test_large_labels_give_one_percent() -> None:
    segmentation = np.ones((1, 110, 110, 110), np.int16)
    assert len(sample_class_locations(segmentation, [1])[1]) == 13_310  # of 1 331 000


@pytest.mark.shared_data
@pytest.mark.parametrize("configuration", ["2d", "3d_fullres"])
def test_preprocessed_cases_equal_those_of_nnunet(shared_data: Path, tmp_path: Path, configuration: str) -> None:
    reference = shared_data / "nnunet_reference" / "preprocessed" / "Dataset004_Hippocampus"
    expected = CaseStore(reference / f"nnUNetPlans_{configuration}", mode="packed")
    everything = RawDataset.open(shared_data / "Dataset004_Hippocampus")
    few = {name: everything.cases[name] for name in expected.case_names}
    raw = RawDataset(**{**everything.__dict__, "cases": few})
    preprocess_dataset(raw, tmp_path, Plans.from_file(reference / "nnUNetPlans.json"), [configuration], num_processes=1)
    found = CaseStore(tmp_path / f"nnUNetPlans_{configuration}", mode="packed")
    for case in expected.case_names:
        (data, segmentation), (wanted_data, wanted_segmentation) = found.read(case), expected.read(case)
        assert np.abs(data - wanted_data).max() < 1e-4
        assert np.array_equal(segmentation, wanted_segmentation)
        properties, wanted = found.properties(case), expected.properties(case)
        assert set(properties) == set(wanted)
        for key, rows in wanted["class_locations"].items():
            assert np.array_equal(properties["class_locations"][key], rows)
        for key in (
            "shape_before_cropping",
            "bbox_used_for_cropping",
            "shape_after_cropping_and_before_resampling",
        ):
            assert properties[key] == wanted[key]


def test_class_locations_do_not_depend_on_the_size_of_the_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    segmentation = np.random.RandomState(0).choice([-1, 0, 1, 2, 4], (1, 20, 21, 22)).astype(np.int16)
    keys = [(1, 2), 2, 3, (-1, 0, 1, 2)]
    whole = sample_class_locations(segmentation, keys)
    monkeypatch.setattr("framework.preprocessing.class_sampling._VOXELS_AT_ONCE", 500)
    for key, rows in sample_class_locations(segmentation, keys).items():
        assert np.array_equal(rows, whole[key])
