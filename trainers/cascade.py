"""Cascades: what one stage leaves for the next, and whether it is there."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from torch import Tensor

from framework.data.previous_stage import missing_predictions, prediction_folder, write_prediction
from framework.data.store import CaseStore
from framework.errors import DatasetError, FoldwiseError
from framework.inference.export import label_map_from_logits

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
            f"validation cases when its training ends. Train all of its folds first: "
            f"fw_train {dataset} {previous} FOLD -tr {trainer_name} -p {plans}, with FOLD 0 to 4."
        )
    return folder


def write_for_next_stage(trainer: SegmentationTrainer, case: str, logits: Tensor, next_stage: str) -> None:
    """Write the segmentation of a case on the preprocessed grid of the next stage.

    Where the next stage is not preprocessed, this is reported and the case left out.
    """
    assert trainer.run_folder is not None
    plans, configuration = trainer.plans, trainer.configuration
    identifier = plans.configuration(next_stage).data_identifier
    try:
        shape = CaseStore(trainer.dataset_folder / identifier, [case], mode="packed").shape(case)[1:]
    except FoldwiseError as error:
        trainer.report(f"nothing was written for the next stage {next_stage}: {error}")
        return
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
    folder = prediction_folder(trainer.run_folder.model_folder, next_stage)
    write_prediction(folder, case, labels.transpose(plans.transpose_forward), configuration.patch_size)
