"""Convolutions with a kernel of one voxel, as the matrix products that they are."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from framework.networks.inference_convolution import predicts_on_cpu

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
    if predicts_on_cpu(x):
        return _plain_layout(weight, layer.bias, x)
    return nn.functional.linear(x.movedim(1, -1), weight, layer.bias).movedim(-1, 1)


def _plain_layout(weight: Tensor, bias: Tensor | None, x: Tensor) -> Tensor:
    """(B, K, *spatial), one map after the other in memory, as the sum over tiles wants them; and the faster way."""
    voxels = x.movedim(1, -1).flatten(1, -2).transpose(1, 2)
    maps = torch.matmul(weight, voxels)
    if bias is not None:
        maps += bias[:, None]
    return maps.view(x.shape[0], -1, *x.shape[2:])
