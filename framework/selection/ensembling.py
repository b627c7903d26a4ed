"""The mean of the probabilities of several models, and the label map that it means."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import reduce
from pathlib import Path

import numpy as np

from framework.data.labels import Labels
from framework.errors import CaseError
from framework.selection.probability_files import ProbabilityFile


class GrowingLabelMap:
    """What `Labels.segmentation_from_probabilities` makes of all heads, given one head after the other."""

    def __init__(self, labels: Labels, shape: tuple[int, ...]) -> None:
        self.labels = labels
        self.label_map = np.zeros(shape, np.uint8 if max(labels.all_labels) < 255 else np.uint16)
        self._best: np.ndarray | None = None
        self._num_heads = 0

    def add(self, head: np.ndarray) -> None:
        """The next head, (X, Y, Z) in [0, 1]; it is not kept."""
        index, self._num_heads = self._num_heads, self._num_heads + 1
        if self.labels.has_regions:
            assert self.labels.regions_class_order is not None  # checked when dataset.json was read
            self.label_map[head > 0.5] = self.labels.regions_class_order[index]
        elif self._best is None:
            self._best = head.copy()
        else:
            self.label_map[head > self._best] = index
            np.maximum(self._best, head, out=self._best)


def opened(paths: Sequence[Path], labels: Labels) -> list[ProbabilityFile]:
    """The files of one case, which must fit each other and the labels.

    Raises:
        CaseError: a file cannot be used, has a channel too many or too few, or lies on another grid than the first.
    """
    files = [ProbabilityFile(path) for path in paths]
    for file in files:
        if file.shape[0] != labels.num_heads:
            kind = "region" if labels.has_regions else "label with background"
            raise CaseError(
                file.case,
                f"{file.path} has {file.shape[0]} channels, but dataset.json asks for {labels.num_heads}, one for each "
                f"{kind}. Was it predicted by a model of another dataset?",
            )
        if file.shape != files[0].shape:
            raise CaseError(
                file.case,
                f"{file.path} has shape {file.shape[1:]}, but {files[0].path} has {files[0].shape[1:]}. Both must be "
                "predictions of the same scan: predict one of them again.",
            )
    return files


def ensembled_label_maps(
    files: Sequence[ProbabilityFile], combinations: Sequence[Sequence[int]], labels: Labels
) -> list[np.ndarray]:
    """The label map of each combination of models; every file is read once.

    Args:
        files: as from `opened`, one for each model.
        combinations: of indices into `files`.

    Returns:
        (X, Y, Z) unsigned integers for each combination.
    """
    growing = [GrowingLabelMap(labels, files[0].shape[1:]) for _ in combinations]
    for heads in zip(*(file.heads() for file in files), strict=True):
        for chosen, label_map in zip(combinations, growing):
            label_map.add(_mean([heads[index] for index in chosen]))
    return [each.label_map for each in growing]


def write_ensembled_probabilities(files: Sequence[ProbabilityFile], labels: Labels, path: Path) -> np.ndarray:
    """Write the mean of all `files` as ``CASE.npz``; returns the label map that it means."""
    from framework.inference.probability_files import write_probability_file  # needs torch, which takes a second

    growing = GrowingLabelMap(labels, files[0].shape[1:])

    def means() -> Iterator[np.ndarray]:
        for heads in zip(*(file.heads() for file in files), strict=True):
            mean = _mean(heads)
            growing.add(mean)
            yield mean

    write_probability_file(path, files[0].shape, means())
    return growing.label_map


def memory_needed(file: ProbabilityFile, num_files: int, num_combinations: int = 1) -> int:
    """Bytes that one case takes at most, about."""
    head = int(np.prod(file.shape[1:])) * 4
    # Of each file a head, packed and not; of each combination the best so far and the labels; one mean.
    return head * (2 * num_files + 2 * num_combinations + 2)


def _mean(heads: Sequence[np.ndarray]) -> np.ndarray:
    """In the order of the models and in float32, as nnU-Net does it: rounding decides close calls the same way."""
    add: Callable[[np.ndarray, np.ndarray], np.ndarray] = np.add
    total = reduce(add, heads)
    return total / np.float32(len(heads))
