"""Convolutions of a network that only predicts, on CPUs: the same sums, by the shortest way.

Used under `torch.inference_mode` only; training and everything unusual takes the modules as they are.

- PyTorch gives a 3D convolution of a single image to a routine four times slower than the one for batches of
  two. Here both take the fast one.
- That routine fills vector registers with output channels. Eight channels fill half of a register of 16
  numbers, so two neighbouring voxels are computed as one voxel of 16 channels.
- A transposed convolution whose kernel is as large as its stride is one product of two matrices.
"""

from __future__ import annotations

import math
from typing import Any, cast

import torch
from torch import Tensor, nn

_CHANNELS_LAST = {4: torch.channels_last, 5: torch.channels_last_3d}
_LANES = {"AVX512": 16}
"""Numbers in a vector register, where two voxels are worth pairing: narrow registers are full without it."""


def predicts_on_cpu(x: Tensor) -> bool:
    """Whether nothing but the values of the result counts: no gradients, no compiler or exporter looking on."""
    return bool(
        torch.is_inference_mode_enabled()
        and x.device.type == "cpu"
        and x.dtype == torch.float32
        and not torch.is_autocast_enabled("cpu")
        and not (torch.compiler.is_compiling() or torch.jit.is_tracing() or torch.onnx.is_in_onnx_export())
    )


def is_own_convolution(layer: Any) -> bool:
    """A plain convolution that nobody hooked into: its output is new memory that nobody else sees."""
    return type(layer) in (nn.Conv2d, nn.Conv3d, DirectConv2d, DirectConv3d) and not _has_hooks(layer)


def convolve(layer: nn.Module, x: Tensor) -> Tensor:
    """`layer(x)`, by the fast routine where that gives the same."""
    return _convolve(layer, x) if is_own_convolution(layer) and _fits(layer, x) else layer(x)


class DirectConv2d(nn.Conv2d):
    """As `nn.Conv2d`; predicts by the fast routine, wherever it is called."""

    def forward(self, x: Tensor) -> Tensor:
        return _convolve(self, x) if _fits(self, x) else super().forward(x)


class DirectConv3d(nn.Conv3d):
    """As `nn.Conv3d`; predicts by the fast routine, wherever it is called."""

    def forward(self, x: Tensor) -> Tensor:
        return _convolve(self, x) if _fits(self, x) else super().forward(x)


def _fits(layer: Any, x: Tensor) -> bool:
    return bool(
        predicts_on_cpu(x)
        and x.ndim == layer.weight.ndim
        and x.shape[1] == layer.in_channels
        # oneDNN confuses the strides of a single channel where the output is one voxel long along the last axis and the
        # convolution strides along it: wrong results, with torch 2.13.
        and (x.shape[1] > 1 or layer.stride[-1] == 1)
        and layer.weight.dtype == torch.float32
        and layer.padding_mode == "zeros"
        and not isinstance(layer.padding, str)
        and torch.backends.mkldnn.is_available()
        and getattr(torch.backends.mkldnn, "enabled", True)
    )


def _convolve(layer: Any, x: Tensor) -> Tensor:
    if x.shape[1] == 1:
        # Both layouts are the same memory; the strides decide in which the result comes.
        x = x.contiguous()[:, 0].unsqueeze(-1).movedim(-1, 1)
    elif not layer.weight.is_contiguous():
        x = x.contiguous(memory_format=_CHANNELS_LAST[x.ndim])
    if _pairs_fit(layer, x):
        return _convolve_pairs(layer, x)
    return torch.mkldnn_convolution(
        x, layer.weight, layer.bias, layer.padding, layer.stride, layer.dilation, layer.groups
    )


def upsample(layer: Any, x: Tensor) -> Tensor:
    """`layer(x)`; a transposed convolution without overlap becomes a matrix product."""
    if not (
        type(layer) in (nn.ConvTranspose2d, nn.ConvTranspose3d)
        and not _has_hooks(layer)
        and predicts_on_cpu(x)
        and layer.weight.dtype == torch.float32
        and layer.kernel_size == layer.stride
        and not any((*layer.padding, *layer.output_padding))
        and layer.groups == 1
        and all(step == 1 for step in layer.dilation)
        and x.is_contiguous(memory_format=_CHANNELS_LAST[x.ndim])
    ):
        return cast(Tensor, layer(x))
    size, stride, width = x.shape[2:], layer.stride, layer.out_channels
    # (C_in, *stride, C_out): every input voxel makes one block of output voxels.
    weight = layer.weight.movedim(1, -1).reshape(layer.in_channels, -1)
    voxels = x.movedim(1, -1).reshape(-1, layer.in_channels)
    if layer.bias is None:
        blocks = voxels @ weight
    else:
        blocks = torch.addmm(layer.bias.repeat(math.prod(stride)), voxels, weight)
    axes = len(size)
    blocks = blocks.view(x.shape[0], *size, *stride, width)
    # (B, X, x, Y, y, Z, z, C): the voxels of each block between those of its neighbours.
    order = [place for axis in range(axes) for place in (1 + axis, 1 + axes + axis)]
    grown = [length * step for length, step in zip(size, stride)]
    return blocks.permute(0, *order, -1).reshape(x.shape[0], *grown, width).movedim(-1, 1)


def _pairs_fit(layer: Any, x: Tensor) -> bool:
    lanes = _LANES.get(torch.backends.cpu.get_cpu_capability(), 0)
    output_length = x.shape[-1] + 2 * layer.padding[-1] - layer.kernel_size[-1] + 1
    return bool(
        2 * layer.out_channels <= lanes
        and layer.groups == 1
        and layer.stride[-1] == layer.dilation[-1] == 1
        and output_length > 2  # for one pair see `_fits`: pairs are strided over
        and output_length % 2 == 0
        # With one channel the plain layout and channels-last are the same memory.
        and x.is_contiguous(memory_format=_CHANNELS_LAST[x.ndim])
    )


def _convolve_pairs(layer: Any, x: Tensor) -> Tensor:
    """Pairs of output voxels along the last axis, as channels of a convolution that strides over pairs.

    Channels-last, a pair with C channels each and one voxel with 2C channels are the same memory. The kernel
    is one voxel longer: the first of a pair ignores its last voxel, the second its first one.
    """
    width, kernel = layer.out_channels, layer.kernel_size[-1]
    shape = (2 * width, *layer.weight.shape[1:-1], kernel + 1)
    weight = torch.empty(shape, memory_format=_CHANNELS_LAST[x.ndim]).zero_()
    weight[:width, ..., :kernel] = layer.weight
    weight[width:, ..., 1:] = layer.weight
    bias = None if layer.bias is None else layer.bias.repeat(2)
    y = torch.mkldnn_convolution(x, weight, bias, layer.padding, (*layer.stride[:-1], 2), layer.dilation, 1)
    y = y.movedim(1, -1)
    return y.reshape(*y.shape[:-2], 2 * y.shape[-2], width).movedim(-1, 1)


def _has_hooks(module: nn.Module) -> bool:
    return bool(module._forward_hooks or module._forward_pre_hooks)
