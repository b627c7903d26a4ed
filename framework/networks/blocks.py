"""Convolution blocks: the pieces that both U-Nets are made of. Parameter names are nnU-Net's."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from framework.networks.inference_convolution import convolve, is_own_convolution, predicts_on_cpu
from framework.networks.instance_norm import can_join, instance_norm_activation, instance_norm_activation_

NUM_SPATIAL_AXES: dict[type[nn.Module], int] = {nn.Conv1d: 1, nn.Conv2d: 2, nn.Conv3d: 3}
TRANSPOSED: dict[type[nn.Module], type[nn.Module]] = {
    nn.Conv1d: nn.ConvTranspose1d,
    nn.Conv2d: nn.ConvTranspose2d,
    nn.Conv3d: nn.ConvTranspose3d,
}
AVERAGE_POOL: dict[type[nn.Module], type[nn.Module]] = {
    nn.Conv1d: nn.AvgPool1d,
    nn.Conv2d: nn.AvgPool2d,
    nn.Conv3d: nn.AvgPool3d,
}


def per_axis(value: int | Sequence[int], num_axes: int) -> tuple[int, ...]:
    """One number per spatial axis; a single number stands for all axes."""
    return (value,) * num_axes if isinstance(value, int) else tuple(value)


@dataclass(frozen=True)
class BlockRecipe:
    """What surrounds every convolution of a network: the part of `arch_kwargs` that all blocks share."""

    conv_op: type[nn.Module]
    conv_bias: bool = False
    norm_op: type[nn.Module] | None = None
    norm_op_kwargs: dict[str, Any] = field(default_factory=dict)
    dropout_op: type[nn.Module] | None = None
    dropout_op_kwargs: dict[str, Any] = field(default_factory=dict)
    nonlin: type[nn.Module] | None = None
    nonlin_kwargs: dict[str, Any] = field(default_factory=dict)
    nonlin_first: bool = False

    @property
    def num_axes(self) -> int:
        """Number of spatial axes, 1 to 3."""
        return NUM_SPATIAL_AXES[self.conv_op]

    def activation(self) -> nn.Module:
        """The nonlinearity on its own."""
        return self.nonlin(**self.nonlin_kwargs) if self.nonlin is not None else nn.Identity()


class ConvBlock(nn.Module):
    """Convolution, dropout, normalisation, nonlinearity; each but the first may be absent.

    Args:
        recipe: what surrounds the convolution.
        in_channels, out_channels: widths.
        kernel_size, stride: one number, or one per axis. Odd kernels are padded so that only the stride
            changes the size.
        bias: overrides `recipe.conv_bias`.
        with_dropout, with_nonlin: switch these parts off for this block.
    """

    def __init__(
        self,
        recipe: BlockRecipe,
        in_channels: int,
        out_channels: int,
        kernel_size: int | Sequence[int],
        stride: int | Sequence[int],
        *,
        bias: bool | None = None,
        with_dropout: bool = True,
        with_nonlin: bool = True,
    ) -> None:
        super().__init__()
        kernel_size = per_axis(kernel_size, recipe.num_axes)
        self.conv = recipe.conv_op(
            in_channels,
            out_channels,
            kernel_size,
            stride=per_axis(stride, recipe.num_axes),
            padding=tuple((size - 1) // 2 for size in kernel_size),
            bias=recipe.conv_bias if bias is None else bias,
        )
        self.dropout: nn.Module | None = None
        self.norm: nn.Module | None = None
        self.nonlin: nn.Module | None = None
        if recipe.dropout_op is not None and with_dropout:
            self.dropout = recipe.dropout_op(**recipe.dropout_op_kwargs)
        if recipe.norm_op is not None:
            self.norm = recipe.norm_op(out_channels, **recipe.norm_op_kwargs)
        if recipe.nonlin is not None and with_nonlin:
            self.nonlin = recipe.nonlin(**recipe.nonlin_kwargs)
        self.nonlin_first = recipe.nonlin_first

    def steps(self) -> list[tuple[str, nn.Module]]:
        """The parts that are present with their names, in the order in which they are applied."""
        after = ["nonlin", "norm"] if self.nonlin_first else ["norm", "nonlin"]
        parts = [(name, getattr(self, name)) for name in ["conv", "dropout", *after]]
        return [(name, part) for name, part in parts if part is not None]

    def forward(self, x: Tensor) -> Tensor:
        """(B, in_channels, *spatial) -> (B, out_channels, *spatial / stride)."""
        x = convolve(self.conv, x)
        if self.dropout is not None:
            x = self.dropout(x)
        if self.norm is not None and not self.nonlin_first and can_join(self.norm, self.nonlin, x):
            if predicts_on_cpu(x) and is_own_convolution(self.conv):
                return instance_norm_activation_(x, self.norm, self.nonlin)
            return instance_norm_activation(x, self.norm, self.nonlin)
        first, second = (self.nonlin, self.norm) if self.nonlin_first else (self.norm, self.nonlin)
        if first is not None:
            x = first(x)
        if second is not None:
            x = second(x)
        return x


class StackedConvBlocks(nn.Module):
    """Several convolution blocks in a row; only the first one strides."""

    def __init__(
        self,
        recipe: BlockRecipe,
        num_convs: int,
        in_channels: int,
        out_channels: int,
        kernel_size: int | Sequence[int],
        stride: int | Sequence[int],
    ) -> None:
        super().__init__()
        self.convs = nn.Sequential(
            ConvBlock(recipe, in_channels, out_channels, kernel_size, stride),
            *(ConvBlock(recipe, out_channels, out_channels, kernel_size, 1) for _ in range(num_convs - 1)),
        )

    def forward(self, x: Tensor) -> Tensor:
        """(B, in_channels, *spatial) -> (B, out_channels, *spatial / stride)."""
        return self.convs(x)


class ResidualBlock(nn.Module):
    """Two convolutions with a shortcut around them; the shortcut averages before it projects.

    Reference:
        He et al. (2019), Bag of Tricks for Image Classification with Convolutional Neural Networks, CVPR
        (variant ResNet-D).
    """

    def __init__(
        self,
        recipe: BlockRecipe,
        in_channels: int,
        out_channels: int,
        kernel_size: int | Sequence[int],
        stride: int | Sequence[int],
    ) -> None:
        super().__init__()
        stride = per_axis(stride, recipe.num_axes)
        self.conv1 = ConvBlock(recipe, in_channels, out_channels, kernel_size, stride)
        self.conv2 = ConvBlock(
            recipe, out_channels, out_channels, kernel_size, 1, with_dropout=False, with_nonlin=False
        )
        # Positions in this list are part of the parameter names: behind a pool the projection is number 1.
        shortcut: list[nn.Module] = []
        if any(step != 1 for step in stride):
            shortcut.append(AVERAGE_POOL[recipe.conv_op](stride, stride))
        if in_channels != out_channels:
            shortcut.append(
                ConvBlock(recipe, in_channels, out_channels, 1, 1, bias=False, with_dropout=False, with_nonlin=False)
            )
        self.skip = nn.Sequential(*shortcut)
        self.nonlin2 = recipe.activation()

    def forward(self, x: Tensor) -> Tensor:
        """(B, in_channels, *spatial) -> (B, out_channels, *spatial / stride)."""
        return self.nonlin2(self.conv2(self.conv1(x)) + self.skip(x))


class StackedResidualBlocks(nn.Module):
    """Several residual blocks in a row; only the first one strides."""

    def __init__(
        self,
        recipe: BlockRecipe,
        num_blocks: int,
        in_channels: int,
        out_channels: int,
        kernel_size: int | Sequence[int],
        stride: int | Sequence[int],
    ) -> None:
        super().__init__()
        self.blocks = nn.Sequential(
            ResidualBlock(recipe, in_channels, out_channels, kernel_size, stride),
            *(ResidualBlock(recipe, out_channels, out_channels, kernel_size, 1) for _ in range(num_blocks - 1)),
        )

    def forward(self, x: Tensor) -> Tensor:
        """(B, in_channels, *spatial) -> (B, out_channels, *spatial / stride)."""
        return self.blocks(x)


def initialise(module: nn.Module) -> None:
    """He initialisation for leaky ReLU with slope 0.01; biases 0; residual branches start at zero.

    For use with `network.apply`, which visits inner modules first, so a residual block has the last word
    on the norm at its end.

    Reference:
        He et al. (2015), Delving Deep into Rectifiers, ICCV. Start at zero: Goyal et al. (2017),
        arXiv:1706.02677.
    """
    if isinstance(module, (nn.Conv2d, nn.Conv3d, nn.ConvTranspose2d, nn.ConvTranspose3d)):
        nn.init.kaiming_normal_(module.weight, a=0.01)
        if module.bias is not None:
            nn.init.zeros_(module.bias)
    elif isinstance(module, ResidualBlock) and module.conv2.norm is not None:
        with torch.no_grad():
            for parameter in module.conv2.norm.parameters():
                parameter.zero_()
