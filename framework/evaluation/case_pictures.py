"""Pictures of the cases that went worst."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np

from framework.data.case_warnings import collected_case_warnings
from framework.data.image_io import read_images
from framework.errors import FoldwiseError
from framework.evaluation.evaluate import Evaluation, read_pair
from framework.evaluation.metrics_table import label_text
from framework.evaluation.overlap import Metrics
from framework.evaluation.picture import draw_case


def draw_worst_cases(
    evaluation: Evaluation, count: int, folder: Path, file_ending: str, images_folder: Path | None = None
) -> tuple[list[Path], list[str]]:
    """Draw the cases with the lowest mean Dice, named after their rank: ``1_CASE.png`` is the worst.

    Args:
        count: at most so many cases.
        images_folder: with the scans, CASE_0000.EXT; without it only the labels are drawn.

    Returns:
        The pictures, and why scans could not be shown behind some of them.
    """
    pictures, problems = [], []
    for rank, (case, dice) in enumerate(worst_cases(evaluation, count), 1):
        reference_file, prediction_file = evaluation.files[case]
        with collected_case_warnings():  # said when the case was scored
            reference, prediction, properties = read_pair(case, reference_file, prediction_file, evaluation.labels)
        image = None
        if images_folder is not None:
            try:
                image = _scan(images_folder, case, file_ending, reference.shape[1:], evaluation.labels.reader)
            except FoldwiseError as error:
                problems.append(f"case '{case}' is drawn without its scan: {error}")
        path = folder / f"{rank}_{case}.png"
        draw_case(
            path,
            image,
            reference[0],
            prediction[0],
            {key: name or f"label {label_text(key)}" for key, name in evaluation.labels.names.items()},
            properties["spacing"],
            title=f"{case}: mean Dice {dice:.3f}, {_ordinal(rank)} of {len(evaluation.cases)} cases",
            properties=properties,
            ignore_label=evaluation.labels.ignore_label,
        )
        pictures.append(path)
    return pictures, problems


def worst_cases(evaluation: Evaluation, count: int) -> list[tuple[str, float]]:
    """The cases with the lowest mean Dice over their labels, the worst first; without those that have none."""
    means = {case: _mean_dice(list(scores.values())) for case, scores in evaluation.cases.items()}
    defined = {case: mean for case, mean in means.items() if not math.isnan(mean)}
    return sorted(defined.items(), key=lambda item: item[1])[:count]


def _mean_dice(scores: list[Metrics]) -> float:
    values = [metrics["Dice"] for metrics in scores if not math.isnan(metrics["Dice"])]
    return float(np.mean(values)) if values else math.nan


def _scan(folder: Path, case: str, file_ending: str, shape: tuple[int, ...], reader: str | None) -> np.ndarray:
    file = folder / f"{case}_0000{file_ending}"
    if not file.is_file():
        raise FoldwiseError(f"{file} does not exist.")
    channels, _ = read_images([file], reader)
    if channels.shape[1:] != shape:
        raise FoldwiseError(f"{file} has the shape {channels.shape[1:]}, its reference {shape}.")
    return channels[0]


def _ordinal(rank: int) -> str:
    return "the worst" if rank == 1 else f"number {rank} from the worst"
