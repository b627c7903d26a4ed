"""The real validation of a fold: every validation case predicted whole, written, and scored."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from framework.data.image_io import read_segmentation
from framework.data.previous_stage import one_hot
from framework.errors import DatasetError
from framework.evaluation.picture import draw_case
from framework.evaluation.summary import score_files, summarise, write_summary
from framework.files import write_json
from framework.hook import Hook
from framework.inference.export import export_prediction, to_scan_grid
from framework.inference.sliding_window import sliding_window_logits
from framework.roots import raw_root
from trainers.cascade import write_for_next_stage

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
    references = _reference_files(trainer)
    done = _DoneCases(folder.validation / ".done.json", trainer)
    trainer.report(f"predicting {len(references)} validation cases")
    for case in references:
        if case not in done:
            _predict_case(trainer, case)
            done.add(case)
        if trainer.interrupted:
            return {}
    summary = summarise(
        [
            score_files(
                reference,
                _prediction_file(trainer, case),
                trainer.labels.foreground_keys,
                case=case,
                ignore_label=trainer.labels.ignore_label,
                reader=trainer.dataset_reader,
            )
            for case, reference in references.items()
        ]
    )
    write_summary(summary, folder.validation_summary)
    done.forget()
    picture = _draw_typical_case(trainer, summary, references)
    for name, key in zip(trainer.class_names, trainer.labels.foreground_keys):
        trainer.report(f"  {name}: Dice {summary['mean'][key]['Dice']:.4f}")
    trainer.report(f"mean validation Dice: {summary['foreground_mean']['Dice']:.4f}")
    for what, path in (
        ("scores", folder.validation_summary),
        ("progress", folder.progress_picture),
        ("picture", picture),
    ):
        trainer.report(f"{what + ':':10}{path}")
    return summary


def _prediction_file(trainer: SegmentationTrainer, case: str) -> Path:
    assert trainer.run_folder is not None
    return trainer.run_folder.validation / f"{case}{trainer.file_ending}"


def _reference_files(trainer: SegmentationTrainer) -> dict[str, Path]:
    """The label image of each validation case: the copy beside the preprocessed data, or the raw one."""
    preprocessed = trainer.dataset_folder
    places = (preprocessed / "gt_segmentations", raw_root() / preprocessed.name / "labelsTr")
    files = {}
    for case in trainer.validation_cases:
        found = [place / f"{case}{trainer.file_ending}" for place in places]
        existing = [path for path in found if path.is_file()]
        if not existing:
            raise DatasetError(
                f"the label image of validation case '{case}' is neither {found[0]} nor {found[1]}. "
                "Preprocess the dataset again, or set FW_RAW to the folder of the raw datasets."
            )
        files[case] = existing[0]
    return files


def _predict_case(trainer: SegmentationTrainer, case: str) -> None:
    image, segmentation = trainer.store.read(case)
    data = torch.from_numpy(np.array(image))
    if trainer.previous_stage_labels:
        previous = torch.from_numpy(np.array(segmentation[1]))
        data = torch.cat([data, one_hot(previous, trainer.previous_stage_labels, axis=0)])
    logits = sliding_window_logits(
        trainer.network,
        data,
        trainer.configuration.patch_size,
        mirror_axes=trainer.mirror_axes,
        batch_size=_VIEWS_AT_ONCE,
        autocast_dtype=trainer.update.dtype if trainer.device.type == "cuda" else None,
    )
    assert trainer.run_folder is not None
    export_prediction(
        logits,
        trainer.store.properties(case),
        trainer.plans,
        trainer.configuration,
        trainer.labels,
        trainer.run_folder.validation / case,
        file_ending=trainer.file_ending,
        save_probabilities=trainer.save_probabilities,
    )
    for next_stage in trainer.configuration.next_stage:
        write_for_next_stage(trainer, case, logits, next_stage)


def _draw_typical_case(
    trainer: SegmentationTrainer, summary: dict[str, Any], references: dict[str, Path]
) -> Path | None:
    """A picture of the case whose Dice is the median: neither the best nor the worst that there is."""
    scored = []
    for case, entry in zip(references, summary["metric_per_case"]):
        values = [scores["Dice"] for scores in entry["metrics"].values() if not math.isnan(scores["Dice"])]
        if values:
            scored.append((sum(values) / len(values), case))
    if not scored:
        return None
    dice, case = sorted(scored)[len(scored) // 2]
    prediction, properties = read_segmentation(_prediction_file(trainer, case), trainer.dataset_reader)
    reference, _ = read_segmentation(references[case], trainer.dataset_reader)
    data, _ = trainer.store.read(case)
    scan = to_scan_grid(data[:1], trainer.store.properties(case), trainer.plans, trainer.configuration)
    assert trainer.run_folder is not None
    path = trainer.run_folder.validation / f"{case}.png"
    draw_case(
        path,
        scan[0],
        reference[0],
        prediction[0],
        _names_by_label(trainer),
        properties["spacing"],
        title=f"{case}: Dice {dice:.3f}, the median of {len(scored)} validation cases",
    )
    return path


def _names_by_label(trainer: SegmentationTrainer) -> dict[int, str]:
    labels = trainer.labels
    if not labels.has_regions:
        return dict(zip(labels.foreground_labels, labels.foreground_names))
    # A region is drawn with the value that is written where it is predicted.
    return dict(zip(labels.regions_class_order or (), labels.foreground_names))


_VIEWS_AT_ONCE = 2


class _DoneCases:
    """Which cases were predicted with which weights, so that an interrupted validation goes on where it was."""

    def __init__(self, path: Path, trainer: SegmentationTrainer) -> None:
        self.path = path
        weights = [float(tensor.double().sum()) for tensor in trainer.network.state_dict().values()]
        self.key = repr((trainer.progress.epochs_completed, math.fsum(weights), trainer.save_probabilities))
        self.cases: list[str] = []
        if path.is_file():
            state = json.loads(path.read_text())
            self.cases = state["cases"] if state["key"] == self.key else []

    def __contains__(self, case: str) -> bool:
        return case in self.cases

    def add(self, case: str) -> None:
        self.cases.append(case)
        write_json(self.path, {"key": self.key, "cases": self.cases})

    def forget(self) -> None:
        self.path.unlink(missing_ok=True)
