"""The real validation of a fold: every validation case predicted whole, written, scored, and some of them drawn."""

from __future__ import annotations

import math
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn

from framework.data.image_io import read_segmentation
from framework.data.previous_stage import one_hot
from framework.errors import DatasetError, FoldwiseError, WriteError
from framework.evaluation.case_pairs import CasePairs
from framework.evaluation.evaluate import Evaluation, evaluate_pairs
from framework.evaluation.metrics_table import write_metrics_table
from framework.evaluation.scored_labels import ScoredLabels
from framework.evaluation.summary import write_summary
from framework.hook import Hook
from framework.hooks.preemption import Preemption
from framework.hooks.rank_watch import RankWatch
from framework.hooks.stop_on_request import StopOnRequest
from framework.inference.export import export_prediction
from framework.inference.network_for_inference import prepared_for_inference
from framework.inference.pipeline import CaseFailure, StopPrediction, predict_cases
from framework.inference.prediction_report import failure_table
from framework.inference.sliding_window import sliding_window_logits
from framework.preprocessing.parallel import usable_cpus
from framework.pulse import PULSE
from framework.roots import raw_root
from framework.run_identity import digest
from trainers.cascade import next_stage_file, write_for_next_stage
from trainers.validation_pictures import draw_validation_pictures
from trainers.validation_record import ValidationRecord, set_strangers_aside, weights_digest

if TYPE_CHECKING:
    from framework.base_trainer import BaseTrainer
    from framework.run_folder import RunFolder
    from trainers.segmentation import SegmentationTrainer

_SECONDS_BETWEEN_REPORTS = 30.0
_MAX_SCORED_AT_ONCE = 8  # each holds two label maps and the distances of a label
_NUM_NAMED = 5


class FoldValidation(Hook):
    """Validate the fold when the training has ended, after the final checkpoint was written."""

    priority = 95

    def on_train_end(self, trainer: BaseTrainer) -> None:
        from trainers.segmentation import SegmentationTrainer

        assert isinstance(trainer, SegmentationTrainer)
        try:
            trainer.validate_fold()
        except WriteError as error:
            # "The same command" alone would train the fold again.
            raise WriteError(
                error.path,
                error.reason,
                "The training itself is complete. When the disk takes files again, the same command with --c goes on "
                "with the validation.",
            ) from error


def validate_fold(trainer: SegmentationTrainer) -> dict[str, Any]:
    """Predict, write, score and draw the fold's validation cases.

    Cases that were predicted with the same weights and settings before an interruption are not predicted again.
    Other predictions in ``validation/`` are moved to ``validation_before_N/``, never scored, and never deleted. A
    case that fails does not stop the others. Several processes share the cases; rank 0 scores and draws all.

    Returns:
        The summary in nnU-Net's form, also in ``validation/summary.json``; empty if a signal came in between, and
        in processes other than rank 0.

    Raises:
        FoldwiseError: cases could not be predicted or scored; names them. There is no summary then: the mean over
            the others would pass for that of the fold.
    """
    trainer.setup()
    with _stopped_by_signals(trainer):
        references = _reference_files(trainer)
        with trainer.ranks.main_first():
            record = _begin(trainer)
        failures = _failures_of_all(trainer, _predict(trainer, list(references), record))
        if trainer.interrupted or not trainer.ranks.is_main:
            return {}
        record.absorb_others()
        evaluation = _score(trainer, {case: path for case, path in references.items() if case not in failures})
        if evaluation is None:
            return {}
        failures |= {
            case: CaseFailure(case, "scoring", reason, FoldwiseError(reason), "")
            for case, reason in evaluation.failures.items()
        }
        if failures:
            raise FoldwiseError(_failure_message(failures, len(references)))
        return _finish(trainer, evaluation, record)


def _begin(trainer: SegmentationTrainer) -> ValidationRecord:
    """The record of what is predicted already; strangers in the folder are out of the way then."""
    run = _run_folder(trainer)
    made_with = digest(
        [
            weights_digest(trainer.network),
            trainer.configuration.patch_size,
            trainer.mirror_axes,
            trainer.data_identity().get("the preprocessed files"),
        ]
    )
    record = ValidationRecord(run.validation, made_with, trainer.ranks.rank)
    if not trainer.ranks.is_main:
        return record
    kept, moved = set_strangers_aside(record, trainer.validation_cases, trainer.file_ending)
    if kept is not None:
        named = ", ".join(moved[:_NUM_NAMED]) + (", ..." if len(moved) > _NUM_NAMED else "")
        trainer.report(
            f"{run.validation} held {len(moved)} file(s) of another validation ({named}); they are in {kept} now."
        )
    record.begin()
    return record


def _predict(trainer: SegmentationTrainer, cases: list[str], record: ValidationRecord) -> dict[str, CaseFailure]:
    """Predict this process's share of the cases that are not done, and return those that failed."""
    ranks = trainer.ranks
    waiting = [case for case in cases if not _is_done(trainer, case, record)] if ranks.is_main else []
    waiting = ranks.from_main(waiting)
    kept = f", {len(cases) - len(waiting)} are done" if len(waiting) < len(cases) else ""
    trainer.report(f"predicting {len(cases)} validation cases{kept}")
    # The largest first, in turns, so that all processes end at about the same time.
    by_size = sorted(waiting, key=lambda case: -math.prod(trainer.store.shape(case))) if ranks.size > 1 else waiting
    waiting = by_size[ranks.rank :: ranks.size]
    network = prepared_for_inference(trainer.network, trainer.device) if waiting else trainer.network
    finished, reported_at = 0, time.monotonic()

    def write(case: str, logits: Tensor, properties: dict[str, Any]) -> None:
        _write_case(trainer, case, logits, properties)
        record.add(case, _files_of(trainer, case))

    def on_case(case: str, failure: CaseFailure | None) -> None:
        nonlocal finished, reported_at
        finished += 1
        PULSE.beat()
        if failure is not None:
            trainer.report(f"validation case '{case}' failed while {failure.step}: {failure.message}")
            if failure.is_defect:
                trainer.report(failure.details)
        elif time.monotonic() - reported_at > _SECONDS_BETWEEN_REPORTS:
            reported_at = time.monotonic()
            trainer.report(f"{finished} of {len(waiting)} validation cases predicted")

    failures = predict_cases(
        waiting,
        lambda case: _read_case(trainer, case),
        lambda case, data: _predict_case(trainer, network, data),
        write,
        stop=lambda: trainer.interrupted,
        on_case=on_case,
    )
    return {failure.case: failure for failure in failures}


def _failures_of_all(trainer: SegmentationTrainer, failures: dict[str, CaseFailure]) -> dict[str, CaseFailure]:
    """Wait until every process has predicted its cases, and join what failed, and whether somebody was interrupted."""
    ranks = trainer.ranks
    if ranks.size == 1:
        return failures
    ranks.wait_for_all()
    (trainer.interrupted,) = ranks.agree(trainer.interrupted)
    # Errors need not survive being sent; their texts do.
    told = ranks.gather([(each.case, each.step, each.message, each.details) for each in failures.values()])
    return {
        case: CaseFailure(case, step, message, FoldwiseError(message), details)
        for of_rank in told
        for case, step, message, details in of_rank
    }


def _read_case(trainer: SegmentationTrainer, case: str) -> tuple[Tensor, dict[str, Any]]:
    """Input of the network (C, X, Y, Z), and what is known of the scan."""
    image, segmentation = trainer.store.read(case)
    data = torch.from_numpy(np.array(image))
    if trainer.previous_stage_labels:
        previous = torch.from_numpy(np.array(segmentation[1]))
        data = torch.cat([data, one_hot(previous, trainer.previous_stage_labels, axis=0)])
    return data, trainer.store.properties(case)


def _predict_case(trainer: SegmentationTrainer, network: nn.Module, data: Tensor) -> Tensor:
    def leave_if_asked(finished: int, total: int) -> None:
        PULSE.beat("predicting a validation case")
        # A large scan may take longer than a batch system waits between its signal and the end.
        if trainer.interrupted:
            raise StopPrediction

    return sliding_window_logits(
        network,
        data,
        trainer.configuration.patch_size,
        mirror_axes=trainer.mirror_axes,
        autocast_dtype=trainer.update.dtype if trainer.device.type == "cuda" else None,
        progress=leave_if_asked,
    ).cpu()


def _write_case(trainer: SegmentationTrainer, case: str, logits: Tensor, properties: dict[str, Any]) -> None:
    export_prediction(
        logits,
        properties,
        trainer.plans,
        trainer.configuration,
        trainer.labels,
        _run_folder(trainer).validation / case,
        file_ending=trainer.file_ending,
        save_probabilities=trainer.save_probabilities,
    )
    for next_stage in trainer.configuration.next_stage:
        write_for_next_stage(trainer, case, logits, properties, next_stage)


def _files_of(trainer: SegmentationTrainer, case: str) -> list[Path]:
    """What is written for a case."""
    folder = _run_folder(trainer).validation
    files = [folder / f"{case}{trainer.file_ending}"]
    if trainer.save_probabilities:
        files += [folder / f"{case}.npz", folder / f"{case}.pkl"]
    return files + [next_stage_file(trainer, case, stage) for stage in trainer.configuration.next_stage]


def _is_done(trainer: SegmentationTrainer, case: str, record: ValidationRecord) -> bool:
    files = _files_of(trainer, case)
    if not record.has(case, files):
        return False
    try:
        read_segmentation(files[0], trainer.dataset_reader)
    except FoldwiseError as error:
        trainer.report(f"validation case '{case}' is predicted again: {error}")
        return False
    return True


def _score(trainer: SegmentationTrainer, references: dict[str, Path]) -> Evaluation | None:
    """Compare the predictions with the references; None if a signal came in between."""
    labels = trainer.labels
    folder, ending = _run_folder(trainer).validation, trainer.file_ending

    def leave_if_asked(what: str, done: int, total: int) -> None:
        if trainer.interrupted:
            raise StopPrediction

    try:
        return evaluate_pairs(
            CasePairs({case: (path, folder / f"{case}{ending}") for case, path in references.items()}, ending),
            ScoredLabels(
                dict(zip(labels.foreground_keys, labels.foreground_names)),
                labels.ignore_label,
                file_ending=ending,
                reader=trainer.dataset_reader,
            ),
            num_threads=min(usable_cpus(), _MAX_SCORED_AT_ONCE),
            progress=leave_if_asked,
        )
    except StopPrediction:
        return None


def _finish(trainer: SegmentationTrainer, evaluation: Evaluation, record: ValidationRecord) -> dict[str, Any]:
    run = _run_folder(trainer)
    table, pictures = run.validation / "metrics.csv", run.validation / "pictures"
    summary = evaluation.summary()
    write_metrics_table(table, evaluation.cases, evaluation.labels.names)
    write_summary(summary, run.validation_summary)
    drawn = draw_validation_pictures(trainer, evaluation, pictures)
    if not trainer.interrupted:
        record.complete()
    for case, remarks in evaluation.remarks.items():
        trainer.report(f"case '{case}': {'; '.join(remarks)}")
    for key, name in evaluation.labels.names.items():
        trainer.report(f"  {name}: Dice {summary['mean'][key]['Dice']:.4f}")
    trainer.report(f"mean validation Dice: {summary['foreground_mean']['Dice']:.4f}")
    for what, path in (
        ("scores", run.validation_summary),
        ("table", table),
        ("progress", run.progress_picture),
        ("pictures", pictures if drawn else None),
    ):
        if path is not None:
            trainer.report(f"{what + ':':10}{path}")
    return summary


def _failure_message(failures: dict[str, CaseFailure], number: int) -> str:
    return (
        f"{len(failures)} of {number} validation cases could not be predicted and scored, so no summary.json was "
        f"written:\n{failure_table(list(failures.values()))}\n"
        "The training itself is complete. When the fault is mended, run the same command with --c: the other cases "
        "are kept."
    )


def _run_folder(trainer: SegmentationTrainer) -> RunFolder:
    if trainer.run_folder is None:
        raise FoldwiseError("this trainer has no run folder, so there is no place for its validation.")
    return trainer.run_folder


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


@contextmanager
def _stopped_by_signals(trainer: SegmentationTrainer) -> Iterator[None]:
    """A validation on its own (``--val``) has no training around it whose hooks listen for signals."""
    if signal.getsignal(signal.SIGTERM) is not signal.SIG_DFL:
        yield
        return
    listeners = [hook for hook in trainer.hooks if isinstance(hook, (Preemption, StopOnRequest, RankWatch))]
    try:
        for hook in listeners:
            hook.on_train_start(trainer)
        yield
        if trainer.interrupted:
            trainer.report(f"stopped: {trainer.stop_reason}. The same command goes on: whole cases are kept.")
    finally:
        for hook in reversed(listeners):
            hook.on_teardown(trainer)
