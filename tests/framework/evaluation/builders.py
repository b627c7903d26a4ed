"""Small label images in folders, and the command that scores them."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import numpy as np

from framework.commands.evaluate import main as fw_evaluate
from framework.data.image_io import write_segmentation


def properties(spacing: tuple[float, float, float] = (1.0, 1.0, 1.0), origin: float = 0.0) -> dict[str, Any]:
    return {
        "spacing": list(spacing),
        "sitk_stuff": {
            "spacing": spacing[::-1],
            "origin": (origin, 0.0, 0.0),
            "direction": (1.0, 0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0, 1.0),
        },
    }


def label_map(shift: int = 0, shape: tuple[int, int, int] = (12, 14, 16)) -> np.ndarray:
    labels = np.zeros(shape, np.uint8)
    labels[2:10, 3:11, 2 + shift : 12 + shift] = 1
    labels[4:7, 5:8, 4 + shift : 8 + shift] = 2
    return labels


def write(path: Path, labels: np.ndarray, **geometry: Any) -> None:
    write_segmentation(labels, path, properties(**geometry))


def write_dataset_json(folder: Path, labels: dict[str, Any], **more: Any) -> None:
    (folder / "dataset.json").write_text(json.dumps({"labels": labels, "file_ending": ".nii.gz", **more}))


def run(*arguments: Any) -> int:
    return fw_evaluate([*map(str, arguments), "-np", "1"])


def rows_of(path: Path) -> list[dict[str, str]]:
    with open(path, newline="") as file:
        return list(csv.DictReader(file))
