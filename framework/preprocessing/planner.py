"""Plans from a fingerprint, by nnU-Net's rules, without building a network.

What is decided: the spacing that all images are resampled to, the order of axes, normalisation, patch size,
network topology and batch size; and whether the images are so large that a configuration at low resolution is
of use.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import prod
from typing import Any

import numpy as np

from framework.data.image_io import reader_name_for
from framework.data.raw_dataset import RawDataset
from framework.errors import PlansError
from framework.preprocessing.laptop_planner import fit_to_compute
from framework.preprocessing.network_cost import feature_map_values
from framework.preprocessing.normalisation import SCHEMES, scheme_for_channel
from framework.preprocessing.patch_fitting import Fit, capped_batch_size, initial_topology, shrunk
from framework.preprocessing.resampling import new_shape
from framework.preprocessing.rules import PlannerRules

BLOCKS_OF_PRESETS = ("training", "augmentation", "trainer")
"""Parts of a preset that plans carry as they are."""


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
        PlansError: the preset has fields that do not exist or values that cannot be.
    """
    name = plans_name or str(preset["plans_name"])
    rules = PlannerRules.from_block(preset.get("planner", {}), f"preset '{preset.get('name', name)}'")
    plans = {
        "dataset_name": raw_dataset.name,
        "plans_name": name,
        **plan(
            rules,
            fingerprint,
            channel_names=raw_dataset.channel_names,
            num_label_names=len(raw_dataset.dataset_json["labels"]),
            num_training=_num_training(raw_dataset),
            image_reader_writer=reader_name_for(raw_dataset.file_ending, raw_dataset.dataset_json),
            plans_name=name,
        ),
    }
    return {**plans, **{key: preset[key] for key in BLOCKS_OF_PRESETS if preset.get(key) is not None}}


def plan(
    rules: PlannerRules,
    fingerprint: Mapping[str, Any],
    *,
    channel_names: Sequence[str],
    num_label_names: int,
    num_training: int,
    image_reader_writer: str,
    plans_name: str,
) -> dict[str, Any]:
    """As `plan_dataset`, from plain values: what plans say beside their name and that of the dataset.

    Args:
        num_label_names: entries of ``labels`` in dataset.json, background and ignore included.
        num_training: number of training cases.
    """
    spacings, shapes = fingerprint["spacings"], fingerprint["shapes_after_crop"]
    spacing = fullres_spacing(rules, spacings, shapes)
    forward = transposition(spacing)
    backward = [forward.index(axis) for axis in range(len(forward))]
    resampled = [new_shape(shape, old, spacing.tolist()) for shape, old in zip(shapes, spacings)]
    median_shape = np.median(resampled, 0)[forward]
    target = spacing[forward]

    facts = _Facts(rules, fingerprint, tuple(channel_names), num_label_names, plans_name)
    dataset_voxels = float(np.prod(median_shape) * num_training)
    flat = _configuration(facts, "2d", target[1:], median_shape[1:].tolist(), dataset_voxels)
    configurations = {"2d": {**flat, "batch_dice": True}}
    if median_shape[0] != 1:
        configurations |= _volumetric_configurations(facts, target, median_shape, dataset_voxels, num_training)
    return {
        "original_median_spacing_after_transp": np.median(spacings, 0)[forward].tolist(),
        "original_median_shape_after_transp": [round(length) for length in np.median(shapes, 0)[forward].tolist()],
        "image_reader_writer": image_reader_writer,
        "transpose_forward": forward,
        "transpose_backward": backward,
        "configurations": configurations,
        "experiment_planner_used": rules.experiment_planner_used,
        "label_manager": "LabelManager",
        "foreground_intensity_properties_per_channel": fingerprint["foreground_intensity_properties_per_channel"],
    }


def fullres_spacing(
    rules: PlannerRules, spacings: Sequence[Sequence[float]], shapes: Sequence[Sequence[int]]
) -> np.ndarray:
    """The spacing (mm, before transposition) at full resolution: the median over all cases.

    An axis that is much coarser than the others, with few slices, takes a low percentile instead: most cases
    would otherwise lose slices, or show the artefacts of interpolating between far ones.
    """
    if rules.target_spacing is not None:
        return np.array(rules.target_spacing)
    target = np.percentile(np.vstack(spacings), 50, 0)
    size = np.percentile(np.vstack(shapes), 50, 0)
    worst = int(np.argmax(target))
    others = [axis for axis in range(len(target)) if axis != worst]
    coarse = target[worst] > rules.anisotropy_threshold * max(target[others])
    few_slices = size[worst] * rules.anisotropy_threshold < min(size[others])
    if coarse and few_slices:
        finer = np.percentile(np.vstack(spacings)[:, worst], rules.anisotropic_axis_percentile)
        # It stays the coarsest axis, by a hair if need be, so that the order of axes does not change.
        target[worst] = finer if finer >= max(target[others]) else max(target[others]) + 1e-5
    return target


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


@dataclass(frozen=True)
class _Facts:
    rules: PlannerRules
    fingerprint: Mapping[str, Any]
    channel_names: tuple[str, ...]
    num_label_names: int
    plans_name: str


def _volumetric_configurations(
    facts: _Facts, spacing: np.ndarray, median_shape: np.ndarray, dataset_voxels: float, num_training: int
) -> dict[str, Any]:
    """3d_fullres; and, where its patch sees little of an image, 3d_lowres and the cascade of both."""
    rules = facts.rules
    fullres = _configuration(facts, "3d_fullres", spacing, median_shape.tolist(), dataset_voxels)
    lowres = None
    coarser = spacing.copy()
    num_voxels = float(np.prod(median_shape))
    patch_voxels = prod(fullres["patch_size"])
    while patch_voxels / num_voxels < rules.lowres_threshold:
        # Axes that are finer than half of the coarsest one become coarser first.
        finer = max(coarser) / coarser > 2
        coarser[finer if finer.any() else slice(None)] *= rules.lowres_spacing_step
        shape = spacing / coarser * median_shape
        num_voxels = float(np.prod(shape))
        lowres = _configuration(
            facts, "3d_lowres", coarser, [round(length) for length in shape], num_voxels * num_training
        )
        patch_voxels = prod(lowres["patch_size"])
    if lowres is None or np.prod(median_shape) / num_voxels < rules.lowres_min_shrinkage:
        return {"3d_fullres": {**fullres, "batch_dice": False}}
    return {
        "3d_lowres": {**lowres, "batch_dice": False, "next_stage": "3d_cascade_fullres"},
        "3d_fullres": {**fullres, "batch_dice": True},
        "3d_cascade_fullres": {"inherits_from": "3d_fullres", "previous_stage": "3d_lowres"},
    }


def _configuration(
    facts: _Facts, name: str, spacing: np.ndarray, median_shape: Sequence[float], dataset_voxels: float
) -> dict[str, Any]:
    """One entry of ``configurations``, up to ``batch_dice``."""
    rules = facts.rules
    num_inputs, num_outputs = len(facts.channel_names), facts.num_label_names
    fit_patch = _fit_to_memory if rules.budget is None else fit_to_compute
    fit = fit_patch(rules, spacing.tolist(), median_shape, num_inputs, num_outputs, dataset_voxels)
    owner = rules.data_of_plans.get(name, facts.plans_name)
    relative_size = facts.fingerprint["median_relative_size_after_cropping"]
    linear = {"order": 1, "order_z": 0, "force_separate_z": None}
    return {
        "data_identifier": f"{owner}_{name}",
        "preprocessor_name": "DefaultPreprocessor",
        "batch_size": fit.batch_size,
        "patch_size": list(fit.topology.patch_size),
        "median_image_size_in_voxels": list(median_shape),
        "spacing": spacing.tolist(),
        **normalization(rules, facts.channel_names, relative_size),
        "resampling_fn_data": "resample_data_or_seg_to_shape",
        "resampling_fn_seg": "resample_data_or_seg_to_shape",
        "resampling_fn_data_kwargs": {"is_seg": False, **linear, "order": 3},
        "resampling_fn_seg_kwargs": {"is_seg": True, **linear},
        "resampling_fn_probabilities": "resample_data_or_seg_to_shape",
        "resampling_fn_probabilities_kwargs": {"is_seg": False, **linear},
        "architecture": fit.architecture,
    }


def _fit_to_memory(
    rules: PlannerRules,
    spacing: Sequence[float],
    median_shape: Sequence[float],
    num_inputs: int,
    num_outputs: int,
    dataset_voxels: float,
) -> Fit:
    """The largest patch of which a minimal batch fits into memory, then the largest batch."""
    dimension = f"{len(spacing)}d"
    reference = rules.memory_reference[dimension] * (rules.memory_gb / rules.memory_reference_gb)
    reference_batch_size = rules.memory_reference_batch_size[dimension]
    topology = initial_topology(rules, spacing, median_shape)
    while True:
        architecture = rules.architecture(topology.kernel_sizes, topology.strides, rules.base_features)
        values = feature_map_values(architecture["arch_kwargs"], topology.patch_size, num_inputs, num_outputs)
        if values / reference_batch_size * rules.batch_size_that_must_fit[dimension] <= reference:
            break
        smaller = shrunk(rules, topology, spacing, median_shape)
        if smaller is None:
            raise PlansError(
                f"no patch fits into {rules.memory_gb:g} GB: even {list(topology.patch_size)} voxels are too "
                "many. Raise planner.memory_gb, or lower planner.base_features, in the preset."
            )
        topology = smaller
    batch_size = round(reference / values * reference_batch_size)
    return Fit(topology, architecture, capped_batch_size(rules, batch_size, topology, dataset_voxels))


def _num_training(raw_dataset: RawDataset) -> int:
    """``numTraining`` as dataset.json states it, since nnU-Net plans with it; else the cases found."""
    stated = raw_dataset.dataset_json.get("numTraining")
    return stated if isinstance(stated, int) and stated > 0 else len(raw_dataset.cases)
