"""Convolutions with a kernel of one voxel, as the matrix products that they are."""

from __future__ import annotations

import torch
from torch import Tensor, nn

_CHANNELS_LAST = {4: torch.channels_last, 5: torch.channels_last_3d}


def pointwise(layer: nn.Module, x: Tensor) -> Tensor:
    """`layer(x)`; on CPUs a 1x1(x1) convolution of a channels-last tensor is one product of two matrices.

    The general convolution would return its gradient in the plain layout, and everything behind it in the
    backward pass would mix both layouts.
    """
    if not (
        x.device.type == "cpu"
        and isinstance(layer, (nn.Conv2d, nn.Conv3d))
        and type(layer).forward in (nn.Conv2d.forward, nn.Conv3d.forward)
        and not (layer._forward_hooks or layer._forward_pre_hooks)
        and all(size == 1 for size in (*layer.kernel_size, *layer.stride))
        and not any(layer.padding)
        and layer.groups == 1
        and x.is_contiguous(memory_format=_CHANNELS_LAST[x.ndim])
        and not torch.compiler.is_compiling()
        and not torch.jit.is_tracing()
    ):
        return layer(x)
    weight = layer.weight.flatten(1)
    return nn.functional.linear(x.movedim(1, -1), weight, layer.bias).movedim(-1, 1)
