"""A picture of every validation case, the worst first."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from framework.data.image_io import read_segmentation
from framework.errors import WriteError
from framework.evaluation.case_pictures import worst_cases
from framework.evaluation.evaluate import Evaluation
from framework.evaluation.picture import draw_case
from framework.inference.axis_sampling import AxisSampling
from framework.inference.scan_grid import ScanGrid

if TYPE_CHECKING:
    from trainers.segmentation import SegmentationTrainer

_PICTURE = re.compile(r"\d{3,}_.+\.png")


def draw_validation_pictures(trainer: SegmentationTrainer, evaluation: Evaluation, folder: Path) -> list[Path]:
    """Write ``001_CASE.png``, ``002_CASE.png``, ... in ascending order of mean Dice: the first shows the worst case.

    Pictures of an earlier validation are removed. One that cannot be drawn is reported: the scores are worth more.
    A signal ends the drawing.
    """
    for path in folder.glob("*.png"):
        if _PICTURE.fullmatch(path.name):
            path.unlink()
    ranked = worst_cases(evaluation, len(evaluation.cases))
    pictures = []
    for place, (case, dice) in enumerate(ranked, start=1):
        if trainer.interrupted:
            break
        path = folder / f"{place:03d}_{case}.png"
        title = f"{case}: mean Dice {dice:.3f}, {_place(place, len(ranked))} of {len(ranked)} validation cases"
        try:
            _draw(trainer, evaluation, case, path, title)
            pictures.append(path)
        except Exception as error:
            reason = error.reason if isinstance(error, WriteError) else f"{type(error).__name__}: {error}"
            trainer.report(f"warning: case '{case}' could not be drawn: {reason}")
    return pictures


def _place(place: int, number: int) -> str:
    if place == number:
        return "the best"
    return "the worst" if place == 1 else f"number {place} from the worst"


def _draw(trainer: SegmentationTrainer, evaluation: Evaluation, case: str, path: Path, title: str) -> None:
    reference_file, prediction_file = evaluation.files[case]
    reference, properties = read_segmentation(reference_file, trainer.dataset_reader)
    prediction, _ = read_segmentation(prediction_file, trainer.dataset_reader)
    grid = ScanGrid.of(trainer.store.properties(case), trainer.plans, trainer.configuration)
    draw_case(
        path,
        ScanOfPreprocessed(trainer.store.read(case)[0][0], grid),
        reference[0],
        prediction[0],
        evaluation.labels.names,
        properties["spacing"],
        title,
        properties,
        ignore_label=evaluation.labels.ignore_label,
    )


class ScanOfPreprocessed:
    """A preprocessed channel as if it lay on the grid of its scan, which training can do without.

    Only what is asked for is interpolated. Outside of the box that preprocessing cropped to it has its lowest value.

    Args:
        data: (X, Y, Z), the axes in the order of the plans.
        grid: of the case.
    """

    def __init__(self, data: np.ndarray, grid: ScanGrid) -> None:
        self.shape = grid.scan_shape
        self._data, self._grid = data, grid
        self._surround = float(data.min())
        self._axes = [AxisSampling.between(num_in, num_out, order=1) for num_in, num_out in zip(data.shape, grid.shape)]

    def __getitem__(self, index: tuple[Any, ...]) -> np.ndarray:
        """Three integers or slices, in the axes of the scan."""
        wanted = [np.arange(length)[part] for length, part in zip(self.shape, index)]
        inside = []
        places = []
        for scan_axis, (start, stop) in zip(self._grid.forward, self._grid.box):
            asked = np.atleast_1d(wanted[scan_axis]) - start
            places.append(np.flatnonzero((asked >= 0) & (asked < stop - start)))
            inside.append(asked[places[-1]])
        part = self._data
        # The axis along which a single voxel is wanted comes first: of a large scan only a slice is copied.
        for axis in sorted(range(3), key=lambda each: len(inside[each])):
            part = _interpolated(part, self._axes[axis], inside[axis], axis)
        whole = np.full([np.size(wanted[axis]) for axis in self._grid.forward], self._surround, np.float32)
        whole[np.ix_(*places)] = part
        return whole.transpose(self._grid.backward).reshape([np.size(each) for each in wanted if np.ndim(each)])


def _interpolated(data: np.ndarray, sampling: AxisSampling, positions: np.ndarray, axis: int) -> np.ndarray:
    lower = sampling.lower[positions]
    low = np.take(data, lower, axis)
    if not sampling.is_interpolated:
        return low
    weight = sampling.weight[positions].reshape([-1 if each == axis else 1 for each in range(data.ndim)])
    return low + weight * (np.take(data, lower + 1, axis) - low)
