"""Cascades: what one stage leaves for the next, and whether it is there."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import Tensor

from framework.data.previous_stage import missing_predictions, prediction_folder, write_prediction
from framework.data.splits import load_or_create_splits
from framework.data.store import CaseStore, list_cases
from framework.errors import DatasetError, FoldwiseError
from framework.inference.export import label_map_from_logits
from framework.inference.scan_grid import ScanGrid
from framework.preprocessing.resampling import new_shape

if TYPE_CHECKING:
    from trainers.segmentation import SegmentationTrainer

_NUM_NAMED = 5


def checked_previous_stage(trainer: SegmentationTrainer, cases: list[str]) -> Path | None:
    """The folder of what the previous stage predicted for this one; None if this is no cascade.

    Raises:
        DatasetError: some cases are missing; says which stage to train, and how.
    """
    configuration, run_folder = trainer.configuration, trainer.run_folder
    previous = configuration.previous_stage
    if previous is None:
        return None
    if run_folder is None:
        raise FoldwiseError(
            f"configuration '{configuration.name}' starts from what '{previous}' predicted, which is found beside "
            "its run folder; this trainer has none."
        )
    # TRAINER__PLANS__CONFIGURATION: as in nnU-Net the previous stage has the same trainer and plans.
    trainer_name, plans, _ = run_folder.model_folder.name.split("__")
    folder = prediction_folder(
        run_folder.model_folder.with_name(f"{trainer_name}__{plans}__{previous}"), configuration.name
    )
    missing = missing_predictions(folder, cases)
    if missing:
        named = ", ".join(missing[:_NUM_NAMED]) + (", ..." if len(missing) > _NUM_NAMED else "")
        dataset = trainer.dataset_folder.name
        raise DatasetError(
            f"configuration '{configuration.name}' starts from the segmentations of '{previous}', but {len(missing)} "
            f"of {len(cases)} cases are missing in {folder}: {named}. A fold of '{previous}' writes them for its "
            f"validation cases when its training ends. Train these first: fw_train {dataset} {previous} FOLD "
            f"-tr {trainer_name} -p {plans}, with FOLD {_folds_of(trainer, missing)}."
        )
    return folder


def _folds_of(trainer: SegmentationTrainer, cases: list[str]) -> str:
    """The folds that validate on these cases, in words."""
    everything = list_cases(trainer.dataset_folder / trainer.configuration.data_identifier)
    splits = load_or_create_splits(trainer.dataset_folder, everything)
    folds = [str(number) for number, split in enumerate(splits) if not set(cases).isdisjoint(split["val"])]
    return " and ".join([", ".join(folds[:-1]), folds[-1]] if len(folds) > 1 else folds) or "all"


def next_stage_file(trainer: SegmentationTrainer, case: str, next_stage: str) -> Path:
    """Where `write_for_next_stage` writes."""
    assert trainer.run_folder is not None
    return prediction_folder(trainer.run_folder.model_folder, next_stage) / f"{case}.b2nd"


def write_for_next_stage(
    trainer: SegmentationTrainer, case: str, logits: Tensor, properties: Mapping[str, Any], next_stage: str
) -> None:
    """Write the segmentation of a case on the preprocessed grid of the next stage.

    Args:
        logits: (K, X, Y, Z) on the preprocessed grid of this stage.
        properties: of the preprocessed case.
    """
    plans, configuration = trainer.plans, trainer.configuration
    shape = _next_stage_shape(trainer, case, properties, next_stage)
    # nnU-Net takes its own spacing for that of the next stage too, when it decides whether slices are resampled
    # one by one.
    spacing = [configuration.spacing[axis] for axis in plans.transpose_backward]
    grid = {
        "spacing": spacing,
        "shape_before_cropping": shape,
        "shape_after_cropping_and_before_resampling": shape,
        "bbox_used_for_cropping": [(0, length) for length in shape],
    }
    labels = label_map_from_logits(logits, grid, plans, configuration, trainer.labels)
    file = next_stage_file(trainer, case, next_stage)
    write_prediction(file.parent, case, labels.transpose(plans.transpose_forward), configuration.patch_size)


def _next_stage_shape(
    trainer: SegmentationTrainer, case: str, properties: Mapping[str, Any], next_stage: str
) -> tuple[int, ...]:
    """(X, Y, Z) that the case has, or will have, when it is preprocessed for the next stage."""
    configuration = trainer.plans.configuration(next_stage)
    folder = trainer.dataset_folder / configuration.data_identifier
    try:
        return CaseStore(folder, [case], mode="packed").shape(case)[1:]
    except FoldwiseError:
        grid = ScanGrid.of(properties, trainer.plans, configuration)
        return new_shape(grid.shape, grid.spacing, grid.network_spacing)
