"""Files of the raw dataset that stand beside the preprocessed cases too: training does without the raw data."""

from __future__ import annotations

from pathlib import Path

from framework.data.raw_dataset import RawDataset
from framework.errors import DatasetError
from framework.files import read_json, write_json


def copy_dataset_files(raw_dataset: RawDataset, folder: Path) -> None:
    """dataset.json, brought up to date; and splits that come with the raw data, unless there are some.

    Raises:
        DatasetError: there are other splits already.
    """
    target = folder / "dataset.json"
    if not target.is_file() or read_json(target, error_type=DatasetError) != raw_dataset.dataset_json:
        write_json(target, raw_dataset.dataset_json)
    source, target = raw_dataset.folder / "splits_final.json", folder / "splits_final.json"
    if not source.is_file():
        return
    splits = read_json(source, error_type=DatasetError)
    if not target.is_file():
        write_json(target, splits)
    elif read_json(target, error_type=DatasetError)[: len(splits)] != splits:
        raise DatasetError(
            f"{source} and {target} divide the cases differently. Delete the one that you do not want; runs "
            "that were trained with the other one must not be compared with new ones."
        )


def reference_file(raw_dataset: RawDataset, folder: Path, case: str) -> Path:
    """Where the label image of a case is copied to, so that evaluation does not need the raw data."""
    return folder / "gt_segmentations" / f"{case}{raw_dataset.file_ending}"
