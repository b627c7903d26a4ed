"""The real validation of a fold: every validation case predicted whole, written, and scored."""

from __future__ import annotations

import json
import math
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from framework.data.image_io import read_segmentation, write_segmentation
from framework.evaluation.summary import write_summary
from framework.hook import Hook
from framework.inference.export import export_probabilities, logits_to_segmentation
from framework.inference.sliding_window import sliding_window_logits

if TYPE_CHECKING:
    from framework.base_trainer import BaseTrainer
    from trainers.segmentation import SegmentationTrainer


class FoldValidation(Hook):
    """Validate the fold when the training has ended, after the final checkpoint was written."""

    priority = 95

    def on_train_end(self, trainer: BaseTrainer) -> None:
        from trainers.segmentation import SegmentationTrainer

        assert isinstance(trainer, SegmentationTrainer)
        trainer.validate_fold()


def validate_fold(trainer: SegmentationTrainer) -> dict[str, Any]:
    """Predict, write and score the fold's validation cases.

    Cases that were predicted with the same weights before an interruption are not predicted again.

    Returns:
        The summary in nnU-Net's form, also in ``validation/summary.json``; empty if a signal came in between.
    """
    folder = trainer.run_folder
    assert folder is not None
    trainer.setup()
    cases = trainer.validation_cases
    ending = trainer._experiment.dataset_json["file_ending"]
    done = _DoneCases(folder.validation / ".done.json", trainer)
    trainer.report(f"predicting {len(cases)} validation cases")
    for case in cases:
        target = folder.validation / f"{case}{ending}"
        if case in done and target.is_file() and (target.with_suffix(".npz").exists() or not trainer.save_probabilities):
            continue
        _predict_case(trainer, case, target)
        done.add(case)
        if trainer.interrupted:
            return {}
    references = trainer._experiment.preprocessed_folder / "gt_segmentations"
    summary = write_summary(
        folder.validation_summary,
        {case: (folder.validation / f"{case}{ending}", references / f"{case}{ending}") for case in cases},
        trainer.labels,
    )
    picture = _draw_typical_case(trainer, summary, ending)
    done.remove()
    for name, key in zip(trainer.class_names, trainer.labels.foreground_keys):
        trainer.report(f"  {name}: Dice {summary['mean'][str(key)]['Dice']:.4f}")
    trainer.report(f"mean validation Dice: {summary['foreground_mean']['Dice']:.4f}")
    trainer.report(f"scores: {folder.validation_summary}\nprogress: {folder.progress_picture}\npicture: {picture}")
    return summary


def _predict_case(trainer: SegmentationTrainer, case: str, target: Path) -> None:
    data, _ = trainer.store.read(case)
    properties = trainer.store.properties(case)
    half = trainer.device.type == "cuda" and trainer.execution.precision != "fp32"
    logits = sliding_window_logits(
        trainer.network,
        torch.from_numpy(np.ascontiguousarray(data)),
        trainer.configuration.patch_size,
        mirror_axes=trainer.mirror_axes,
        batch_size=4,
        autocast_dtype={"fp16": torch.float16, "bf16": torch.bfloat16}[trainer.execution.precision] if half else None,
    )
    plans, configuration = trainer._experiment.plans, trainer.configuration
    segmentation = logits_to_segmentation(logits, properties, plans, configuration, trainer.labels)
    write_segmentation(segmentation, target, properties, plans.image_reader_writer)
    if trainer.save_probabilities:
        export_probabilities(logits, properties, plans, configuration, trainer.labels, target)


def _draw_typical_case(trainer: SegmentationTrainer, summary: dict[str, Any], ending: str) -> Path | None:
    """A picture of the case whose Dice is the median: neither the best nor the worst that there is."""
    from framework.evaluation.picture import draw_case

    folder = trainer.run_folder
    assert folder is not None
    scored = []
    for entry in summary["metric_per_case"]:
        values = [scores["Dice"] for scores in entry["metrics"].values() if not math.isnan(scores["Dice"])]
        if values:
            scored.append((sum(values) / len(values), entry["prediction_file"]))
    if not scored:
        return None
    dice, file = sorted(scored)[len(scored) // 2]
    case = Path(file).name.removesuffix(ending)
    reader = trainer._experiment.plans.image_reader_writer
    prediction, properties = read_segmentation(file, reader)
    reference, _ = read_segmentation(
        trainer._experiment.preprocessed_folder / "gt_segmentations" / f"{case}{ending}", reader
    )
    image = _scan_on_original_grid(trainer, case)
    path = folder.validation / f"{case}.png"
    draw_case(
        path,
        image,
        reference[0],
        prediction[0],
        trainer.labels,
        properties["spacing"],
        title=f"{case}: Dice {dice:.3f} (median of {len(scored)} cases)",
    )
    return path


def _scan_on_original_grid(trainer: SegmentationTrainer, case: str) -> np.ndarray:
    """First channel of the preprocessed scan, (X, Y, Z), brought back to the grid of the label image."""
    from framework.inference.export import to_original_grid

    data, _ = trainer.store.read(case)
    return to_original_grid(
        data[:1], trainer.store.properties(case), trainer._experiment.plans, trainer.configuration
    )[0]


class _DoneCases:
    """Which cases were predicted with which weights, so that an interrupted validation goes on where it was."""

    def __init__(self, path: Path, trainer: SegmentationTrainer) -> None:
        self.path = path
        weights = [float(tensor.double().sum()) for tensor in trainer.network.state_dict().values()]
        self.key = repr((trainer.progress.epochs_completed, math.fsum(weights)))
        self.cases: list[str] = []
        if path.is_file():
            state = json.loads(path.read_text())
            self.cases = state["cases"] if state["key"] == self.key else []

    def __contains__(self, case: str) -> bool:
        return case in self.cases

    def add(self, case: str) -> None:
        from framework.files import write_json

        self.cases.append(case)
        write_json(self.path, {"key": self.key, "cases": self.cases})

    def remove(self) -> None:
        if self.path.exists():
            os.unlink(self.path)
