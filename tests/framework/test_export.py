"""From logits to files in the geometry of the scan."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from framework.data.image_io import read_segmentation
from framework.data.labels import Labels
from framework.data.restricted_pickle import load_pickle
from framework.errors import FoldwiseError, UnknownNameError
from framework.inference.export import (
    export_prediction,
    label_map_from_logits,
    probabilities_from_logits,
)
from framework.plans import Plans
from framework.preprocessing.resampling import resample

LABELS = Labels.from_dataset_json({"labels": {"background": 0, "a": 1, "b": 2}})
REGIONS = Labels.from_dataset_json(
    {"labels": {"background": 0, "whole": [1, 2], "core": [2]}, "regions_class_order": [1, 2]}
)


def plans_for(shared_data: Path, **changes: Any) -> Plans:
    path = next((shared_data / "nnunet_reference" / "results").glob("*/*__3d_cpu")) / "plans.json"
    plans = Plans.from_file(path).to_dict()
    configuration = plans["configurations"]["3d_fullres"]
    for key, value in changes.items():
        (configuration if key in configuration else plans)[key] = value
    return Plans.from_dict(plans, source="test")


def properties(**changes: Any) -> dict[str, Any]:
    """A scan of 10x12x14 voxels, transposed to 14x10x12 and cropped to 8x6x10, then halved in length."""
    return {
        "spacing": [1.0, 1.0, 1.0],
        "shape_before_cropping": (14, 10, 12),
        "bbox_used_for_cropping": [[2, 10], [3, 9], [1, 11]],
        "shape_after_cropping_and_before_resampling": (8, 6, 10),
        "sitk_stuff": {
            "spacing": (1.0, 1.0, 1.0),
            "origin": (0.0, 0.0, 0.0),
            "direction": (1.0, 0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0, 1.0),
        },
    } | changes


TRANSPOSED = {"transpose_forward": [2, 0, 1], "transpose_backward": [1, 2, 0]}


def test_crop_and_transposition_are_undone(shared_data: Path) -> None:
    plans = plans_for(shared_data, **TRANSPOSED)
    logits = np.zeros((3, 8, 6, 10), np.float32)
    logits[0] = 1
    logits[2, 4, 1, 7] = 5  # one voxel of label 2
    label_map = label_map_from_logits(logits, properties(), plans, plans.configuration("3d_fullres"), LABELS)
    assert label_map.shape == (10, 12, 14)
    assert label_map.dtype == np.uint8
    # Before cropping it lay at (4+2, 1+3, 7+1) of the transposed scan, whose axes are (Z, X, Y).
    assert np.argwhere(label_map).tolist() == [[4, 8, 6]]
    assert label_map[4, 8, 6] == 2


@pytest.mark.parametrize("labels", [LABELS, REGIONS], ids=["labels", "regions"])
def test_head_by_head_equals_resampling_all_heads(shared_data: Path, labels: Labels) -> None:
    plans = plans_for(shared_data, spacing=[2.0, 2.0, 2.0], **TRANSPOSED)
    configuration = plans.configuration("3d_fullres")
    logits = np.random.default_rng(0).normal(size=(labels.num_heads, 4, 3, 5)).astype(np.float32)
    label_map = label_map_from_logits(torch.from_numpy(logits), properties(), plans, configuration, labels)
    full = resample(logits, (8, 6, 10), [2.0] * 3, [1.0] * 3, **configuration.resampling_fn_probabilities_kwargs)
    expected = np.zeros((14, 10, 12), np.uint8)
    expected[2:10, 3:9, 1:11] = labels.segmentation_from_logits(full)
    assert np.array_equal(label_map, expected.transpose(1, 2, 0))
    assert set(np.unique(label_map)) == {0, 1, 2}

    probabilities = probabilities_from_logits(logits, properties(), plans, configuration, labels)
    assert probabilities.dtype == np.float32
    assert np.array_equal(labels.segmentation_from_probabilities(probabilities), label_map)
    inside = torch.from_numpy(full)
    inside = inside.sigmoid() if labels.has_regions else inside.softmax(0)
    cropped = probabilities.transpose(0, 3, 1, 2)[:, 2:10, 3:9, 1:11]
    assert np.allclose(cropped, inside.numpy(), atol=1e-6)
    outside = probabilities[:, 0, 0, 0].tolist()
    assert outside == ([0, 0] if labels.has_regions else [1, 0, 0])


def test_2d_configuration_takes_the_slice_spacing_from_the_scan(shared_data: Path) -> None:
    plans = plans_for(shared_data)
    logits = np.random.default_rng(0).normal(size=(3, 8, 3, 5)).astype(np.float32)
    label_map = label_map_from_logits(
        logits, properties(spacing=[5.0, 0.5, 0.5]), plans, plans.configuration("2d"), LABELS
    )
    assert label_map.shape == (14, 10, 12)


def test_unknown_resampling_names_the_known_ones(shared_data: Path) -> None:
    plans = plans_for(shared_data, resampling_fn_probabilities="resample_data_or_seg_to_shap")
    with pytest.raises(UnknownNameError, match="resample_data_or_seg_to_shape"):
        label_map_from_logits(
            np.zeros((3, 4, 3, 5), np.float32), properties(), plans, plans.configuration("3d_fullres"), LABELS
        )


def test_exported_files_are_those_of_nnunet(shared_data: Path, tmp_path: Path) -> None:
    plans = plans_for(shared_data, **TRANSPOSED)
    logits = np.random.default_rng(1).normal(size=(3, 8, 6, 10)).astype(np.float32)
    written = export_prediction(
        logits,
        properties(),
        plans,
        plans.configuration("3d_fullres"),
        LABELS,
        tmp_path / "case_1.5mm",
        file_ending=".nii.gz",
        save_probabilities=True,
    )
    names = sorted(path.name for path in tmp_path.iterdir())
    assert names == ["case_1.5mm.nii.gz", "case_1.5mm.npz", "case_1.5mm.pkl"]
    label_map, _ = read_segmentation(tmp_path / "case_1.5mm.nii.gz")
    assert np.array_equal(label_map[0], written)
    probabilities = np.load(tmp_path / "case_1.5mm.npz")["probabilities"]
    assert probabilities.shape == (3, 10, 12, 14)
    assert np.array_equal(probabilities.argmax(0), written)
    assert load_pickle(tmp_path / "case_1.5mm.pkl") == properties()


def test_asking_for_probabilities_does_not_change_the_label_map(shared_data: Path, tmp_path: Path) -> None:
    plans = plans_for(shared_data, spacing=[2.0, 2.0, 2.0], **TRANSPOSED)
    logits = torch.from_numpy(np.random.default_rng(2).normal(size=(3, 4, 3, 5))).to(torch.bfloat16)
    label_maps = [
        export_prediction(
            logits,
            properties(),
            plans,
            plans.configuration("3d_fullres"),
            LABELS,
            tmp_path / "case",
            file_ending=".nii.gz",
            save_probabilities=save_probabilities,
        )
        for save_probabilities in (True, False)
    ]
    assert np.array_equal(label_maps[0], label_maps[1])
    probabilities = np.load(tmp_path / "case.npz")["probabilities"]
    assert np.array_equal(probabilities.argmax(0), label_maps[0])


def test_splines_of_a_higher_order_are_resampled_as_the_plans_say(shared_data: Path) -> None:
    arguments = {"is_seg": False, "order": 3, "order_z": 0, "force_separate_z": None}
    plans = plans_for(shared_data, spacing=[2.0, 2.0, 2.0], resampling_fn_probabilities_kwargs=arguments)
    logits = np.random.default_rng(0).normal(size=(3, 4, 3, 5)).astype(np.float32)
    label_map = label_map_from_logits(logits, properties(), plans, plans.configuration("3d_fullres"), LABELS)
    full = resample(logits, (8, 6, 10), [2.0] * 3, [1.0] * 3, order=3)
    assert np.array_equal(label_map[2:10, 3:9, 1:11], full.argmax(0))


def test_arrays_that_are_read_only_or_reversed_are_accepted(shared_data: Path) -> None:
    plans = plans_for(shared_data, spacing=[2.0, 2.0, 2.0])
    logits = np.random.default_rng(0).normal(size=(3, 4, 3, 5)).astype(np.float32)
    expected, reversed_twice = logits.copy(), logits[:, ::-1].copy()[:, ::-1]
    logits.setflags(write=False)
    arguments = properties(), plans, plans.configuration("3d_fullres"), LABELS
    for array in (logits, reversed_twice):
        assert np.array_equal(label_map_from_logits(array, *arguments), label_map_from_logits(expected, *arguments))


def test_logits_for_other_labels_are_refused(shared_data: Path) -> None:
    plans = plans_for(shared_data)
    with pytest.raises(FoldwiseError, match=r"\(4, 8, 6, 10\).*K = 3.*background, a, b"):
        label_map_from_logits(
            np.zeros((4, 8, 6, 10), np.float32), properties(), plans, plans.configuration("3d_fullres"), LABELS
        )


@pytest.mark.parametrize(
    "changes",
    [
        {"shape_before_cropping": (9, 10, 12)},
        {"bbox_used_for_cropping": [[2, 10], [3, 9], [1, 10]]},
        {"bbox_used_for_cropping": [[-2, 6], [3, 9], [1, 11]]},
    ],
    ids=["scan smaller than the box", "box of another shape", "box that begins outside"],
)
def test_properties_that_contradict_themselves_are_refused(shared_data: Path, changes: dict[str, Any]) -> None:
    plans = plans_for(shared_data)
    with pytest.raises(FoldwiseError, match=r"contradict each other.*Preprocess the case again"):
        label_map_from_logits(
            np.zeros((3, 8, 6, 10), np.float32), properties(**changes), plans, plans.configuration("3d_fullres"), LABELS
        )


def test_properties_that_say_too_little_are_refused(shared_data: Path) -> None:
    plans, incomplete = plans_for(shared_data), properties()
    del incomplete["bbox_used_for_cropping"]
    with pytest.raises(FoldwiseError, match="lack bbox_used_for_cropping"):
        label_map_from_logits(
            np.zeros((3, 8, 6, 10), np.float32), incomplete, plans, plans.configuration("3d_fullres"), LABELS
        )
