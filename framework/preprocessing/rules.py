"""The numbers of a planner, from the ``planner`` block of a preset: planners need no subclasses."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from math import inf
from typing import Any

from framework.errors import PlansError
from framework.validation import at_least, between, read_block

PerDimension = dict[str, float]
"""A number for 2D and one for 3D: ``{"2d": ..., "3d": ...}``."""


@dataclass(frozen=True)
class ComputeBudget:
    """Limits for plans that must be trained in a short time; see `framework.preprocessing.laptop_planner`."""

    gmacs_per_iteration: PerDimension
    """10^9 multiply-adds of one iteration, forward and backward, over the whole batch."""
    min_features: int = field(default=8, metadata=at_least(1))
    """Width of the first stage that a large patch may force."""
    max_features: int = field(default=32, metadata=at_least(1))
    """Width of the first stage that is enough, even if there is budget left."""
    features_multiple: int = field(default=4, metadata=at_least(1))
    """Widths are multiples of this: processors compute several channels at once."""
    max_batch_size: PerDimension = field(default_factory=lambda: {"2d": 16, "3d": 2})
    """More samples than this are not worth their time: more iterations are."""


@dataclass(frozen=True)
class PlannerRules:
    """nnU-Net's rules and the numbers in them. The defaults are those of its standard planner."""

    experiment_planner_used: str = "ExperimentPlanner"
    """Name that is written into the plans."""
    network_class_name: str = "dynamic_network_architectures.architectures.unet.PlainConvUNet"
    blocks_per_stage_encoder: tuple[int, ...] = (2,)
    """Convolutions, or residual blocks, of each stage; the last number holds for all further stages."""
    blocks_per_stage_decoder: tuple[int, ...] = (2,)
    base_features: int = field(default=32, metadata=at_least(1))
    """Channels of the first stage; they double with each stage."""
    full_resolution_features: int | None = None
    """Channels at full resolution, if they shall not follow from `base_features`."""
    full_resolution_blocks: int | None = None
    """Convolutions at full resolution, on the way down and up, if not those of the other stages."""
    max_features: PerDimension = field(default_factory=lambda: {"2d": 512, "3d": 320})
    min_feature_map_edge: int = field(default=4, metadata=at_least(1))

    memory_gb: float = field(default=8, metadata=at_least(0))
    """Memory of the graphics card that is planned for."""
    memory_reference_gb: float = field(default=8, metadata=at_least(0))
    memory_reference: PerDimension = field(default_factory=lambda: {"2d": 85e6, "3d": 560e6})
    """Values in all feature maps of one patch that fill the reference memory at the reference batch size."""
    memory_reference_batch_size: PerDimension = field(default_factory=lambda: {"2d": 12, "3d": 2})
    batch_size_that_must_fit: PerDimension = field(default_factory=lambda: {"2d": 2, "3d": 2})
    """The patch is made smaller until a batch of this size fits."""
    min_batch_size: int = field(default=2, metadata=at_least(1))
    max_dataset_share_of_batch: float = field(default=0.05, metadata=between(0, 1))
    """A batch holds at most this share of all voxels of the dataset."""

    initial_patch_voxels: PerDimension = field(default_factory=lambda: {"2d": 2048.0**2, "3d": 256.0**3})
    """Volume that a patch starts from, before it is cut to the median image."""
    anisotropy_threshold: float = field(default=3, metadata=at_least(1))
    anisotropic_axis_percentile: float = field(default=10, metadata=between(0, 100))
    """Which of all spacings an anisotropic axis is resampled to; the median elsewhere."""
    target_spacing: tuple[float, ...] | None = None
    """Of 3d_fullres, in mm, before transposition; None plans it."""
    lowres_threshold: float = field(default=0.25, metadata=between(0, 1))
    """3d_lowres is planned where the patch covers less than this share of the median image."""
    lowres_spacing_step: float = field(default=1.03, metadata=at_least(1.001))
    lowres_min_shrinkage: float = field(default=2, metadata=at_least(1))
    """3d_lowres is dropped if it saves less than this factor of voxels."""
    mask_for_norm_below_relative_size: float = field(default=0.75, metadata=between(0, 1))
    """Normalise within the region with content if cropping leaves less than this share of the volume."""
    data_of_plans: dict[str, str] = field(default_factory=dict)
    """Configuration -> name of the plans whose preprocessed data it shares; others have data of their own."""
    compute_budget: dict[str, Any] | None = None
    """If given, patch, width and batch size follow from it instead of from memory."""

    @classmethod
    def of_preset(cls, preset: Mapping[str, Any]) -> PlannerRules:
        """The rules of a preset, as `framework.preprocessing.presets.load_preset` returns it.

        Raises:
            PlansError: lists every unknown key, wrong type and value out of range.
        """
        return cls.from_block(preset.get("planner", {}), f"preset '{preset.get('name', preset.get('plans_name'))}'")

    @classmethod
    def from_block(cls, block: Mapping[str, Any], source: str) -> PlannerRules:
        """Read a ``planner`` block.

        Raises:
            PlansError: lists every unknown key, wrong type and value out of range.
        """
        problems: list[str] = []
        rules = cls(**read_block(cls, dict(block), f"{source}: planner", problems))
        if rules.compute_budget is not None:
            rules._read_budget(f"{source}: planner.compute_budget", problems)
        for name in (
            "max_features",
            "memory_reference",
            "memory_reference_batch_size",
            "batch_size_that_must_fit",
            "initial_patch_voxels",
        ):
            if set(getattr(rules, name)) != {"2d", "3d"}:
                problems.append(f"{source}: planner.{name}: expected a number for '2d' and one for '3d'.")
        if rules.target_spacing is not None and not all(0 < length < inf for length in rules.target_spacing):
            problems.append(
                f"{source}: planner.target_spacing: found {list(rules.target_spacing)}, expected lengths above 0 in mm."
            )
        if problems:
            raise PlansError("\n".join(problems))
        return rules

    @property
    def budget(self) -> ComputeBudget | None:
        """`compute_budget`, typed."""
        return None if self.compute_budget is None else self._read_budget("planner.compute_budget", [])

    def architecture(
        self, kernel_sizes: Sequence[Sequence[int]], strides: Sequence[Sequence[int]], base_features: int
    ) -> dict[str, Any]:
        """The ``architecture`` object of a configuration, with the lists in the order of nnU-Net's files."""
        num_stages, num_axes = len(strides), len(strides[0])
        is_residual = "Residual" in self.network_class_name
        most = int(self.max_features[f"{num_axes}d"])
        features = [min(most, base_features * 2**stage) for stage in range(num_stages)]
        encoder = _repeated(self.blocks_per_stage_encoder, num_stages)
        decoder = _repeated(self.blocks_per_stage_decoder, num_stages - 1)
        if self.full_resolution_features is not None:
            features[0] = min(features[0], self.full_resolution_features)
        if self.full_resolution_blocks is not None:
            encoder[0] = self.full_resolution_blocks
            decoder[-1:] = [self.full_resolution_blocks] * len(decoder[-1:])
        return {
            "network_class_name": self.network_class_name,
            "arch_kwargs": {
                "n_stages": num_stages,
                "features_per_stage": features,
                "conv_op": f"torch.nn.modules.conv.Conv{num_axes}d",
                "kernel_sizes": [list(kernel) for kernel in kernel_sizes],
                "strides": [list(stride) for stride in strides],
                "n_blocks_per_stage" if is_residual else "n_conv_per_stage": encoder,
                "n_conv_per_stage_decoder": decoder,
                "conv_bias": True,
                "norm_op": f"torch.nn.modules.instancenorm.InstanceNorm{num_axes}d",
                "norm_op_kwargs": {"eps": 1e-05, "affine": True},
                "dropout_op": None,
                "dropout_op_kwargs": None,
                "nonlin": "torch.nn.LeakyReLU",
                "nonlin_kwargs": {"inplace": True},
            },
            "_kw_requires_import": ["conv_op", "norm_op", "dropout_op", "nonlin"],
        }

    def _read_budget(self, where: str, problems: list[str]) -> ComputeBudget:
        accepted = read_block(ComputeBudget, dict(self.compute_budget or {}), where, problems)
        gmacs = accepted.get("gmacs_per_iteration", {})
        if set(gmacs) != {"2d", "3d"} or not all(value > 0 for value in gmacs.values()):
            problems.append(f"{where}.gmacs_per_iteration: expected a number above 0 for '2d' and one for '3d'.")
            accepted["gmacs_per_iteration"] = {"2d": 1.0, "3d": 1.0}
        return ComputeBudget(**accepted)


def _repeated(numbers: Sequence[int], length: int) -> list[int]:
    return [numbers[min(index, len(numbers) - 1)] for index in range(length)]
