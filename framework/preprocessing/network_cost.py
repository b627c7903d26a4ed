"""What a U-Net costs, from its description alone: memory of feature maps and multiply-adds.

Both are sums over the same list of convolutions, so no network has to be built to plan one.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from math import prod
from typing import Any, NamedTuple


class Convolution(NamedTuple):
    """One convolution of a network, applied to one patch."""

    kernel_voxels: int
    """Values that every output value depends on, for each input channel."""
    channels_in: int
    channels_out: int
    voxels_out: int


def convolutions(
    arch_kwargs: Mapping[str, Any], patch_size: Sequence[int], num_inputs: int, num_outputs: int
) -> Iterator[Convolution]:
    """The convolutions of a plain or residual-encoder U-Net without deep supervision, from input to output.

    Args:
        arch_kwargs: of nnU-Net's PlainConvUNet (``n_conv_per_stage``) or ResidualEncoderUNet
            (``n_blocks_per_stage``).
        patch_size: voxels; a multiple of all strides.
        num_inputs: image channels.
        num_outputs: heads.
    """
    features = arch_kwargs["features_per_stage"]
    kernels = [prod(kernel) for kernel in arch_kwargs["kernel_sizes"]]
    strides = arch_kwargs["strides"]
    is_residual = "n_blocks_per_stage" in arch_kwargs
    repeats = arch_kwargs["n_blocks_per_stage" if is_residual else "n_conv_per_stage"]

    sizes, size = [], list(patch_size)
    channels = num_inputs
    if is_residual:
        stem = arch_kwargs.get("stem_channels") or features[0]
        yield Convolution(kernels[0], channels, stem, prod(size))
        channels = stem
    for stage, width in enumerate(features):
        size = [length // stride for length, stride in zip(size, strides[stage])]
        sizes.append(size)
        for repeat in range(repeats[stage]):
            yield Convolution(kernels[stage], channels, width, prod(size))
            if is_residual:
                yield Convolution(kernels[stage], width, width, prod(size))
                if channels != width or (repeat == 0 and prod(strides[stage]) > 1):
                    # Pooling alone needs no convolution, but nnU-Net counts the map that it makes.
                    yield Convolution(int(channels != width), channels, width, prod(size))
            channels = width

    for depth, convolved in enumerate(arch_kwargs["n_conv_per_stage_decoder"]):
        stage = len(features) - 2 - depth
        width, voxels = features[stage], prod(sizes[stage])
        # Stride and kernel of the transposed convolution are equal: one tap for each output voxel.
        yield Convolution(1, features[stage + 1], width, voxels)
        yield Convolution(kernels[stage], 2 * width, width, voxels)
        for _ in range(convolved - 1):
            yield Convolution(kernels[stage], width, width, voxels)
    if len(features) > 1:  # heads belong to the decoder, and a single stage has none
        yield Convolution(1, features[0], num_outputs, prod(sizes[0]))


def feature_map_values(
    arch_kwargs: Mapping[str, Any], patch_size: Sequence[int], num_inputs: int, num_outputs: int
) -> int:
    """Values in the outputs of all convolutions for one patch: nnU-Net's measure of memory."""
    return sum(
        each.channels_out * each.voxels_out for each in convolutions(arch_kwargs, patch_size, num_inputs, num_outputs)
    )


def multiply_adds(arch_kwargs: Mapping[str, Any], patch_size: Sequence[int], num_inputs: int, num_outputs: int) -> int:
    """Multiply-adds of the forward pass for one patch; training takes about three times as many."""
    return sum(
        each.kernel_voxels * each.channels_in * each.channels_out * each.voxels_out
        for each in convolutions(arch_kwargs, patch_size, num_inputs, num_outputs)
    )
