"""Any change of plans, dataset.json, splits and pickles of cases: it works, or it is one of our errors."""

from __future__ import annotations

import collections
import pickle
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from framework.augmentation.recipe import Augmentation
from framework.checking.splits_checks import check_splits
from framework.data.raw_dataset import RawDataset
from framework.data.restricted_pickle import loads
from framework.data.splits import create_splits, fold_cases, load_or_create_splits
from framework.errors import FoldwiseError
from framework.experiment import Experiment
from framework.named_code import refuse_unnamed_code
from framework.networks.build import build_network
from framework.plans import Plans
from tests.framework.sharing.builder import DATASET_JSON, tiny_plans
from tests.safety.mutations import QUICK, THOROUGH, as_json, changed_bytes, changed_json
from trainers.segmentation import SegmentationTrainer

SEEDS = st.integers(0, 2**32 - 1)
CASES = ["a", "b", "c"]


def own_plans() -> dict[str, Any]:
    """Plans with all that Foldwise adds."""
    return tiny_plans() | {
        "training": {
            "num_epochs": 3,
            "hooks": [{"name": "WeightAveraging", "decay": 0.9}],
            "optimizer": {"name": "SGD", "momentum": 0.9},
            "schedule": {"name": "poly", "exponent": 0.9},
            "loss_weights": {"a": 1.0},
            "early_stopping": {"patience": 3},
        },
        "augmentation": {
            "preset": "default",
            "gamma": {"probability": 0.5},
            "blur": None,
            "median": {"size": [2, 3]},
            "one_of": [["median", "noise"]],
        },
        "trainer": "SegmentationTrainer",
    }


LEGACY_PLANS = {
    "plans_name": "old",
    "dataset_name": "Dataset007_Tiny",
    "foreground_intensity_properties_by_modality": {},
    "configurations": {
        "3d_fullres": {
            "data_identifier": "x",
            "batch_size": 2,
            "patch_size": [8, 8, 8],
            "spacing": [1.0, 1.0, 1.0],
            "normalization_schemes": ["ZScoreNormalization"],
            "use_mask_for_norm": [False],
            "UNet_class_name": "PlainConvUNet",
            "UNet_base_num_features": 4,
            "unet_max_num_features": 8,
            "n_conv_per_stage_encoder": [1, 1],
            "n_conv_per_stage_decoder": [1],
            "num_pool_per_axis": [1, 1, 1],
            "pool_op_kernel_sizes": [[1, 1, 1], [2, 2, 2]],
            "conv_kernel_sizes": [[3, 3, 3], [3, 3, 3]],
        }
    },
}
REGIONS = {
    "modality": {"0": "CT"},
    "labels": {"background": 0, "whole": [1, 2], "core": 2, "ignore": 3},
    "regions_class_order": [1, 2],
    "file_ending": ".nii.gz",
    "overwrite_image_reader_writer": "SimpleITKIO",
    "dataset": {"a": {"images": ["imagesTr/a_0000.nii.gz"], "label": "labelsTr/a.nii.gz"}},
}
PROPERTIES = {
    "class_locations": {1: np.arange(8).reshape(2, 4), (1, 2): np.zeros((0, 4), np.int64)},
    "spacing": [1.0, np.float64(2), 3.0],
    "shape": (3, 4, 5),
    "sitk_stuff": {"origin": (0.0, 1.0, 2.0), "direction": np.eye(3), "more": {1, 2}, "raw": b"ab"},
    "ordered": collections.OrderedDict(a=frozenset([3])),
}
PICKLES = [pickle.dumps(PROPERTIES, protocol) for protocol in range(pickle.HIGHEST_PROTOCOL + 1)]


def use_plans(path: Path) -> None:
    """Everything that a training makes of plans before it looks at data."""
    plans = Plans.from_file(path)
    for name in plans.configuration_names:
        configuration = plans.configuration(name)
        refuse_unnamed_code(configuration, plans.source)
        if configuration.architecture is not None:
            build_network(configuration.architecture, 1, 3)
        if configuration.patch_size:
            Augmentation.from_plans(configuration.augmentation, configuration.patch_size)
        experiment = Experiment("Dataset007_Tiny", {}, plans, name, 0, path.parent)
        trainer = SegmentationTrainer(configuration.training, experiment=experiment, device="cpu")
        trainer.build_optimizer(torch.nn.Linear(2, 2).parameters())
        trainer.build_schedule()(3)


def use_dataset(path: Path) -> None:
    dataset = RawDataset.open(path.parent)
    assert dataset.reader_name
    assert dataset.labels.num_heads > 0
    assert all("/" not in name for name in dataset.cases)


def use_splits(path: Path) -> None:
    check_splits([path.parent], CASES)
    splits = load_or_create_splits(path.parent, CASES)
    for fold in range(len(splits)):
        training, validation = fold_cases(splits, fold, CASES)
        assert {*training, *validation} <= set(CASES)


def use_pickle(path: Path) -> None:
    loads(path.read_bytes(), path)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A raw dataset of three cases, whose files are empty."""
    folder = tmp_path_factory.mktemp("fuzz")
    for case in CASES:
        for name in (f"imagesTr/{case}_0000.nii.gz", f"labelsTr/{case}.nii.gz"):
            (folder / name).parent.mkdir(exist_ok=True)
            (folder / name).touch()
    return folder


Target = tuple[str, list[Any], Callable[[Path], None]]
# A reader is named, so that none is looked for by reading the empty images.
DATASET = {key: value for key, value in DATASET_JSON.items() if key != "dataset"} | {
    "overwrite_image_reader_writer": "SimpleITKIO"
}
DOCUMENTS: dict[str, Target] = {
    "plans": ("plans.json", [own_plans(), LEGACY_PLANS], use_plans),
    "dataset": ("dataset.json", [DATASET, REGIONS], use_dataset),
    "splits": ("splits_final.json", [create_splits(CASES)], use_splits),
}
FILES: dict[str, Target] = {
    "plans": ("plans.json", [as_json(own_plans()), as_json(LEGACY_PLANS)], use_plans),
    "dataset": ("dataset.json", [as_json(DATASET), as_json(REGIONS)], use_dataset),
    "splits": ("splits_final.json", [as_json(create_splits(CASES))], use_splits),
    "pickle": ("case.pkl", PICKLES, use_pickle),
}


def works_or_is_refused(folder: Path, target: Target, make: Callable[[Any, int], bytes], seed: int) -> None:
    name, originals, use = target
    try:
        content = make(originals[seed % len(originals)], seed)
    except (ValueError, UnicodeError):
        return  # what cannot be written as JSON
    (folder / name).write_bytes(content)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            use(folder / name)
    except FoldwiseError:
        pass
    finally:
        (folder / name).unlink(missing_ok=True)


def changed_document(document: Any, seed: int) -> bytes:
    return as_json(changed_json(document, seed))


@pytest.mark.parametrize("target", DOCUMENTS)
@QUICK
@given(seed=SEEDS)
def test_any_change_of_a_value_works_or_is_refused(folder: Path, target: str, seed: int):
    works_or_is_refused(folder, DOCUMENTS[target], changed_document, seed)


@pytest.mark.parametrize("target", FILES)
@QUICK
@given(seed=SEEDS)
def test_any_change_of_bytes_works_or_is_refused(folder: Path, target: str, seed: int):
    works_or_is_refused(folder, FILES[target], changed_bytes, seed)


@pytest.mark.slow
@pytest.mark.parametrize("target", DOCUMENTS)
@THOROUGH
@given(seed=SEEDS)
def test_very_many_changes_of_values_work_or_are_refused(folder: Path, target: str, seed: int):
    works_or_is_refused(folder, DOCUMENTS[target], changed_document, seed)


@pytest.mark.slow
@pytest.mark.parametrize("target", FILES)
@THOROUGH
@given(seed=SEEDS)
def test_very_many_changes_of_bytes_work_or_are_refused(folder: Path, target: str, seed: int):
    works_or_is_refused(folder, FILES[target], changed_bytes, seed)


@pytest.mark.parametrize("target", DOCUMENTS)
def test_what_is_changed_was_right(folder: Path, target: str):
    name, originals, use = DOCUMENTS[target]
    for original in originals:
        (folder / name).write_bytes(as_json(original))
        use(folder / name)
        (folder / name).unlink()
