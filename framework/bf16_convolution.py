"""Mixed precision with bf16 on a CPU. Convolutions whose image is smaller than their kernel stay in float32.

PyTorch leaves bf16 convolutions on CPUs to oneDNN. Its gradient of the weights is wrong, not a number, or never comes
where the image is smaller than the kernel along an axis (measured with torch 2.13 on an AVX512-BF16 processor: depth 2
with a kernel of 3; width 1 with a kernel of 3 and stride 2; depth 2 to 4 with a kernel of 5). Deep layers of a U-Net
can be that small. They cost next to nothing, in either precision.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode


@contextmanager
def bf16_on_cpu() -> Iterator[None]:
    """`torch.autocast` to bf16, but for the convolutions that it would harm, of modules and of functions alike."""
    with torch.autocast("cpu", dtype=torch.bfloat16), _SmallImagesInFloat32():
        yield


class _SmallImagesInFloat32(TorchFunctionMode):
    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        is_small = _IS_SMALL.get(func)
        if is_small is None or not torch.is_autocast_enabled("cpu") or not is_small(*args, **kwargs):
            return func(*args, **kwargs)
        with torch.autocast("cpu", enabled=False):
            output: Tensor = func(*map(_widened, args), **{name: _widened(value) for name, value in kwargs.items()})
        return output.bfloat16()


def _convolution_is_small(input: Tensor, weight: Tensor, *_: Any, **__: Any) -> bool:
    return any(1 < kernel > size for size, kernel in zip(input.shape[-(weight.ndim - 2) :], weight.shape[2:]))


def _transposed_is_small(
    input: Tensor, weight: Tensor, bias: Any = None, stride: int | Sequence[int] = 1, *_: Any, **__: Any
) -> bool:
    # Its gradients are those of the convolution from its output to its input. If kernels overlap and are padded as
    # usual, the output is at least as large as the input; if they do not, at least as large as the kernel.
    axes = weight.ndim - 2
    steps = (stride,) * axes if isinstance(stride, int) else tuple(stride)
    overlap = (kernel > step for kernel, step in zip(weight.shape[2:], steps))
    sizes = zip(input.shape[-axes:], weight.shape[2:], overlap)
    return any(overlaps and size < kernel for size, kernel, overlaps in sizes)


def _widened(value: Any) -> Any:
    return value.float() if isinstance(value, Tensor) and value.dtype == torch.bfloat16 else value


_IS_SMALL: dict[Callable[..., Any], Callable[..., bool]] = {
    torch.conv1d: _convolution_is_small,
    torch.conv2d: _convolution_is_small,
    torch.conv3d: _convolution_is_small,
    torch.conv_transpose1d: _transposed_is_small,
    torch.conv_transpose2d: _transposed_is_small,
    torch.conv_transpose3d: _transposed_is_small,
}
