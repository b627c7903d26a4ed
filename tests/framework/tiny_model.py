"""Model folders as nnU-Net writes them, with networks whose predictions can be worked out by hand."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import SimpleITK
import torch
from torch import Tensor, nn

from framework.checkpoint import save_checkpoint
from framework.files import write_json

LEVELS = (10.0, 20.0)
"""A voxel above the first is label 1, above the second label 2."""
SPACING = (2.0, 1.5, 1.0)
PATCH = (8, 8, 8)


class Levels(nn.Module):
    """The label of a voxel is the number of levels that its first channel exceeds: what `np.digitize` gives."""

    def __init__(self, input_channels: int, num_classes: int, seconds: float = 0.0) -> None:
        super().__init__()
        self.levels = nn.Parameter(torch.zeros(num_classes - 1))
        self.seconds = seconds

    def forward(self, x: Tensor) -> Tensor:
        time.sleep(self.seconds)
        # Head k has slope k; it overtakes head k - 1 where x is the k-th level.
        heads = [torch.zeros_like(x[:, 0])]
        for number, level in enumerate(self.levels):
            heads.append(heads[number] + x[:, 0] - level)
        return torch.stack(heads, 1)


class PreviousStage(nn.Module):
    """Repeats the segmentation of the previous stage, but with labels 1 and 2 exchanged."""

    def __init__(self, input_channels: int, num_classes: int) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.zeros(1))

    def forward(self, x: Tensor) -> Tensor:
        first, second = x[:, -2], x[:, -1]
        return self.scale * torch.stack([1 - first - second, second, first], 1)


def make_model(
    results: Path,
    *,
    configuration: str = "3d_fullres",
    folds: dict[int | str, Sequence[float]] | None = None,
    num_channels: int = 1,
    previous_stage: str | None = None,
    network: type[nn.Module] = Levels,
    network_arguments: dict[str, Any] | None = None,
    plans_name: str = "nnUNetPlans",
    trainer: str = "SegmentationTrainer",
) -> Path:
    """A model folder of Dataset007_Levels; `folds` are the weights of each fold (default: fold 0 with `LEVELS`)."""
    folder = results / "Dataset007_Levels" / f"{trainer}__{plans_name}__{configuration}"
    dataset_json = {
        "channel_names": {str(channel): f"channel {channel}" for channel in range(num_channels)},
        "labels": {"background": 0, "bright": 1, "brighter": 2},
        "numTraining": 1,
        "file_ending": ".nii.gz",
    }
    write_json(folder / "dataset.json", dataset_json)
    write_json(
        folder / "plans.json",
        plans_of(configuration, num_channels, previous_stage, network, network_arguments or {}, plans_name),
    )
    for fold, weights in (folds or {0: LEVELS}).items():
        name = "levels" if network is Levels else "scale"
        state = {
            "network_weights": {name: torch.tensor(weights)},
            "trainer_name": "nnUNetTrainer",
            "init_args": {"configuration": configuration},
            "inference_allowed_mirroring_axes": (0, 1, 2),
        }
        save_checkpoint(folder / f"fold_{fold}" / "checkpoint_final.pth", state)
    return folder


def plans_of(
    configuration: str,
    num_channels: int,
    previous_stage: str | None,
    network: type[nn.Module],
    network_arguments: dict[str, Any],
    plans_name: str,
) -> dict[str, Any]:
    """Plans without normalisation, on the grid of `SPACING`."""
    linear = {"order": 1, "order_z": 0, "force_separate_z": None}
    name = "resample_data_or_seg_to_shape"
    own: dict[str, Any] = {
        "data_identifier": configuration,
        "preprocessor_name": "DefaultPreprocessor",
        "batch_size": 2,
        "patch_size": list(PATCH),
        "spacing": list(SPACING),
        "normalization_schemes": ["NoNormalization"] * num_channels,
        "use_mask_for_norm": [False] * num_channels,
        "resampling_fn_data": name,
        "resampling_fn_seg": name,
        "resampling_fn_probabilities": name,
        "resampling_fn_data_kwargs": {"is_seg": False, **linear, "order": 3},
        "resampling_fn_seg_kwargs": {"is_seg": True, **linear},
        "resampling_fn_probabilities_kwargs": {"is_seg": False, **linear},
        "batch_dice": False,
        "architecture": {
            "network_class_name": f"{network.__module__}.{network.__name__}",
            "arch_kwargs": network_arguments,
            "_kw_requires_import": [],
        },
    }
    configurations = {configuration: own}
    if previous_stage is not None:
        own["previous_stage"] = previous_stage
        configurations[previous_stage] = {key: value for key, value in own.items() if key != "previous_stage"} | {
            "next_stage": configuration
        }
    return {
        "dataset_name": "Dataset007_Levels",
        "plans_name": plans_name,
        "image_reader_writer": "SimpleITKIO",
        "label_manager": "LabelManager",
        "transpose_forward": [0, 1, 2],
        "transpose_backward": [0, 1, 2],
        "foreground_intensity_properties_per_channel": {},
        "configurations": configurations,
    }


def make_scan(
    path: Path, seed: int = 0, shape: tuple[int, int, int] = (10, 12, 9), spacing: Sequence[float] = SPACING
) -> np.ndarray:
    """Write a scan of values between 1 and 30 with an origin of its own; returns its voxels."""
    values = np.random.default_rng(seed).uniform(1, 30, shape).astype(np.float32)
    write_image(path, values, spacing)
    return values


def write_image(path: Path, values: np.ndarray, spacing: Sequence[float] = SPACING) -> None:
    image = SimpleITK.GetImageFromArray(values)
    image.SetSpacing([float(length) for length in reversed(spacing)])
    image.SetOrigin((-5.0, 7.0, 20.0))
    path.parent.mkdir(parents=True, exist_ok=True)
    SimpleITK.WriteImage(image, str(path))


def labels_by_hand(values: np.ndarray, levels: Sequence[float] = LEVELS) -> np.ndarray:
    return np.digitize(values, levels)


def read_labels(path: Path) -> np.ndarray:
    return SimpleITK.GetArrayFromImage(SimpleITK.ReadImage(str(path)))
