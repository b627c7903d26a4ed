"""Plans from a fingerprint, by nnU-Net's rules, without building a network.

What is decided: the spacing that all images are resampled to, the order of axes, normalisation, patch size,
network topology and batch size; and whether the images are so large that a configuration at low resolution is
of use. `decide` decides, with the facts that lead there; `plan_dataset` writes it down as plans.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from math import prod
from typing import Any

import numpy as np

from framework.data.raw_dataset import RawDataset
from framework.errors import PlansError
from framework.preprocessing.laptop_planner import fit_to_compute
from framework.preprocessing.normalisation import SCHEMES, scheme_for_channel
from framework.preprocessing.patch_fitting import Fit, fit_to_memory
from framework.preprocessing.presets import preset_of_plans
from framework.preprocessing.resampling import new_shape
from framework.preprocessing.rules import PlannerRules

BLOCKS_OF_PRESETS = ("training", "augmentation", "trainer")
"""Parts of a preset that plans carry as they are."""


@dataclass(frozen=True)
class SpacingChoice:
    """The spacing at full resolution, in mm before transposition, and why."""

    spacing: np.ndarray
    median_spacing: np.ndarray
    median_shape: np.ndarray
    """Of the cropped images, in voxels."""
    coarsest: int
    """The axis with the largest median spacing."""
    is_coarse: bool
    """Whether that axis is much coarser than the others ..."""
    has_few_slices: bool
    """... and much shorter; only both together make an exception of it."""


@dataclass(frozen=True)
class ConfigurationChoice:
    """Patch, network and batch at one spacing (mm, transposed)."""

    spacing: np.ndarray
    median_shape: list[float]
    """Of the resampled images, in voxels."""
    fit: Fit


@dataclass(frozen=True)
class LowresChoice:
    """The configuration at low resolution that was looked for, and whether it is of use."""

    share_at_fullres: float
    """Share of the median image that the patch at full resolution covers."""
    configuration: ConfigurationChoice | None
    """None if that share is large enough."""
    share: float
    """Share that the patch of this configuration covers."""
    shrinkage: float
    """Voxels at full resolution for each voxel at low resolution."""
    is_kept: bool


@dataclass(frozen=True)
class Decisions:
    """All that was decided for a dataset."""

    spacing: SpacingChoice
    forward: list[int]
    """The order of axes of the plans."""
    median_shape: np.ndarray
    """Of the resampled images, transposed."""
    flat: ConfigurationChoice
    """``2d``."""
    fullres: ConfigurationChoice | None
    """``3d_fullres``; None where images are single slices."""
    lowres: LowresChoice | None
    normalization: dict[str, Any]


def plan_dataset(
    raw_dataset: RawDataset,
    fingerprint: Mapping[str, Any],
    preset: Mapping[str, Any],
    plans_name: str | None = None,
) -> dict[str, Any]:
    """The plans of a dataset as a JSON object, in nnU-Net's form.

    Args:
        fingerprint: as in ``dataset_fingerprint.json``.
        preset: as `framework.preprocessing.presets.load_preset` returns it.
        plans_name: by default the one in the preset.

    Raises:
        PlansError: the preset has fields that do not exist or values that cannot be; or the name cannot be that of
            a file, or of the folder of a run.
    """
    name = str(preset["plans_name"]) if plans_name is None else plans_name
    if not re.fullmatch(r"\w[\w.+-]*", name) or "__" in name:
        raise PlansError(
            f"'{name}' cannot be the name of plans. Use letters, digits, '.', '+', '-' and '_', but not '__', which "
            "separates trainer, plans and configuration in the names of run folders."
        )
    rules = PlannerRules.of_preset(preset)
    decisions = decide_for_dataset(rules, raw_dataset, fingerprint)
    forward = decisions.forward
    plans = {
        "dataset_name": raw_dataset.name,
        "plans_name": name,
        "original_median_spacing_after_transp": np.median(fingerprint["spacings"], 0)[forward].tolist(),
        "original_median_shape_after_transp": [
            round(length) for length in np.median(fingerprint["shapes_after_crop"], 0)[forward].tolist()
        ],
        "image_reader_writer": raw_dataset.reader_name,
        "transpose_forward": forward,
        "transpose_backward": [forward.index(axis) for axis in range(len(forward))],
        "configurations": _configurations(rules, decisions, name),
        "experiment_planner_used": rules.experiment_planner_used,
        "label_manager": "LabelManager",
        "foreground_intensity_properties_per_channel": fingerprint["foreground_intensity_properties_per_channel"],
    }
    return {**plans, **{key: preset[key] for key in BLOCKS_OF_PRESETS if preset.get(key) is not None}}


def decide_for_dataset(rules: PlannerRules, raw_dataset: RawDataset, fingerprint: Mapping[str, Any]) -> Decisions:
    """`decide`, with what dataset.json says."""
    return decide(
        rules,
        fingerprint,
        channel_names=raw_dataset.channel_names,
        num_outputs=len(raw_dataset.dataset_json["labels"]),
        num_training=_num_training(raw_dataset),
    )


def decide(
    rules: PlannerRules,
    fingerprint: Mapping[str, Any],
    *,
    channel_names: Sequence[str],
    num_outputs: int,
    num_training: int,
) -> Decisions:
    """What a dataset with this fingerprint needs.

    Args:
        fingerprint: as in ``dataset_fingerprint.json``.
        num_outputs: entries of ``labels`` in dataset.json, background and ignore included: what nnU-Net takes for
            the number of heads.
        num_training: number of training cases.

    Raises:
        PlansError: no patch fits into the memory or the compute budget; or the spacing that the rules ask for has
            another number of axes than the images.
    """
    spacings, shapes = fingerprint["spacings"], fingerprint["shapes_after_crop"]
    choice = fullres_spacing(rules, spacings, shapes)
    forward = transposition(choice.spacing)
    spacing = choice.spacing[forward]
    resampled = [new_shape(shape, old, choice.spacing.tolist()) for shape, old in zip(shapes, spacings)]
    median_shape = np.median(resampled, 0)[forward]
    median_shape[median_shape == 0] = 1  # however coarse the spacing, a voxel remains
    dataset_voxels = float(np.prod(median_shape) * num_training)

    def configuration(spacing: np.ndarray, shape: list[float], voxels: float) -> ConfigurationChoice:
        fit = fit_to_memory if rules.budget is None else fit_to_compute
        found = fit(rules, spacing.tolist(), shape, len(channel_names), num_outputs, voxels)
        return ConfigurationChoice(spacing, shape, found)

    fullres, lowres = None, None
    if median_shape[0] != 1:
        fullres = configuration(spacing, median_shape.tolist(), dataset_voxels)
        lowres = _lowres(rules, fullres, num_training, configuration)
    return Decisions(
        choice,
        forward,
        median_shape,
        configuration(spacing[1:], median_shape[1:].tolist(), dataset_voxels),
        fullres,
        lowres,
        normalization(rules, channel_names, fingerprint["median_relative_size_after_cropping"]),
    )


def fullres_spacing(
    rules: PlannerRules, spacings: Sequence[Sequence[float]], shapes: Sequence[Sequence[int]]
) -> SpacingChoice:
    """The spacing at full resolution: the median over all cases, or what the rules ask for.

    An axis that is much coarser than the others, with few slices, takes a low percentile instead: most cases
    would otherwise lose slices, or show the artefacts of interpolating between far ones.
    """
    median = np.percentile(np.vstack(spacings), 50, 0)
    size = np.percentile(np.vstack(shapes), 50, 0)
    coarsest = int(np.argmax(median))
    others = [axis for axis in range(len(median)) if axis != coarsest]
    is_coarse = bool(median[coarsest] > rules.anisotropy_threshold * max(median[others]))
    has_few_slices = bool(size[coarsest] * rules.anisotropy_threshold < min(size[others]))
    target = median.copy()
    if rules.target_spacing is not None:
        if len(rules.target_spacing) != len(median):
            raise PlansError(
                f"planner.target_spacing: found {len(rules.target_spacing)} number(s), expected {len(median)}: the "
                "spacing in mm along each axis, in the order of the image arrays."
            )
        target = np.array(rules.target_spacing)
    elif is_coarse and has_few_slices:
        finer = np.percentile(np.vstack(spacings)[:, coarsest], rules.anisotropic_axis_percentile)
        # It stays the coarsest axis, by a hair if need be, so that the order of axes does not change.
        target[coarsest] = finer if finer >= max(median[others]) else max(median[others]) + 1e-5
    return SpacingChoice(target, median, size, coarsest, is_coarse, has_few_slices)


def transposition(spacing: np.ndarray) -> list[int]:
    """Order of axes with the coarsest one first, where slices and 2D networks expect it."""
    coarsest = int(np.argmax(spacing))
    return [coarsest, *(axis for axis in range(len(spacing)) if axis != coarsest)]


def normalization(rules: PlannerRules, channel_names: Sequence[str], relative_size: float) -> dict[str, Any]:
    """Normalisation of each channel, and whether it is restricted to the region with content."""
    schemes = [scheme_for_channel(name) for name in channel_names]
    much_is_empty = relative_size < rules.mask_for_norm_below_relative_size
    return {
        "normalization_schemes": schemes,
        "use_mask_for_norm": [much_is_empty and SCHEMES[scheme].uses_mask for scheme in schemes],
    }


def _lowres(
    rules: PlannerRules,
    fullres: ConfigurationChoice,
    num_training: int,
    configuration: Callable[[np.ndarray, list[float], float], ConfigurationChoice],
) -> LowresChoice:
    """Coarser and coarser, until a patch sees enough of an image."""
    spacing, median_shape = fullres.spacing, np.array(fullres.median_shape)
    coarser, lowres = spacing.copy(), None
    num_voxels = float(np.prod(median_shape))
    share_at_fullres = share = prod(fullres.fit.topology.patch_size) / num_voxels
    while share < rules.lowres_threshold:
        # Axes that are finer than half of the coarsest one become coarser first.
        finer = max(coarser) / coarser > 2
        coarser[finer if finer.any() else slice(None)] *= rules.lowres_spacing_step
        shape = spacing / coarser * median_shape
        num_voxels = float(np.prod(shape))
        rounded: list[float] = [max(1, round(length)) for length in shape]
        lowres = configuration(coarser.copy(), rounded, num_voxels * num_training)
        share = prod(lowres.fit.topology.patch_size) / num_voxels
    shrinkage = float(np.prod(median_shape)) / num_voxels
    is_kept = lowres is not None and shrinkage >= rules.lowres_min_shrinkage
    return LowresChoice(share_at_fullres, lowres, share, shrinkage, is_kept)


def _data_identifiers(rules: PlannerRules, plans_name: str) -> Callable[[str], str]:
    """Configuration -> folder of its preprocessed data, which other plans of the dataset may share."""
    if rules.target_spacing is None:
        return lambda configuration: f"{rules.data_of_plans.get(configuration, plans_name)}_{configuration}"
    # Data at a spacing that was asked for must not be taken for those that others plan: neither shared, nor, under
    # a name that a preset has too, called the same.
    spacing = "x".join(f"{length:.8g}" for length in rules.target_spacing)
    suffix = "" if preset_of_plans(plans_name) is None else f"_{spacing}mm"
    return lambda configuration: f"{plans_name}_{configuration}{suffix}"


def _configurations(rules: PlannerRules, decisions: Decisions, plans_name: str) -> dict[str, Any]:
    """``configurations`` of the plans."""
    data_identifier = _data_identifiers(rules, plans_name)

    def written(name: str, choice: ConfigurationChoice) -> dict[str, Any]:
        linear = {"order": 1, "order_z": 0, "force_separate_z": None}
        return {
            "data_identifier": data_identifier(name),
            "preprocessor_name": "DefaultPreprocessor",
            "batch_size": choice.fit.batch_size,
            "patch_size": list(choice.fit.topology.patch_size),
            "median_image_size_in_voxels": list(choice.median_shape),
            "spacing": choice.spacing.tolist(),
            **{key: list(value) for key, value in decisions.normalization.items()},
            "resampling_fn_data": "resample_data_or_seg_to_shape",
            "resampling_fn_seg": "resample_data_or_seg_to_shape",
            "resampling_fn_data_kwargs": {"is_seg": False, **linear, "order": 3},
            "resampling_fn_seg_kwargs": {"is_seg": True, **linear},
            "resampling_fn_probabilities": "resample_data_or_seg_to_shape",
            "resampling_fn_probabilities_kwargs": {"is_seg": False, **linear},
            "architecture": choice.fit.architecture,
        }

    configurations = {"2d": {**written("2d", decisions.flat), "batch_dice": True}}
    if decisions.fullres is None or decisions.lowres is None:
        return configurations
    fullres, lowres = written("3d_fullres", decisions.fullres), decisions.lowres
    if lowres.configuration is None or not lowres.is_kept:
        return {**configurations, "3d_fullres": {**fullres, "batch_dice": False}}
    return {
        **configurations,
        "3d_lowres": {
            **written("3d_lowres", lowres.configuration), "batch_dice": False, "next_stage": "3d_cascade_fullres"
        },
        "3d_fullres": {**fullres, "batch_dice": True},
        "3d_cascade_fullres": {"inherits_from": "3d_fullres", "previous_stage": "3d_lowres"},
    }  # fmt: skip


def _num_training(raw_dataset: RawDataset) -> int:
    """``numTraining`` as dataset.json states it, since nnU-Net plans with it; else the cases found."""
    stated = raw_dataset.dataset_json.get("numTraining")
    return stated if isinstance(stated, int) and stated > 0 else len(raw_dataset.cases)
