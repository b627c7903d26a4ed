"""Plans from a compute budget."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest

from framework.errors import PlansError
from framework.preprocessing.laptop_planner import fit_to_compute
from framework.preprocessing.network_cost import multiply_adds
from framework.preprocessing.patch_fitting import Fit
from framework.preprocessing.rules import PlannerRules

BUDGET: dict[str, Any] = {
    "gmacs_per_iteration": {"2d": 30, "3d": 30},
    "min_features": 12,
    "max_features": 24,
    "features_multiple": 4,
    "max_batch_size": {"2d": 8, "3d": 8},
}
RULES = PlannerRules(max_features={"2d": 256, "3d": 192}, compute_budget=BUDGET)
MANY_VOXELS = 1e12

SCANS = {
    "hippocampus": ((1.0, 1.0, 1.0), (36, 50, 35)),
    "ct": ((2.5, 0.8, 0.8), (300, 512, 512)),
    "prostate": ((3.6, 0.6, 0.6), (20, 320, 320)),
    "microscopy": ((0.2, 0.1, 0.1), (40, 2000, 2000)),
}


def _fit(spacing: Sequence[float], shape: Sequence[float], voxels: float = MANY_VOXELS, **budget: Any) -> Fit:
    rules = replace(RULES, compute_budget=BUDGET | budget)
    return fit_to_compute(rules, spacing, shape, num_inputs=1, num_outputs=3, dataset_voxels=voxels)


def _gmacs(fit: Fit) -> float:
    forward = multiply_adds(fit.architecture["arch_kwargs"], fit.topology.patch_size, 1, 3)
    return 3 * forward * fit.batch_size / 1e9


@pytest.mark.parametrize("scan", SCANS)
def test_iteration_stays_within_the_budget_and_uses_most_of_it(scan: str) -> None:
    cost = _gmacs(_fit(*SCANS[scan]))
    assert 0.5 * 30 < cost <= 30


def test_small_images_are_covered_without_padding_and_get_a_wide_network() -> None:
    fit = _fit(*SCANS["hippocampus"])
    # Multiples of 8 below 36 x 50 x 35; 40 x 56 x 40 would be a quarter of padding.
    assert fit.topology.patch_size == (32, 48, 32)
    assert fit.architecture["arch_kwargs"]["features_per_stage"] == [20, 40, 80, 160]  # the most within 30 GMAC


def test_large_images_get_a_smaller_part_and_the_narrowest_network() -> None:
    fit = _fit(*SCANS["ct"])
    assert fit.architecture["arch_kwargs"]["features_per_stage"][0] == 12
    assert all(16 <= length <= 96 for length in fit.topology.patch_size)
    assert fit.batch_size == 2
    assert fit.num_shrinkages > 0
    assert all(now <= first for now, first in zip(fit.topology.patch_size, fit.initial_patch))
    assert fit.cost == pytest.approx(_gmacs(fit))  # of the smallest batch, which it is
    assert fit.cost <= fit.budget == 30


def test_patch_of_a_flat_image_does_not_become_a_few_slices() -> None:
    thickness, *plane = _fit(*SCANS["microscopy"]).topology.patch_size
    assert thickness >= 8
    assert min(plane) < 200


def test_budget_that_is_left_over_makes_the_batch_larger() -> None:
    tiny = ((1.0, 1.0, 1.0), (16, 16, 16))
    fit = _fit(*tiny)
    assert fit.architecture["arch_kwargs"]["features_per_stage"][0] == 24  # wide enough
    assert fit.batch_size == fit.affordable_batch == 8  # the most that is allowed
    limited = _fit(*tiny, voxels=20 * 3 * 16**3)
    assert limited.batch_size == limited.largest_batch == 3  # a twentieth of the dataset
    assert limited.affordable_batch == 8


def test_twice_the_budget_is_spent() -> None:
    spacing, shape = SCANS["ct"]
    small, large = _fit(spacing, shape), _fit(spacing, shape, gmacs_per_iteration={"2d": 30, "3d": 120})
    assert 2 < _gmacs(large) / _gmacs(small) < 6


def test_slices_are_planned_with_the_same_rule() -> None:
    fit = _fit((0.8, 0.8), (512, 512))
    assert len(fit.topology.patch_size) == 2
    assert 15 < _gmacs(fit) <= 30


def test_budget_below_the_smallest_patch_is_refused() -> None:
    with pytest.raises(PlansError, match="gmacs_per_iteration"):
        _fit(*SCANS["ct"], gmacs_per_iteration={"2d": 1, "3d": 1e-9})
