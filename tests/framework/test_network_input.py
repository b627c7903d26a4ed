"""What the second stage of a cascade sees, against what the real nnU-Net recorded."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from framework.data.labels import Labels
from framework.errors import FoldwiseError
from framework.inference.network_input import network_input
from framework.plans import Plans
from tests.interop.preprocessing_cases import CASES

GOLDEN = json.loads((Path(__file__).parent / "golden" / "preprocessing.json").read_text())


def _input(name: str, with_previous_stage: bool = True, cascade: bool = True) -> np.ndarray:
    case = CASES[name]
    image, labels = case.arrays()
    raw = case.plans
    if cascade:
        raw["configurations"]["some"]["previous_stage"] = "other"
        raw["configurations"]["other"] = {"inherits_from": "some", "previous_stage": None}
    plans = Plans.from_dict(raw)
    data, properties = network_input(
        image,
        labels if with_previous_stage else None,
        {"spacing": list(case.spacing)},
        plans,
        plans.configuration("some"),
        Labels.from_dataset_json(case.dataset_json),
    )
    assert "class_locations" not in properties
    return data


@pytest.mark.parametrize(
    "name",
    [
        "finer",
        "thick slices last in the file",
        "within the mask",
        "holes within the mask",
        "four channels",
        "many labels",
    ],
)
def test_the_previous_stage_becomes_a_channel_for_each_label_as_in_nnunet(name: str) -> None:
    recorded, case = GOLDEN[name], CASES[name]
    data = _input(name)
    num_channels = len(case.schemes)
    assert data.dtype == np.float32
    assert list(data.shape) == [num_channels + case.num_labels - 1, *recorded["shape"][1:]]
    one_hot = data[num_channels:]
    assert set(np.unique(one_hot)) <= {0.0, 1.0}
    # nnU-Net's counts of each label on the preprocessed grid, and its labels at the places that were recorded.
    for label, channel in enumerate(one_hot, start=1):
        assert int(channel.sum()) == recorded["label_counts"].get(str(label), 0)
    places = np.random.RandomState(0).randint(0, one_hot[0].size, len(recorded["labels"]))
    expected = np.array(recorded["labels"])
    for label, channel in enumerate(one_hot, start=1):
        np.testing.assert_array_equal(channel.ravel()[places], expected == label)
    # The recorded voxels of the image follow from its size, so the scan's channels are compared on their own.
    image = np.ascontiguousarray(data[:num_channels]).ravel()
    places = np.random.RandomState(0).randint(0, image.size, len(recorded["image"]))
    np.testing.assert_allclose(image[places], recorded["image"], atol=1e-4)


def test_a_stage_that_is_missing_or_not_wanted_is_told() -> None:
    with pytest.raises(FoldwiseError, match="'some' needs the segmentation that 'other' gave to this scan"):
        _input("finer", with_previous_stage=False)
    with pytest.raises(FoldwiseError, match="'some' is no second stage of a cascade"):
        _input("finer", cascade=False)
    assert _input("finer", with_previous_stage=False, cascade=False).shape[0] == 1
