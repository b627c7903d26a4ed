"""A model folder as training leaves it, with random weights, and zips made by hand."""

from __future__ import annotations

import json
import zipfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch

from framework.checkpoint import save_checkpoint
from framework.networks.build import build_network
from framework.networks.nnunet_names import to_nnunet_state
from framework.plans import Plans
from framework.sharing.bundle import Bundle, write_bundle
from framework.sharing.selection import ModelFolder, chosen_model, with_previous_stages

DATASET = "Dataset007_Tiny"
MODEL = f"{DATASET}/SegmentationTrainer__tiny__3d_fullres"
DATASET_JSON = {
    "channel_names": {"0": "MRI"},
    "labels": {"background": 0, "left": 1, "right": 2},
    "numTraining": 6,
    "file_ending": ".nii.gz",
    "dataset": {"patient_7": {"images": ["/data/secret/patient_7_0000.nii.gz"], "label": "/data/secret/p.nii.gz"}},
}


def tiny_plans() -> dict[str, Any]:
    """Plans of a two-stage U-Net of four and eight channels; ``3d_cascade_fullres`` starts from ``3d_lowres``."""
    architecture = {
        "network_class_name": "dynamic_network_architectures.architectures.unet.PlainConvUNet",
        "arch_kwargs": {
            "n_stages": 2,
            "features_per_stage": [4, 8],
            "conv_op": "torch.nn.modules.conv.Conv3d",
            "kernel_sizes": [[3, 3, 3]] * 2,
            "strides": [[1, 1, 1], [2, 2, 2]],
            "n_conv_per_stage": [1, 1],
            "n_conv_per_stage_decoder": [1],
            "conv_bias": True,
            "norm_op": "torch.nn.modules.instancenorm.InstanceNorm3d",
            "norm_op_kwargs": {"eps": 1e-5, "affine": True},
            "dropout_op": None,
            "dropout_op_kwargs": None,
            "nonlin": "torch.nn.LeakyReLU",
            "nonlin_kwargs": {"inplace": True},
        },
        "_kw_requires_import": ["conv_op", "norm_op", "dropout_op", "nonlin"],
    }
    full = {
        "data_identifier": "tiny_3d_fullres",
        "batch_size": 2,
        "patch_size": [8, 8, 8],
        "median_image_size_in_voxels": [10.0, 12.0, 12.0],
        "spacing": [1.0, 1.0, 1.0],
        "normalization_schemes": ["ZScoreNormalization"],
        "use_mask_for_norm": [False],
        "architecture": architecture,
    }
    return {
        "dataset_name": DATASET,
        "plans_name": "tiny",
        "image_reader_writer": "SimpleITKIO",
        "transpose_forward": [0, 1, 2],
        "transpose_backward": [0, 1, 2],
        "foreground_intensity_properties_per_channel": {},
        "configurations": {
            "3d_fullres": full,
            "3d_lowres": {"inherits_from": "3d_fullres", "next_stage": "3d_cascade_fullres"},
            "3d_cascade_fullres": {"inherits_from": "3d_fullres", "previous_stage": "3d_lowres"},
        },
    }


def make_model(
    results: Path,
    configuration: str = "3d_fullres",
    folds: Iterable[str] = ("0",),
    state: dict[str, Any] | None = None,
    **plans_changes: Any,
) -> Path:
    """Write ``RESULTS/Dataset007_Tiny/SegmentationTrainer__tiny__CONFIGURATION``; entries of `state` replace those of
    the checkpoints."""
    folder = results / DATASET / f"SegmentationTrainer__tiny__{configuration}"
    plans = tiny_plans() | plans_changes
    for number, fold in enumerate(folds):
        write_text(folder / f"fold_{fold}/plans.json", json.dumps(plans))
        save_checkpoint(
            folder / f"fold_{fold}/checkpoint_final.pth", checkpoint(configuration, fold, number) | (state or {})
        )
    write_text(folder / "plans.json", json.dumps(plans))
    write_text(folder / "dataset.json", json.dumps(DATASET_JSON))
    write_text(folder / "dataset_fingerprint.json", json.dumps({"spacings": [[1, 1, 1]]}))
    return folder


def checkpoint(configuration: str, fold: str, seed: int) -> dict[str, Any]:
    """What training saves: weights under all of nnU-Net's names, and much that prediction does not need."""
    torch.manual_seed(seed)
    architecture = Plans(tiny_plans()).configuration(configuration).architecture
    assert architecture is not None
    channels = 3 if configuration == "3d_cascade_fullres" else 1
    network = build_network(architecture, channels, 3)
    weights = to_nnunet_state(network.state_dict(), network)
    return {
        "network_weights": weights,
        "optimizer_state": {"state": {0: {"momentum_buffer": torch.ones(1000)}}},
        "grad_scaler_state": None,
        "logging": {"train_losses": [0.5]},
        "current_epoch": 3,
        "trainer_name": "nnUNetTrainer",
        "inference_allowed_mirroring_axes": (0, 1, 2),
        "init_args": {
            "plans": tiny_plans() | {"_made_in": "/home/somebody/plans.json"},
            "configuration": configuration,
            "fold": int(fold) if fold.isdigit() else fold,
            "dataset_json": DATASET_JSON,
            "device": "cpu",
        },
        "foldwise": {"trainer": "/home/somebody/my_trainers.py:FocalTrainer", "settings": {}},
    }


def make_bundle(folder: Path, *models: Path, **terms: Any) -> Bundle:
    """``folder/model.zip`` of model folders; of a new one where none is given."""
    models = models or (make_model(folder / "made"),)
    chosen: list[ModelFolder] = [chosen_model(model, None) for model in with_previous_stages(models)]
    return write_bundle(chosen, folder / "model.zip", report=lambda text: None, **terms)


def contents(path: Path) -> dict[str, bytes]:
    """Every member of a zip."""
    with zipfile.ZipFile(path) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


def write_zip(path: Path, members: Iterable[tuple[str | zipfile.ZipInfo, bytes]]) -> Path:
    """A zip of these members, in this order."""
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in members:
            archive.writestr(name, content)
    return path


def write_text(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


def tree(folder: Path) -> set[str]:
    """Everything below a folder, hidden files too."""
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*")}
