"""Patch, width and batch size from a compute budget: plans to be trained without a graphics card.

Where memory is plenty and arithmetic is scarce, the time of an iteration is what a plan must fit into. It is
proportional to the multiply-adds of the network (times three for forward and backward, times the batch),
which follow from the topology alone.
"""

from __future__ import annotations

from collections.abc import Sequence

from framework.errors import PlansError
from framework.preprocessing.network_cost import multiply_adds
from framework.preprocessing.patch_fitting import Fit, initial_topology, largest_batch_size, shrunk
from framework.preprocessing.rules import PlannerRules
from framework.preprocessing.topology import Topology, topology_for

_PADDING_ENDURED = 1.05  # share of the median image up to which a patch may be larger than it
_BACKWARD_AND_FORWARD = 3  # gradients for the input and for the weights cost one forward pass each


def fit_to_compute(
    rules: PlannerRules,
    spacing: Sequence[float],
    median_shape: Sequence[float],
    num_inputs: int,
    num_outputs: int,
    dataset_voxels: float,
) -> Fit:
    """Context first, then width, then batch.

    The patch is the largest one that a narrow network can afford: what a network does not see, no width can
    make up for. The network is then made as wide as the budget allows; what is still left makes the batch
    larger.

    Raises:
        PlansError: the budget is too small for the smallest patch.
    """
    budget = rules.budget
    assert budget is not None  # planned with another rule otherwise
    gmacs = budget.gmacs_per_iteration[f"{len(spacing)}d"]

    def cost(topology: Topology, width: int) -> float:
        """10^9 multiply-adds for one iteration with the smallest batch."""
        architecture = rules.architecture(topology.kernel_sizes, topology.strides, width)
        forward = multiply_adds(architecture["arch_kwargs"], topology.patch_size, num_inputs, num_outputs)
        return forward * _BACKWARD_AND_FORWARD * rules.min_batch_size / 1e9

    # nnU-Net shrinks the axis that covers most of the image. A patch much smaller than the image would become
    # as flat as the image is, down to a few slices. This is the geometric mean of that rule and of cubes in
    # millimetres.
    reference = [(median / length) ** 0.5 for median, length in zip(median_shape, spacing)]
    topology = _inside(rules, initial_topology(rules, spacing, median_shape), spacing, median_shape)
    initial_patch, num_shrinkages = topology.patch_size, 0
    while cost(topology, budget.min_features) > gmacs:
        smaller = shrunk(rules, topology, spacing, reference)
        if smaller is None:
            raise PlansError(
                f"planner.compute_budget: {gmacs:g} GMAC an iteration are too few even for a patch of "
                f"{list(topology.patch_size)} voxels, which takes {cost(topology, budget.min_features):.3g}. "
                "Raise gmacs_per_iteration or lower min_features in the preset."
            )
        topology, num_shrinkages = smaller, num_shrinkages + 1
    widths = range(budget.min_features, budget.max_features + 1)
    affordable = [
        width
        for width in widths
        if width == budget.min_features or (width % budget.features_multiple == 0 and cost(topology, width) <= gmacs)
    ]
    width = max(affordable)
    most = int(budget.max_batch_size[f"{len(spacing)}d"])
    affordable_batch = min(int(gmacs / cost(topology, width) * rules.min_batch_size), most)
    largest = largest_batch_size(rules, topology, dataset_voxels)
    return Fit(
        topology,
        rules.architecture(topology.kernel_sizes, topology.strides, width),
        max(min(affordable_batch, largest), rules.min_batch_size),
        initial_patch,
        num_shrinkages,
        smallest_batch=rules.min_batch_size,
        cost=cost(topology, width),
        budget=gmacs,
        affordable_batch=affordable_batch,
        largest_batch=largest,
    )


def _inside(
    rules: PlannerRules, topology: Topology, spacing: Sequence[float], median_shape: Sequence[float]
) -> Topology:
    """The patch without padding: an axis that was rounded up beyond the median image is rounded down.

    Padding is arithmetic spent on nothing, and a patch that is a little smaller than the image makes the tiles
    of a prediction overlap, which averages errors away.
    """
    patch_size = [
        length - divisor if length > _PADDING_ENDURED * limit and length > divisor else length
        for length, limit, divisor in zip(topology.patch_size, median_shape, topology.divisors)
    ]
    return topology_for(spacing, patch_size, rules.min_feature_map_edge)
