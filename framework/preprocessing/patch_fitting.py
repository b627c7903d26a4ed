"""The largest patch, and then the largest batch, for a budget; and what nnU-Net's rule and ours share."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import prod
from typing import Any

import numpy as np

from framework.errors import PlansError
from framework.preprocessing.network_cost import feature_map_values
from framework.preprocessing.rules import PlannerRules
from framework.preprocessing.topology import Topology, topology_for


@dataclass(frozen=True)
class Fit:
    """Patch, network and batch size that fit into a budget, and how they came about."""

    topology: Topology
    architecture: dict[str, Any]
    """``architecture`` object of a configuration."""
    batch_size: int
    initial_patch: tuple[int, ...]
    """What the search began with, in voxels."""
    num_shrinkages: int
    smallest_batch: int
    """Which the patch had to fit the budget with."""
    cost: float
    """Of the smallest batch: values in feature maps, or 10^9 multiply-adds with a compute budget."""
    budget: float
    """What the cost may come to."""
    affordable_batch: int
    """What the budget would allow."""
    largest_batch: int
    """What the size of the dataset allows."""


def fit_to_memory(
    rules: PlannerRules,
    spacing: Sequence[float],
    median_shape: Sequence[float],
    num_inputs: int,
    num_outputs: int,
    dataset_voxels: float,
) -> Fit:
    """The largest patch of which a minimal batch fits into memory, then the largest batch: nnU-Net's rule.

    Args:
        spacing: mm.
        median_shape: voxels of the median image, at least 1 along each axis.
        num_inputs: image channels.
        num_outputs: heads.
        dataset_voxels: of all images together.

    Raises:
        PlansError: not even the smallest patch fits.
    """
    dimension = f"{len(spacing)}d"
    reference = rules.memory_reference[dimension] * (rules.memory_gb / rules.memory_reference_gb)
    reference_batch_size = rules.memory_reference_batch_size[dimension]
    smallest_batch = rules.batch_size_that_must_fit[dimension]
    topology = initial_topology(rules, spacing, median_shape)
    initial_patch, num_shrinkages = topology.patch_size, 0
    while True:
        architecture = rules.architecture(topology.kernel_sizes, topology.strides, rules.base_features)
        values = feature_map_values(architecture["arch_kwargs"], topology.patch_size, num_inputs, num_outputs)
        if values / reference_batch_size * smallest_batch <= reference:
            break
        smaller = shrunk(rules, topology, spacing, median_shape)
        if smaller is None:
            raise PlansError(
                f"no patch fits into {rules.memory_gb:g} GB: even {list(topology.patch_size)} voxels are too "
                "many. Raise planner.memory_gb, or lower planner.base_features, in the preset."
            )
        topology, num_shrinkages = smaller, num_shrinkages + 1
    affordable = round(reference / values * reference_batch_size)
    largest = largest_batch_size(rules, topology, dataset_voxels)
    return Fit(
        topology,
        architecture,
        max(min(affordable, largest), rules.min_batch_size),
        initial_patch,
        num_shrinkages,
        smallest_batch=round(smallest_batch),
        cost=values * smallest_batch,
        budget=reference * reference_batch_size,
        affordable_batch=affordable,
        largest_batch=largest,
    )


def initial_topology(rules: PlannerRules, spacing: Sequence[float], median_shape: Sequence[float]) -> Topology:
    """A patch of generous volume, cubic in millimetres, cut to the median image."""
    per_mm = 1 / np.array(spacing)
    volume = rules.initial_patch_voxels[f"{len(spacing)}d"]
    lengths = per_mm * (volume / np.prod(per_mm)) ** (1 / len(spacing))
    patch_size = [min(round(length), limit) for length, limit in zip(lengths, median_shape)]
    return topology_for(spacing, patch_size, rules.min_feature_map_edge)


def shrunk(
    rules: PlannerRules, topology: Topology, spacing: Sequence[float], reference: Sequence[float]
) -> Topology | None:
    """The next smaller patch, or None if there is none.

    The axis that is longest in units of `reference` (one length for each axis) gives way. By how much depends
    on the poolings that are left once it is smaller: with 64 = 2^6 as the divisor, 256 would become 192 and
    skip 224, which 2^5 divides.
    """
    patch_size = list(topology.patch_size)
    axis = int(np.argsort([length / unit for length, unit in zip(patch_size, reference)])[-1])
    if patch_size[axis] - topology.divisors[axis] < 1:
        return None
    tentative = patch_size.copy()
    tentative[axis] -= topology.divisors[axis]
    patch_size[axis] -= topology_for(spacing, tentative, rules.min_feature_map_edge).divisors[axis]
    return topology_for(spacing, patch_size, rules.min_feature_map_edge)


def largest_batch_size(rules: PlannerRules, topology: Topology, dataset_voxels: float) -> int:
    """How many patches make up the share of the dataset that one batch may hold."""
    return round(dataset_voxels * rules.max_dataset_share_of_batch / prod(topology.patch_size))
