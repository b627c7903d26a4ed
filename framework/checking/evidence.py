"""What the checks look at: the listing of a dataset, and a summary of every case."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np

from framework.checking.case_summary import CaseSummary
from framework.data.raw_dataset import RawListing

_Value = TypeVar("_Value")

MIN_CASES = 8
"""Fewer cases say too little about what is usual."""
_NORMAL_DEVIATION = 1.4826  # median absolute deviation -> standard deviation, for a normal distribution


@dataclass(frozen=True)
class Evidence:
    """All that is known about a dataset after every file was read once."""

    listing: RawListing
    cases: tuple[CaseSummary, ...]
    test_cases: tuple[CaseSummary, ...] = ()

    @property
    def num_channels(self) -> int:
        """As dataset.json says, else as most cases have; 0 if neither tells."""
        if self.listing.channel_names:
            return len(self.listing.channel_names)
        return most_common([len(case.channels) for case in self.cases if case.channels]) or 0

    @property
    def label_names(self) -> dict[int, str]:
        """Name of every label value, background and ignore label included, even if dataset.json has other mistakes."""
        return names_of_label_values(self.listing.dataset_json)

    @property
    def ignore_label(self) -> int | None:
        return stated_ignore_label(self.listing.dataset_json)


def names_of_label_values(dataset_json: dict[str, Any]) -> dict[int, str]:
    """Value -> name, of all integers under ``labels``; a value of several regions has the name of the last one."""
    block = dataset_json.get("labels")
    names: dict[int, str] = {}
    for name, value in block.items() if isinstance(block, dict) else ():
        for each in value if isinstance(value, list) else [value]:
            if isinstance(each, int):
                names[each] = str(name)
    return names


def stated_ignore_label(dataset_json: dict[str, Any]) -> int | None:
    """The value of ``ignore``, if it is an integer."""
    block = dataset_json.get("labels")
    value = block.get("ignore") if isinstance(block, dict) else None
    return value if isinstance(value, int) else None


def most_common(values: list[_Value]) -> _Value | None:
    """The most frequent value, the first of several; None for an empty list."""
    return Counter(values).most_common(1)[0][0] if values else None


def median_and_spread(values: np.ndarray) -> tuple[float, float]:
    """Median, and a standard deviation that outliers do not change."""
    median = float(np.median(values))
    return median, float(np.median(np.abs(values - median))) * _NORMAL_DEVIATION
