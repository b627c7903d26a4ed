"""What a segmentation trainer needs before it can start: plans and preprocessed data, made if they are missing."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import torch

from framework.data.example import create_example_if_asked, is_example
from framework.errors import DatasetError
from framework.experiment import plans_files
from framework.preprocessing.parallel import Progress
from framework.preprocessing.prepare import prepare_dataset
from framework.roots import dataset_name, preprocessed_root


def prepare_segmentation_dataset(
    dataset: str | int,
    configuration: str,
    plans: str | None,
    device: torch.device,
    report: Callable[[str], None],
    progress: Progress | None = None,
) -> tuple[str, Path]:
    """Plan and preprocess what is missing.

    Without a name, plans that exist are used; where there are none, ``default`` (nnU-Net's) is planned for a
    GPU and ``laptop`` for a CPU.

    Args:
        progress: told how many cases are done.

    Returns:
        The dataset's full name and its plans file.
    """
    create_example_if_asked(dataset, report)
    name = dataset_name(dataset)
    preset = "default" if device.type == "cuda" else "laptop"
    if plans is None and not plans_files(preprocessed_root() / name):
        if is_example(name):
            preset = "example"
        else:
            where = "a GPU" if device.type == "cuda" else f"training on {device.type}"
            report(
                f"no plans were named and {name} has none: planning with preset '{preset}', for {where} (choose: -p)"
            )
    name, plans_file = prepare_dataset(name, [configuration], plans, preset=preset, say=report, progress=progress)
    if not (preprocessed_root() / name / "dataset.json").is_file():
        raise DatasetError(
            f"{preprocessed_root() / name / 'dataset.json'} does not exist. Copy it there from the raw dataset."
        )
    return name, plans_file
