"""The built-in example: a dataset of simulated scans that any command creates when it is asked for."""

from __future__ import annotations

from collections.abc import Callable

from framework.data.phantom import DATASET_NAME, make_phantom_dataset
from framework.roots import known_datasets, raw_root

_SPELLINGS = {DATASET_NAME, DATASET_NAME.split("_")[1], "0", "000"}


def create_example_if_asked(dataset: str | int, report: Callable[[str], None]) -> None:
    """Write the example's raw dataset if `dataset` means it and no dataset of that id is there."""
    if str(dataset) not in _SPELLINGS or any(name.startswith("Dataset000_") for name in known_datasets()):
        return
    report(f"creating the example {DATASET_NAME}, simulated scans, in {raw_root()}")
    make_phantom_dataset(raw_root())


def is_example(dataset: str) -> bool:
    """Whether a full dataset name is that of the example."""
    return dataset == DATASET_NAME
