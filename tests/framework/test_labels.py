"""Label dictionaries of dataset.json: what they mean, and what is refused."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from framework.data.labels import Labels
from framework.errors import DatasetError


def read(labels: dict[str, Any], **more: Any) -> Labels:
    return Labels.from_dataset_json({"labels": labels, **more})


BRATS = {"background": 0, "whole tumor": [1, 2, 3], "tumor core": [2, 3], "enhancing": 3}


def test_plain_labels_have_one_softmax_head_each_with_background() -> None:
    labels = read({"background": 0, "anterior": 1, "posterior": 2})
    assert labels.all_labels == (0, 1, 2)
    assert labels.foreground_labels == labels.foreground_keys == (1, 2)
    assert labels.foreground_names == ("anterior", "posterior")
    assert (labels.num_heads, labels.has_regions, labels.ignore_label) == (3, False, None)


def test_names_of_labels_follow_the_values_not_the_order_of_the_file() -> None:
    assert read({"b": 2, "background": 0, "a": 1}).foreground_names == ("a", "b")


def test_ignore_label_has_no_head_and_is_no_foreground() -> None:
    labels = read({"background": 0, "liver": 1, "ignore": 2})
    assert labels.ignore_label == 2
    assert labels.all_labels == (0, 1)
    assert labels.num_heads == 2
    assert labels.allowed_values == {0, 1, 2}


def test_regions_have_one_sigmoid_head_each_in_the_order_of_the_file() -> None:
    labels = read(BRATS, regions_class_order=[1, 2, 3])
    assert labels.has_regions
    assert labels.foreground_keys == ((1, 2, 3), (2, 3), 3)
    assert labels.foreground_names == ("whole tumor", "tumor core", "enhancing")
    assert labels.num_heads == 3
    reordered = {name: BRATS[name] for name in ("background", "enhancing", "tumor core", "whole tumor")}
    assert read(reordered, regions_class_order=[3, 2, 1]).foreground_keys == (3, (2, 3), (1, 2, 3))


def test_a_list_of_one_label_makes_no_region() -> None:
    labels = read({"background": 0, "liver": [1]})
    assert not labels.has_regions
    assert labels.foreground_keys == (1,)
    assert labels.foreground_names == ("liver",)


@pytest.mark.parametrize("kind", ["numpy", "torch"])
def test_softmax_heads_give_the_largest_logit(kind: str) -> None:
    labels = read({"background": 0, "a": 1, "b": 2})
    logits = np.array([[1.0, -5.0, 0.0], [0.0, 3.0, -1.0], [-1.0, 2.0, 4.0]], np.float32)
    given = logits if kind == "numpy" else torch.from_numpy(logits)
    found = labels.segmentation_from_logits(given)
    assert type(found) is type(given)
    assert found.tolist() == [0, 1, 2]
    assert str(found.dtype).endswith("int16")


@pytest.mark.parametrize("kind", ["numpy", "torch"])
def test_later_regions_overwrite_earlier_ones(kind: str) -> None:
    labels = read(BRATS, regions_class_order=[1, 2, 3])
    # voxels: nothing; whole only; whole and core; all three; enhancing alone
    logits = np.array([[-1, 2, 1, 1, -1], [-1, -2, 1, 1, -2], [-3, -1, 0, 2, 5]], np.float32)
    given = logits if kind == "numpy" else torch.from_numpy(logits)
    assert labels.segmentation_from_logits(given).tolist() == [0, 1, 2, 3, 3]
    assert labels.segmentation_from_probabilities(1 / (1 + np.exp(-logits))).tolist() == [0, 1, 2, 3, 3]


def test_a_wrong_number_of_channels_is_refused() -> None:
    with pytest.raises(ValueError, match="2 channels were given, but these labels have 3 heads"):
        read({"background": 0, "a": 1, "b": 2}).segmentation_from_logits(np.zeros((2, 4)))


@pytest.mark.parametrize(
    ("labels", "more", "message"),
    [
        (None, {}, "'labels' is missing"),
        ({"a": 1}, {}, "no 'background'"),
        ({"background": 1, "a": 0}, {}, "'background' is 1, but it must be the integer 0"),
        ({"background": 0}, {}, "nothing but background"),
        ({"background": 0, "a": 1, "b": 3}, {}, "2 is missing between 0 and 3"),
        ({"background": 0, "a": 1, "b": 1}, {}, "'a' and 'b' share the value 1"),
        ({"background": 0, "a": "1"}, {}, "write the number: 1"),
        ({"0": "background", "1": "liver"}, {}, 'write "liver": 1'),
        ({"background": 0, "a": 1.5}, {}, "expected an integer or a list of integers"),
        ({"background": 0, "a": True}, {}, "expected an integer or a list of integers"),
        ({"background": 0, "a": -1}, {}, "negative"),
        ({"background": 0, "a": 1, "ignore": 3}, {}, "one above every other label"),
        ({"background": 0, "a": 1, "ignore": [2, 3]}, {}, "one integer, not a region"),
        (BRATS, {}, "'regions_class_order' is needed, with 3 integers"),
        (BRATS, {"regions_class_order": [1, 2]}, "has 2 entries .* but there are 3 regions"),
        (BRATS, {"regions_class_order": [1, 2, 7]}, "has 7, which is no foreground label"),
        (BRATS, {"regions_class_order": "123"}, "expected a list of integers"),
    ],
)
def test_mistakes_are_told_with_the_remedy(labels: Any, more: dict[str, Any], message: str) -> None:
    with pytest.raises(DatasetError, match=message):
        read(labels, **more)


def test_all_mistakes_are_told_together() -> None:
    with pytest.raises(DatasetError) as caught:
        read({"background": 0, "a": "1", "b": 2.5}, regions_class_order=7)
    assert len(str(caught.value).splitlines()) == 3
