"""A cascade: the first stage leaves its segmentations, the next one takes them as input channels."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import blosc2
import numpy as np
import pytest
import torch

from framework.data.previous_stage_errors import StageErrors
from framework.errors import CaseError, DatasetError
from tests.builders import TINY, make_tiny_dataset, use_roots
from trainers import SegmentationTrainer

SHORT = TINY | {"training.num_epochs": 1}


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny dataset whose plans have a cascade; its first stage is trained on all cases."""
    folder = tmp_path_factory.mktemp("cascade")
    with pytest.MonkeyPatch.context() as patch:
        use_roots(folder, patch)
        make_tiny_dataset(folder / "raw")
        SegmentationTrainer.from_dataset(7, "3d_fullres", plans="laptop", device="cpu", report=lambda message: None)
        path = folder / "preprocessed/Dataset007_Tiny/laptop.json"
        plans = json.loads(path.read_text())
        spacing = plans["configurations"]["3d_fullres"]["spacing"]
        plans["configurations"]["3d_lowres"] = {
            "inherits_from": "3d_fullres",
            "data_identifier": "laptop_3d_lowres",
            "spacing": [1.5 * length for length in spacing],
            "next_stage": "3d_cascade_fullres",
        }
        plans["configurations"]["3d_cascade_fullres"] = {"inherits_from": "3d_fullres", "previous_stage": "3d_lowres"}
        path.write_text(json.dumps(plans))
    return folder


@pytest.fixture(autouse=True)
def _roots(prepared: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    use_roots(prepared, monkeypatch)


def trainer_of(configuration: str, fold: int | str = 0, **options: Any) -> SegmentationTrainer:
    return SegmentationTrainer.from_dataset(
        7, configuration, fold, plans="laptop", overrides=SHORT, device="cpu", report=lambda message: None, **options
    )


@pytest.fixture(scope="module")
def first_stage(prepared: Path) -> SegmentationTrainer:
    with pytest.MonkeyPatch.context() as patch:
        use_roots(prepared, patch)
        trainer = trainer_of("3d_lowres", "all")
        trainer.run_training()
    return trainer


def test_without_the_first_stage_the_message_names_the_commands() -> None:
    trainer = trainer_of("3d_cascade_fullres")
    with pytest.raises(DatasetError) as caught:
        trainer.setup()
    message = str(caught.value)
    assert "6 of 6 cases are missing" in message
    assert "fw_train Dataset007_Tiny 3d_lowres FOLD -tr SegmentationTrainer -p laptop" in message
    assert "with FOLD 0, 1, 2, 3 and 4." in message


def test_the_first_stage_leaves_its_segmentations_on_the_grid_of_the_next(first_stage: SegmentationTrainer) -> None:
    assert first_stage.run_folder is not None
    folder = first_stage.run_folder.model_folder / "predicted_next_stage" / "3d_cascade_fullres"
    fullres = first_stage.dataset_folder / "laptop_3d_fullres"
    assert {path.stem for path in folder.iterdir()} == set(first_stage.validation_cases)
    for case in first_stage.validation_cases:
        written = blosc2.open(str(folder / f"{case}.b2nd"))
        assert written.dtype == np.uint8
        assert written.shape == blosc2.open(str(fullres / f"{case}.b2nd")).shape[1:]
        assert set(np.unique(written[...])) <= {0, 1, 2}


def test_the_next_stage_need_not_be_preprocessed_before_the_first_is_validated(
    first_stage: SegmentationTrainer, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """The shapes that its cases will have follow from those of the scans."""
    from trainers.cascade import _next_stage_shape

    preprocessed = {
        case: blosc2.open(str(first_stage.dataset_folder / "laptop_3d_fullres" / f"{case}.b2nd")).shape[1:]
        for case in first_stage.validation_cases
    }
    monkeypatch.setattr(SegmentationTrainer, "dataset_folder", tmp_path)
    for case, shape in preprocessed.items():
        properties = first_stage.store.properties(case)
        assert _next_stage_shape(first_stage, case, properties, "3d_cascade_fullres") == shape


def test_mistakes_of_the_first_stage_are_drawn_for_training_only(first_stage: SegmentationTrainer) -> None:
    """Of the drawn ones most can be seen; samples without any have the labels as they were predicted."""
    trainer = trainer_of("3d_cascade_fullres")
    training, validation = trainer.build_batches()
    assert not any(recipe.stage_errors.operations for number in range(20) for recipe in validation.recipes(number))
    seen = {"operations": 0, "removals": 0, "neither": 0}
    for number in range(60):
        patches = training.read(number)
        recipes = training.recipes(number)
        channels = training.finish(patches).data[:, 1:]
        perfect = training.read(number)
        perfect.recipes = [dataclasses.replace(recipe, stage_errors=StageErrors()) for recipe in recipes]
        as_predicted = training.finish(perfect).data[:, 1:]
        for recipe, sample, expected in zip(recipes, channels, as_predicted):
            errors = recipe.stage_errors
            same = torch.equal(sample, expected)
            if not errors.operations and not errors.removals:
                assert same
                seen["neither"] += 1
            elif not same:
                seen["operations" if errors.operations else "removals"] += 1
    # 120 samples; nnU-Net changes 40% of them and takes parts away in 20%, each label with a chance of a half.
    assert seen["operations"] > 10
    assert seen["neither"] > 30


def test_the_next_stage_trains_and_validates_with_them(first_stage: SegmentationTrainer) -> None:
    trainer = trainer_of("3d_cascade_fullres")
    trainer.run_training()
    assert trainer.num_input_channels == 3  # one scan, two labels
    assert trainer.run_folder is not None
    assert trainer.run_folder.validation_summary.exists()
    assert first_stage.run_folder is not None
    folder = first_stage.run_folder.model_folder / "predicted_next_stage" / "3d_cascade_fullres"
    _, validation = trainer.build_batches()
    for iteration in range(3):
        batch = validation(iteration)
        assert batch.data.shape == (2, 3, 8, 16, 16)
        for sample, recipe in zip(batch.data, validation.recipes(iteration)):
            labels = np.pad(blosc2.open(str(folder / f"{recipe.case_name}.b2nd"))[...], 16)
            part = tuple(slice(c + 16, c + 16 + n) for c, n in zip(recipe.patch.corner, (8, 16, 16)))
            for label in (1, 2):
                np.testing.assert_array_equal(sample[label], labels[part] == label)
    training, _ = trainer.build_batches()
    assert not training.finishes_on_device
    for iteration in range(10):
        channels = training(iteration).data[:, 1:]
        assert set(channels.unique().tolist()) <= {0.0, 1.0}
        assert channels.sum(1).max() <= 1  # labels do not overlap
        assert torch.equal(training(iteration).data[:, 1:], channels)


def test_a_segmentation_of_another_shape_names_the_case(first_stage: SegmentationTrainer, tmp_path: Path) -> None:
    from framework.data.previous_stage import write_prediction
    from framework.data.store import CaseStore

    case = first_stage.validation_cases[0]
    write_prediction(tmp_path, case, np.zeros((3, 4, 5), np.uint8), (8, 16, 16))
    store = CaseStore(first_stage.dataset_folder / "laptop_3d_fullres", [case], "packed", previous_stage=tmp_path)
    with pytest.raises(DatasetError, match=r"has shape \(3, 4, 5\), the preprocessed case"):
        store.check()
    (tmp_path / f"{case}.b2nd").write_bytes(b"half")
    with pytest.raises(CaseError, match="Validate the previous stage again"):
        store.read(case)
