"""The two U-Nets of nnU-Net, with its parameter names and its constructor arguments.

    PlainConvUNet          two convolutions a stage, down and up
    ResidualEncoderUNet    residual blocks on the way down, one convolution a stage on the way up

Every parameter exists once here. nnU-Net's own modules list the same tensor under up to four names;
`framework.networks.nnunet_names` translates state dicts in both directions.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from framework.errors import PlansError
from framework.networks.blocks import (
    NUM_SPATIAL_AXES,
    TRANSPOSED,
    BlockRecipe,
    StackedConvBlocks,
    StackedResidualBlocks,
    initialise,
    per_axis,
)
from framework.networks.inference_convolution import upsample
from framework.networks.pointwise import pointwise


class Encoder(nn.Module):
    """Runs its stages from full resolution down and returns what each of them made.

    Attributes:
        stem: runs first, or None.
        stages: one module a resolution; any of them may be replaced by another of the same widths and stride.
        widths: number of feature maps that each stage returns.
        strides: stride of each stage per axis, relative to the stage before.
        kernel_sizes: kernel of each stage.
    """

    def __init__(
        self,
        stages: Sequence[nn.Module],
        widths: Sequence[int],
        strides: Sequence[tuple[int, ...]],
        kernel_sizes: Sequence[int | Sequence[int]],
        stem: nn.Module | None = None,
    ) -> None:
        super().__init__()
        self.stem = stem
        self.stages = nn.ModuleList(stages)
        self.widths = list(widths)
        self.strides = list(strides)
        self.kernel_sizes = list(kernel_sizes)

    def forward(self, x: Tensor) -> list[Tensor]:
        """(B, C, *spatial) -> one (B, widths[i], *spatial / strides[0] / ... / strides[i]) a stage."""
        if self.stem is not None:
            x = self.stem(x)
        features = []
        for stage in self.stages:
            x = stage(x)
            features.append(x)
        return features


class Decoder(nn.Module):
    """Goes back up: upsample, join with the encoder's features of that resolution, convolve, predict.

    Attributes:
        stages, transpconvs, seg_layers: one module a resolution, lowest resolution first.
        deep_supervision: whether `forward` predicts at every resolution; may be changed at any time.
        num_outputs: with deep supervision, predict at this many of the highest resolutions only; None
            means all. Heads that are left out keep their parameters.
    """

    def __init__(
        self,
        recipe: BlockRecipe,
        encoder: Encoder,
        num_outputs: int,
        num_convs: Sequence[int],
        deep_supervision: bool,
    ) -> None:
        super().__init__()
        self.deep_supervision = deep_supervision
        self.num_outputs: int | None = None
        transposed = TRANSPOSED[recipe.conv_op]
        stages, transpconvs, seg_layers = [], [], []
        for s in range(1, len(encoder.widths)):
            width, stride = encoder.widths[-s - 1], encoder.strides[-s]
            transpconvs.append(transposed(encoder.widths[-s], width, stride, stride, bias=recipe.conv_bias))
            kernel_size = encoder.kernel_sizes[-s - 1]
            stages.append(StackedConvBlocks(recipe, num_convs[s - 1], 2 * width, width, kernel_size, 1))
            # Every head exists, used or not, so that weights fit with and without deep supervision.
            seg_layers.append(recipe.conv_op(width, num_outputs, 1, bias=True))
        self.stages = nn.ModuleList(stages)
        self.transpconvs = nn.ModuleList(transpconvs)
        self.seg_layers = nn.ModuleList(seg_layers)

    def forward(self, features: Sequence[Tensor]) -> Tensor | list[Tensor]:
        """Features of the encoder -> logits (B, K, *spatial); with deep supervision a list, finest first."""
        x = features[-1]
        num_stages = len(self.stages)
        wanted = 1
        if self.deep_supervision:
            wanted = num_stages if self.num_outputs is None else self.num_outputs
        logits = []
        for s in range(num_stages):
            x = torch.cat((upsample(self.transpconvs[s], x), features[-s - 2]), 1)
            x = self.stages[s](x)
            if s >= num_stages - wanted:
                logits.append(pointwise(self.seg_layers[s], x))
        return logits[::-1] if self.deep_supervision else logits[-1]


class UNet(nn.Module):
    """An encoder and a decoder. Not built directly: see the two classes below."""

    encoder: Encoder
    decoder: Decoder

    def forward(self, x: Tensor) -> Tensor | list[Tensor]:
        """(B, C, *spatial) -> logits (B, K, *spatial), or a list of them from full to lowest resolution.

        Each spatial size must be a multiple of the product of the strides along that axis.
        """
        return self.decoder(self.encoder(x))


class PlainConvUNet(UNet):
    """U-Net of plain convolution blocks.

    Args:
        input_channels: C.
        n_stages: number of resolutions.
        features_per_stage: width of each.
        conv_op: `nn.Conv2d` or `nn.Conv3d`.
        kernel_sizes, strides: one entry a stage; an entry is a number or one number per axis.
        n_conv_per_stage: convolutions a stage on the way down.
        num_classes: K, number of output maps.
        n_conv_per_stage_decoder: convolutions a stage on the way up, lowest resolution first.
        deep_supervision: also predict at the lower resolutions.
        nonlin_first: apply the nonlinearity before the norm.

    Raises:
        PlansError: a list does not have one entry a stage.

    Reference:
        Isensee et al. (2021), nnU-Net, Nature Methods 18.
    """

    def __init__(
        self,
        input_channels: int,
        n_stages: int,
        features_per_stage: int | Sequence[int],
        conv_op: type[nn.Module],
        kernel_sizes: int | Sequence[int | Sequence[int]],
        strides: int | Sequence[int | Sequence[int]],
        n_conv_per_stage: int | Sequence[int],
        num_classes: int,
        n_conv_per_stage_decoder: int | Sequence[int],
        conv_bias: bool = False,
        norm_op: type[nn.Module] | None = None,
        norm_op_kwargs: dict[str, Any] | None = None,
        dropout_op: type[nn.Module] | None = None,
        dropout_op_kwargs: dict[str, Any] | None = None,
        nonlin: type[nn.Module] | None = None,
        nonlin_kwargs: dict[str, Any] | None = None,
        deep_supervision: bool = False,
        nonlin_first: bool = False,
    ) -> None:
        super().__init__()
        recipe = BlockRecipe(
            _known_convolution(conv_op),
            conv_bias,
            norm_op,
            norm_op_kwargs or {},
            dropout_op,
            dropout_op_kwargs or {},
            nonlin,
            nonlin_kwargs or {},
            nonlin_first,
        )
        widths = _per_stage("features_per_stage", features_per_stage, n_stages)
        kernels = _per_stage("kernel_sizes", kernel_sizes, n_stages)
        steps = [per_axis(stride, recipe.num_axes) for stride in _per_stage("strides", strides, n_stages)]
        num_convs = _per_stage("n_conv_per_stage", n_conv_per_stage, n_stages)
        ins = [input_channels, *widths[:-1]]
        # The one-element Sequential is part of the parameter names.
        stages = [
            nn.Sequential(StackedConvBlocks(recipe, num_convs[s], ins[s], widths[s], kernels[s], steps[s]))
            for s in range(n_stages)
        ]
        self.encoder = Encoder(stages, widths, steps, kernels)
        num_convs_up = _per_stage("n_conv_per_stage_decoder", n_conv_per_stage_decoder, n_stages - 1)
        self.decoder = Decoder(recipe, self.encoder, num_classes, num_convs_up, deep_supervision)
        self.apply(initialise)


class ResidualEncoderUNet(UNet):
    """U-Net with residual blocks in the encoder.

    Args:
        n_blocks_per_stage: residual blocks a stage on the way down.
        stem_channels: width of the convolution that runs first; None means the width of the first stage.

    The other arguments and the error are those of `PlainConvUNet`.

    Reference:
        Isensee et al. (2024), nnU-Net Revisited, MICCAI. arXiv:2404.09556.
    """

    def __init__(
        self,
        input_channels: int,
        n_stages: int,
        features_per_stage: int | Sequence[int],
        conv_op: type[nn.Module],
        kernel_sizes: int | Sequence[int | Sequence[int]],
        strides: int | Sequence[int | Sequence[int]],
        n_blocks_per_stage: int | Sequence[int],
        num_classes: int,
        n_conv_per_stage_decoder: int | Sequence[int],
        conv_bias: bool = False,
        norm_op: type[nn.Module] | None = None,
        norm_op_kwargs: dict[str, Any] | None = None,
        dropout_op: type[nn.Module] | None = None,
        dropout_op_kwargs: dict[str, Any] | None = None,
        nonlin: type[nn.Module] | None = None,
        nonlin_kwargs: dict[str, Any] | None = None,
        deep_supervision: bool = False,
        stem_channels: int | None = None,
    ) -> None:
        super().__init__()
        recipe = BlockRecipe(
            _known_convolution(conv_op),
            conv_bias,
            norm_op,
            norm_op_kwargs or {},
            dropout_op,
            dropout_op_kwargs or {},
            nonlin,
            nonlin_kwargs or {},
        )
        widths = _per_stage("features_per_stage", features_per_stage, n_stages)
        kernels = _per_stage("kernel_sizes", kernel_sizes, n_stages)
        steps = [per_axis(stride, recipe.num_axes) for stride in _per_stage("strides", strides, n_stages)]
        num_blocks = _per_stage("n_blocks_per_stage", n_blocks_per_stage, n_stages)
        stem_width = widths[0] if stem_channels is None else stem_channels
        ins = [stem_width, *widths[:-1]]
        stages = [
            StackedResidualBlocks(recipe, num_blocks[s], ins[s], widths[s], kernels[s], steps[s])
            for s in range(n_stages)
        ]
        stem = StackedConvBlocks(recipe, 1, input_channels, stem_width, kernels[0], 1)
        self.encoder = Encoder(stages, widths, steps, kernels, stem)
        num_convs_up = _per_stage("n_conv_per_stage_decoder", n_conv_per_stage_decoder, n_stages - 1)
        self.decoder = Decoder(recipe, self.encoder, num_classes, num_convs_up, deep_supervision)
        self.apply(initialise)


def _known_convolution(conv_op: type[nn.Module]) -> type[nn.Module]:
    if conv_op not in NUM_SPATIAL_AXES:
        raise PlansError(
            f"architecture: conv_op {conv_op!r} cannot be used by this network. "
            "Give torch.nn.modules.conv.Conv2d or torch.nn.modules.conv.Conv3d."
        )
    return conv_op


def _per_stage(name: str, value: Any, num_stages: int) -> list[Any]:
    """One entry a stage; a single number stands for all stages."""
    if isinstance(value, int):
        return [value] * num_stages
    if len(value) != num_stages:
        raise PlansError(
            f"architecture: {name} has {len(value)} entries, {list(value)}; the network needs {num_stages}, "
            "one for each stage (for the decoder, one less than n_stages). Correct arch_kwargs in the plans."
        )
    return list(value)
