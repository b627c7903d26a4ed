"""What the numbers in a label image mean: labels, regions, the ignore label, and the heads of the network."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from framework.errors import DatasetError

LabelKey = int | tuple[int, ...]
"""One label, or the labels that a region unites."""

LARGEST_LABEL = 2**15 - 1
"""Preprocessed segmentations are int16."""

_Scores = TypeVar("_Scores")  # a numpy array or a torch tensor; both are indexed and compared alike

_EXAMPLE = '"labels": {"background": 0, "liver": 1, "tumour": 2}'


@dataclass(frozen=True)
class Labels:
    """The ``labels`` of a dataset.json, checked.

    Every non-background entry is a label (an integer) or a region (a tuple of integers, that is their
    union). As soon as one entry unites two labels or more, the network has one sigmoid head for every
    entry; else it has one softmax head for every label, background included. **The order of the entries
    is the order of the region heads**, so it is kept as it stands in the file.
    """

    names: dict[str, LabelKey]
    regions_class_order: tuple[int, ...] | None = None

    @classmethod
    def from_dataset_json(cls, dataset_json: Mapping[str, Any], source: str | Path = "dataset.json") -> Labels:
        """Read and check ``labels`` and ``regions_class_order``.

        Raises:
            DatasetError: lists every mistake found, each with the value and what would be right.
        """
        if not isinstance(dataset_json, Mapping):
            raise DatasetError(f"{source}: expected an object {{...}}, found {type(dataset_json).__name__}.")
        problems: list[str] = []
        names = _read_names(dataset_json.get("labels"), problems)
        order = _read_order(dataset_json.get("regions_class_order"), problems)
        if not problems:
            labels = cls(names, order)
            problems = _contradictions(labels)
            if not problems:
                return labels
        raise DatasetError("\n".join(f"{source}: {problem}" for problem in problems))

    @property
    def ignore_label(self) -> int | None:
        """The value of voxels that nobody annotated, or None. It is never learned, scored or predicted."""
        value = self.names.get("ignore")
        return value if isinstance(value, int) else None

    @property
    def has_regions(self) -> bool:
        """True if the heads are sigmoids, one for every region."""
        return any(isinstance(value, tuple) and len(value) > 1 for value in self.names.values())

    @property
    def all_labels(self) -> tuple[int, ...]:
        """Every label value in ascending order, with background (0) and without the ignore label."""
        values = {0}
        for name, value in self.names.items():
            if name != "ignore":
                values.update(value if isinstance(value, tuple) else (value,))
        return tuple(sorted(values))

    @property
    def foreground_labels(self) -> tuple[int, ...]:
        """`all_labels` without background."""
        return tuple(value for value in self.all_labels if value != 0)

    @property
    def foreground_keys(self) -> tuple[LabelKey, ...]:
        """What is scored and sampled: the regions in the order of their heads, or the foreground labels."""
        if not self.has_regions:
            return self.foreground_labels
        return tuple(value for name, value in self.names.items() if name != "ignore" and not _is_background(value))

    @property
    def foreground_names(self) -> tuple[str, ...]:
        """A name for each of `foreground_keys`, for tables and plots."""
        named = {name: value for name, value in self.names.items() if name != "ignore" and not _is_background(value)}
        if self.has_regions:
            return tuple(named)
        return tuple(sorted(named, key=lambda name: _values(named[name])))

    @property
    def num_heads(self) -> int:
        """Output channels of the network: labels with background (softmax), or regions (sigmoid)."""
        return len(self.foreground_keys) if self.has_regions else len(self.all_labels)

    @property
    def allowed_values(self) -> frozenset[int]:
        """Every value that a label image of this dataset may hold."""
        ignore = () if self.ignore_label is None else (self.ignore_label,)
        return frozenset((*self.all_labels, *ignore))

    def segmentation_from_logits(self, logits: _Scores) -> _Scores:
        """The label map that the network means.

        Args:
            logits: (K, *spatial) with K `num_heads`, a numpy array or a torch tensor.

        Returns:
            (*spatial) int16 of the same kind. Softmax heads: the label of the largest logit. Regions: where
            the sigmoid of head i exceeds 0.5 the value ``regions_class_order[i]`` is written, later heads
            over earlier ones.
        """
        # sigmoid(x) > 0.5 is x > 0, without computing the sigmoid
        return self._segmentation(logits, threshold=0.0)

    def segmentation_from_probabilities(self, probabilities: _Scores) -> _Scores:
        """As `segmentation_from_logits`, from values in [0, 1], such as the mean of several models."""
        return self._segmentation(probabilities, threshold=0.5)

    def _segmentation(self, scores: Any, threshold: float) -> Any:
        if len(scores) != self.num_heads:
            raise ValueError(f"{len(scores)} channels were given, but these labels have {self.num_heads} heads")
        if self.has_regions:
            assert self.regions_class_order is not None  # checked when the file was read
            segmentation = (scores[0] > threshold) * 0
            for head, value in zip(scores, self.regions_class_order):
                segmentation[head > threshold] = value
        else:
            # labels are consecutive, so the index of a head is its label
            segmentation = scores.argmax(0)
        return segmentation.astype(np.int16) if isinstance(segmentation, np.ndarray) else segmentation.short()


def _read_names(block: Any, problems: list[str]) -> dict[str, LabelKey]:
    if not isinstance(block, Mapping):
        found = "missing" if block is None else repr(block)
        problems.append(f"'labels' is {found}, expected names with their values, such as {_EXAMPLE}.")
        return {}
    names: dict[str, LabelKey] = {}
    for name, value in block.items():
        if _is_integer(value):
            names[name] = int(value)
        elif isinstance(value, (list, tuple)) and value and all(_is_integer(entry) for entry in value):
            names[name] = tuple(int(entry) for entry in value)
        elif isinstance(value, str) and value.strip().isdigit():
            problems.append(f"label '{name}' has the text {value!r} as its value; write the number: {int(value)}.")
        elif isinstance(name, str) and name.strip().isdigit() and isinstance(value, str):
            problems.append(
                f'label entry "{name}": {value!r} is the wrong way round (the form of nnU-Net v1 and the '
                "Decathlon); "
                f'write "{value}": {int(name)}.'
            )
        else:
            problems.append(
                f"label '{name}' has the value {value!r}, expected an integer or a list of integers (a region)."
            )
    return names


def _read_order(value: Any, problems: list[str]) -> tuple[int, ...] | None:
    if value is None:
        return None
    if isinstance(value, (list, tuple)) and all(_is_integer(entry) for entry in value):
        return tuple(int(entry) for entry in value)
    problems.append(f"'regions_class_order' is {value!r}, expected a list of integers, one for each region.")
    return None


def _contradictions(labels: Labels) -> list[str]:
    problems = []
    background = labels.names.get("background")
    if background is None:
        problems.append(f"'labels' has no 'background'. Add \"background\": 0, as in {_EXAMPLE}.")
    elif background != 0:
        problems.append(f"'background' is {_plain(background)}, but it must be the integer 0.")
    if isinstance(labels.names.get("ignore"), tuple):
        problems.append(f"'ignore' is {_plain(labels.names['ignore'])}, but it must be one integer, not a region.")
    negative = [f"'{name}'" for name, value in labels.names.items() if min(_values(value)) < 0]
    if negative:
        problems.append(f"{', '.join(negative)} has a negative value; label values start at 0.")
    large = [f"'{name}'" for name, value in labels.names.items() if max(_values(value)) > LARGEST_LABEL]
    if large:
        problems.append(f"{', '.join(large)} has a value above {LARGEST_LABEL}, the largest that is stored; renumber.")
    if problems:
        return problems

    values = labels.all_labels
    if len(values) == 1:
        problems.append(
            "'labels' names nothing but background, so there is nothing to learn. Add a label with the value 1."
        )
    highest = max(values)
    missing = sorted(set(range(highest + 1)) - set(values))
    if labels.ignore_label is not None and labels.ignore_label != highest + 1:
        problems.append(
            f"'ignore' is {labels.ignore_label}, but it must be one above every other label (these go up to "
            f"{highest}). Renumber, here and in the label images."
        )
    elif missing and not labels.has_regions:
        # With regions a head stands for a region, so a gap between label values does no harm.
        problems.append(
            f"label values must be consecutive, but {_listed(missing)} is missing between 0 and {highest} "
            f"(found: {_listed(values)}). Renumber the labels, here and in the label images."
        )
    if not labels.has_regions:
        by_value: dict[int, list[str]] = {}
        for name, value in labels.names.items():
            by_value.setdefault(_values(value)[0], []).append(f"'{name}'")
        for number, sharing in by_value.items():
            if len(sharing) > 1:
                problems.append(f"{' and '.join(sharing)} share the value {number}; every label needs its own.")
        return problems

    num_regions, order = len(labels.foreground_keys), labels.regions_class_order
    regions = ", ".join(
        f"'{name}'" for name, value in labels.names.items() if name != "ignore" and not _is_background(value)
    )
    explanation = (
        "It gives, for each region in the order of 'labels', the value that is written where this region is "
        "predicted; later ones overwrite earlier ones, so large regions come first."
    )
    if order is None:
        problems.append(
            f"some labels are regions, so 'regions_class_order' is needed, with {num_regions} integers for "
            f"{regions}. {explanation}"
        )
    elif len(order) != num_regions:
        problems.append(
            f"'regions_class_order' has {len(order)} entries {_plain(order)}, but there are {num_regions} "
            f"regions: {regions}. {explanation}"
        )
    else:
        unknown = sorted(set(order) - set(labels.foreground_labels))
        if unknown:
            problems.append(
                f"'regions_class_order' has {_listed(unknown)}, which is no foreground label "
                f"(these are {_listed(labels.foreground_labels)}). {explanation}"
            )
    return problems


def _is_integer(value: Any) -> bool:
    return isinstance(value, (int, np.integer)) and not isinstance(value, bool)


def _is_background(value: LabelKey) -> bool:
    return set(_values(value)) == {0}


def _values(value: LabelKey) -> tuple[int, ...]:
    return value if isinstance(value, tuple) else (value,)


def _plain(value: LabelKey) -> str:
    return str(list(value)) if isinstance(value, tuple) else str(value)


def _listed(values: Any) -> str:
    return ", ".join(str(value) for value in values)
