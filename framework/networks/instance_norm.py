"""Instance normalisation and its activation in one step, for CPUs.

PyTorch normalises instances with the kernels of batch norm. On a CPU these walk over the voxels several times
slower than plain arithmetic does; for channels-last tensors the call also copies its input and its gradient,
and the kernel that would need no copy adds up in a way that loses half of the digits. So both passes are
written out here as sums and products of whole rows. Two tensors are kept for the backward pass, as many as
the two modules keep.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

_NUMBERS_IN_A_BLOCK = 2**18
"""1 MiB: half of the second cache of a usual core, far more than what calling an operation costs."""
_INSTANCE_NORMS = (nn.InstanceNorm1d, nn.InstanceNorm2d, nn.InstanceNorm3d)


def can_join(norm: Any, nonlin: Any, x: Tensor) -> bool:
    """Whether `instance_norm_activation` computes exactly what calling the two modules would."""
    return bool(
        x.device.type == "cpu"
        and x.dtype == torch.float32
        and type(norm) in _INSTANCE_NORMS
        and norm.affine
        and not norm.track_running_stats
        and (nonlin is None or (type(nonlin) is nn.LeakyReLU and nonlin.negative_slope > 0))
        and x[0, 0].numel() > 1
        # Compilers and exporters join the two modules themselves; hooks must see them called.
        and not (torch.compiler.is_compiling() or torch.jit.is_tracing() or torch.onnx.is_in_onnx_export())
        and not any(module._forward_hooks or module._forward_pre_hooks for module in (norm, nonlin) if module)
    )


def instance_norm_activation(x: Tensor, norm: Any, nonlin: Any) -> Tensor:
    """`nonlin(norm(x))` for (B, C, *spatial), in the memory layout of `x`; only where `can_join` holds."""
    slope = 1.0 if nonlin is None else nonlin.negative_slope
    return _InstanceNormActivation.apply(x, norm.weight, norm.bias, norm.eps, slope)


def instance_norm_activation_(x: Tensor, norm: Any, nonlin: Any) -> Tensor:
    """`nonlin(norm(x))` in the memory of `x`, without gradients; only where `can_join` holds.

    A part that fits the cache goes through all steps before the next one, so a large tensor is fetched from
    memory three times and written twice.
    """
    rows = _Rows(x)
    x = rows.of(x)
    mean, squares = rows.spread(rows.mean(x)), torch.zeros(())
    for block in rows.blocks(x):
        block -= mean
        squares = squares + rows.sum(block * block)
    scale = norm.weight * torch.rsqrt(squares / rows.num_voxels + norm.eps)
    scale, shift = rows.spread(scale), rows.spread(norm.bias.expand_as(scale))
    for block in rows.blocks(x):
        torch.addcmul(shift, block, scale, out=block)
        if nonlin is not None:
            nn.functional.leaky_relu_(block, nonlin.negative_slope)
    return rows.back(x)


class _Rows:
    """(B, C, *spatial) seen as long rows of memory, with per-channel numbers (B, C) spread over them.

    Plain layout: (B, C, voxels), one row a channel. Channels-last: (B, rows, Z*C), where one row holds a
    line of voxels. In both, arithmetic with per-channel numbers runs over long stretches of memory.
    """

    def __init__(self, x: Tensor) -> None:
        self.shape = x.shape
        self.num_voxels = x[0, 0].numel()
        self.channels_last = not x.is_contiguous() and x.ndim in (4, 5) and x.movedim(1, -1).is_contiguous()

    def of(self, x: Tensor) -> Tensor:
        """View `x` (a copy if its layout differs: mixing two layouts would be far slower than copying)."""
        if self.channels_last:
            return x.movedim(1, -1).contiguous().flatten(-2).flatten(1, -2)
        return x.contiguous().flatten(2)

    def back(self, rows: Tensor) -> Tensor:
        """The inverse of `of`."""
        if self.channels_last:
            return rows.view(self.shape[0], *self.shape[2:], self.shape[1]).movedim(-1, 1)
        return rows.view(self.shape)

    def mean(self, rows: Tensor) -> Tensor:
        """Mean over the voxels, (B, C)."""
        return self.sum(rows) / self.num_voxels

    def sum(self, rows: Tensor) -> Tensor:
        """Sum over the voxels of these rows, or of a block of them, (B, C)."""
        if self.channels_last:
            return rows.sum(1).view(self.shape[0], -1, self.shape[1]).sum(1)
        return rows.sum(2)

    def blocks(self, rows: Tensor) -> Sequence[Tensor]:
        """Parts of some voxels of all channels, none much larger than a cache."""
        axis = 1 if self.channels_last else 2
        numbers_in_a_line = rows.numel() // rows.shape[axis]
        return rows.split(max(1, _NUMBERS_IN_A_BLOCK // numbers_in_a_line), axis)

    def spread(self, values: Tensor) -> Tensor:
        """(B, C) in a shape that broadcasts against the rows."""
        if not self.channels_last:
            return values[:, :, None]
        # Not `repeat`, which takes as long as the arithmetic on a small tensor.
        return values[:, None].expand(-1, self.shape[-1], -1).flatten(1)[:, None]


class _InstanceNormActivation(torch.autograd.Function):
    """Affine instance norm, then leaky ReLU with the given slope (1 means no activation)."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor, eps: float, slope: float) -> Tensor:
        rows = _Rows(x)
        x = rows.of(x)
        centred = x - rows.spread(rows.mean(x))
        inverse_std = torch.rsqrt(rows.mean(centred * centred) + eps)
        y = centred * rows.spread(weight * inverse_std)
        y += rows.spread(bias.expand_as(inverse_std))
        if slope != 1.0:
            nn.functional.leaky_relu_(y, slope)
        ctx.rows, ctx.slope = rows, slope
        y = rows.back(y)
        ctx.save_for_backward(centred, weight, inverse_std, y)
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        centred, weight, inverse_std, y = ctx.saved_tensors
        rows = ctx.rows
        gradient = rows.of(gradient)
        if ctx.slope != 1.0:
            # The output has the sign of what went into the activation, because the slope is positive.
            gradient = torch.ops.aten.leaky_relu_backward(gradient, rows.of(y), ctx.slope, True)
        mean_gradient = rows.mean(gradient)
        mean_product = rows.mean(gradient * centred)
        # With z = centred * inverse_std: dL/dx = weight * inverse_std * (g - mean(g) - z * mean(g * z)).
        scale = weight * inverse_std
        gradient_x = gradient * rows.spread(scale)
        gradient_x.addcmul_(centred, rows.spread(-scale * inverse_std.square() * mean_product))
        gradient_x -= rows.spread(scale * mean_gradient)
        gradient_weight = (inverse_std * mean_product).sum(0) * rows.num_voxels
        gradient_bias = mean_gradient.sum(0) * rows.num_voxels
        return rows.back(gradient_x), gradient_weight, gradient_bias, None, None
