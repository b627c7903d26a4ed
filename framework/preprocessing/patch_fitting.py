"""What planners share: the patch to start from, the next smaller one, and the cap on the batch size."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import prod
from typing import Any

import numpy as np

from framework.preprocessing.rules import PlannerRules
from framework.preprocessing.topology import Topology, topology_for


@dataclass(frozen=True)
class Fit:
    """Patch, network and batch size that fit into a budget."""

    topology: Topology
    architecture: dict[str, Any]
    """``architecture`` object of a configuration."""
    batch_size: int


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


def capped_batch_size(rules: PlannerRules, batch_size: int, topology: Topology, dataset_voxels: float) -> int:
    """`batch_size`, but no more than the allowed share of the dataset, and no less than the minimum."""
    cap = round(dataset_voxels * rules.max_dataset_share_of_batch / prod(topology.patch_size))
    return max(min(batch_size, cap), rules.min_batch_size)
