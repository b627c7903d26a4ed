"""bf16 on a CPU: what is too small for oneDNN's gradients is computed in float32."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from framework.bf16_convolution import bf16_on_cpu

# Image, kernel and stride for which the gradient of the weights was wrong, NaN, or never came.
HARMED = [
    ((2, 6, 6), (3, 3, 3), (1, 1, 1)),
    ((2, 4, 6), (3, 3, 3), (1, 1, 1)),
    ((4, 6, 6), (5, 3, 3), (1, 1, 1)),
    ((4, 6, 6), (5, 3, 3), (2, 1, 1)),
    ((6, 6, 1), (3, 3, 3), (1, 1, 2)),
    ((6, 1), (3, 3), (1, 2)),
    ((6, 1), (3, 5), (1, 2)),
]
KINDS: dict[int, Any] = {1: nn.Conv1d, 2: nn.Conv2d, 3: nn.Conv3d}


def gradients(layer: nn.Module, data: Tensor, in_bf16: bool) -> tuple[Tensor, Tensor, Tensor]:
    """The output, and the gradients of the weights and of the data, for the same gradient of the output."""
    data = data.detach().requires_grad_()
    if in_bf16:
        with bf16_on_cpu():
            output = layer(data)
    else:
        output = layer(data)
    generator = torch.Generator().manual_seed(1)
    output.backward(torch.randn(output.shape, generator=generator).to(output.dtype))
    return output.detach(), layer.weight.grad, data.grad


@pytest.mark.parametrize(("size", "kernel", "stride"), HARMED)
@pytest.mark.parametrize("channels_last", [False, True])
def test_small_images_have_the_gradients_of_double_precision(
    size: tuple[int, ...], kernel: tuple[int, ...], stride: tuple[int, ...], channels_last: bool
):
    torch.manual_seed(0)
    layer = KINDS[len(size)](20, 24, kernel, stride, [length // 2 for length in kernel])
    data = torch.randn(2, 20, *size)
    if channels_last:
        data = data.to(memory_format=torch.channels_last if len(size) == 2 else torch.channels_last_3d)
    exact = gradients(copy.deepcopy(layer).double(), data.double(), in_bf16=False)
    for _ in range(3):  # what was wrong depended on what lay in memory
        layer.zero_grad()
        output, of_weight, of_data = gradients(layer, data, in_bf16=True)
        assert output.dtype == torch.bfloat16
        assert of_weight.dtype == of_data.dtype == torch.float32
        assert torch.allclose(output.double(), exact[0], rtol=2**-8, atol=1e-4)
        # The gradient that comes in is rounded to bf16, so each term of these sums has an error of 2^-9 at most.
        assert (of_weight.double() - exact[1]).norm() < 2**-8 * exact[1].norm()
        assert (of_data.double() - exact[2]).norm() < 2**-8 * exact[2].norm()


def test_a_transposed_convolution_that_overlaps_is_looked_at_too():
    torch.manual_seed(0)
    layer = nn.ConvTranspose3d(20, 24, 3, padding=1)
    data = torch.randn(2, 20, 2, 6, 6)
    exact = gradients(copy.deepcopy(layer).double(), data.double(), in_bf16=False)
    _, of_weight, _ = gradients(layer, data, in_bf16=True)
    assert (of_weight.double() - exact[1]).norm() < 2**-8 * exact[1].norm()


@pytest.mark.parametrize(
    ("layer", "size", "in_float32"),
    [
        (nn.Conv3d(4, 4, 3, padding=1), (2, 5, 5), True),
        (nn.Conv3d(4, 4, 3, padding=1), (3, 3, 3), False),
        (nn.Conv3d(4, 4, (1, 3, 3), padding=(0, 1, 1)), (1, 3, 3), False),
        (nn.Conv1d(4, 4, 5, padding=2), (4,), True),
        (nn.ConvTranspose2d(4, 4, 2, 2), (1, 1), False),
        (nn.ConvTranspose2d(4, 4, 3, 2, 1), (2, 6), True),
    ],
)
def test_only_what_is_smaller_than_its_kernel_leaves_bf16(layer: nn.Module, size: tuple[int, ...], in_float32: bool):
    # bf16 cannot hold these weights. In float32 the channels add up to a small number, rounded they cancel.
    with torch.no_grad():
        layer.weight.fill_(1 + 2**-9)
        in_axis = 0 if "Transpose" in type(layer).__name__ else 1
        layer.weight.select(in_axis, 0).fill_(-3)
        layer.bias.zero_()
    with bf16_on_cpu():
        output = layer(torch.ones(1, 4, *size))
    assert bool(output.any()) == in_float32


def test_functions_without_a_batch_axis_and_with_named_arguments_are_looked_at():
    data, weight = torch.randn(4, 2, 5, 5), torch.randn(4, 4, 3, 3, 3)
    with bf16_on_cpu():
        output = nn.functional.conv3d(input=data, weight=weight, padding=1)
        inside = torch.is_autocast_enabled("cpu")
    assert inside
    assert not torch.is_autocast_enabled("cpu")
    assert torch.equal(output, nn.functional.conv3d(data, weight, padding=1).bfloat16())


def test_what_switches_mixed_precision_off_is_left_alone():
    data, weight = torch.randn(1, 4, 2, 5, 5), torch.randn(4, 4, 3, 3, 3)
    with bf16_on_cpu(), torch.autocast("cpu", enabled=False):
        assert torch.nn.functional.conv3d(data, weight, padding=1).dtype == torch.float32
