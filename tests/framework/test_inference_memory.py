"""Prediction of large images: what happens when memory runs out, and that little of it is used."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from framework.errors import FoldwiseError
from framework.inference import sliding_window
from framework.inference.out_of_memory import ran_out_of_memory
from framework.inference.sliding_window import sliding_window_logits
from framework.inference.tiles import lay_tiles
from framework.inference.views import ViewBatches

HOST, DEVICE = torch.device("cpu"), torch.device("meta")


class Doubling(nn.Module):
    """Twice the image, as long as it is asked for no more views than fit."""

    def __init__(self, most_views: int, error: BaseException) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.tensor(2.0))
        self.most_views, self.error = most_views, error
        self.batch_sizes: list[int] = []

    def forward(self, x: Tensor) -> Tensor:
        self.batch_sizes.append(len(x))
        if len(x) > self.most_views:
            raise self.error
        return torch.cat((x, self.scale * x), 1)


LACK_OF_MEMORY = [
    torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB."),
    RuntimeError("CUDA error: out of memory"),
    RuntimeError("cuDNN error: CUDNN_STATUS_ALLOC_FAILED"),
    RuntimeError("cuDNN error: CUDNN_STATUS_INTERNAL_ERROR_DEVICE_ALLOCATION_FAILED"),
    RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
    RuntimeError("MPS backend out of memory (MPS allocated: 8.00 GB, other allocations: 1.00 GB)."),
    RuntimeError("[enforce fail at alloc_cpu.cpp:117] err == 0. DefaultCPUAllocator: can't allocate memory: you tried"),
    RuntimeError("DefaultCPUAllocator: not enough memory: you tried to allocate 8000 bytes."),
    RuntimeError("std::bad_alloc"),
    MemoryError(),
]
OTHER_ERRORS = [
    RuntimeError("The size of tensor a (4) must match the size of tensor b (5) at non-singleton dimension 2"),
    RuntimeError("CUDA error: an illegal memory access was encountered"),
    RuntimeError("cuDNN error: CUDNN_STATUS_NOT_SUPPORTED"),
    RuntimeError("expected all tensors to be on the same device"),
    ValueError("out of memory"),
]


@pytest.mark.parametrize("error", LACK_OF_MEMORY, ids=lambda error: str(error)[:40] or "MemoryError")
def test_lack_of_memory_makes_smaller_batches_and_nothing_is_done_again(error: BaseException) -> None:
    assert ran_out_of_memory(error)
    network, data, told = Doubling(2, error), torch.randn(1, 4, 4, 12), []
    logits = sliding_window_logits(
        network, data, (4, 4, 4), mirror_axes=(0, 1), batch_size=8, progress=lambda done, total: told.append(done)
    )
    # 5 tiles of 4 views; 8 and 4 at once do not fit, and are not tried again.
    assert network.batch_sizes == [8, 4] + [2] * 10
    assert told == [1, 2, 3, 4, 5]
    assert torch.allclose(logits, torch.cat((data, 2 * data)), atol=1e-5)


@pytest.mark.parametrize("error", OTHER_ERRORS, ids=lambda error: str(error)[:40])
def test_any_other_error_is_raised_as_it_is(error: Exception) -> None:
    assert not ran_out_of_memory(error)
    network = Doubling(2, error).train()
    with pytest.raises(type(error)) as raised:
        sliding_window_logits(network, torch.zeros(1, 4, 4, 12), (4, 4, 4), batch_size=8)
    assert raised.value is error
    assert network.batch_sizes == [5]
    assert network.training


def test_lack_of_memory_for_a_single_view_is_raised_when_nothing_can_move() -> None:
    error = torch.OutOfMemoryError("CUDA out of memory.")
    network = Doubling(0, error)
    with pytest.raises(torch.OutOfMemoryError) as raised:
        sliding_window_logits(network, torch.zeros(1, 4, 4, 12), (4, 4, 4), batch_size=4)
    assert raised.value is error
    assert network.batch_sizes == [4, 2, 1]


def test_room_is_made_once_batches_are_as_small_as_can_be() -> None:
    network = Doubling(0, torch.OutOfMemoryError("CUDA out of memory."))
    data, moved = torch.randn(1, 4, 4, 12), []

    def make_room() -> Tensor:
        moved.append(list(network.batch_sizes))
        network.most_views = 2
        return data

    tiles = lay_tiles(data.shape[1:], (4, 4, 4))
    sums = list(ViewBatches([network], False, (), 4, HOST).sums(data, tiles, make_room))
    assert moved == [[4, 2, 1]]
    assert len(sums) == len(tiles)
    for tile, total in zip(tiles, sums):
        assert torch.allclose(total[1], 2 * data[0][tile.source])


@pytest.fixture
def small_device(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """A device other than the host, whose tensors lie on the host; returns the list of events."""
    events: list[str] = []
    zeros = torch.zeros

    def fake_zeros(*size: Any, device: torch.device | None = None, **options: Any) -> Tensor:
        if device is not None:
            events.append(f"allocate on {device.type}")
        return zeros(*size, **options)

    monkeypatch.setattr(torch, "zeros", fake_zeros)
    monkeypatch.setattr(sliding_window, "free_cache", lambda device: events.append(f"free {device.type}"))
    monkeypatch.setattr(sliding_window, "free_memory", lambda device: None)
    return events


def out_of_memory_once(action: Callable[..., None], when: Callable[[], bool]) -> Callable[..., None]:
    def fail_or_do(*arguments: Any) -> None:
        if when():
            raise torch.OutOfMemoryError("CUDA out of memory.")
        action(*arguments)

    return fail_or_do


def summed(result: Any, image: Tensor) -> Tensor:
    """The image as the sum of its tiles."""
    for tile in lay_tiles(image.shape[1:], (4, 4, 4)):
        result.add(tile, image[(slice(None), *tile.source)], 1.0)
    return result.total


def test_results_that_do_not_fit_the_device_are_never_tried_there(
    small_device: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    # 2 maps of 4 x 4 x 9 voxels of 4 bytes are 1152 bytes.
    image = torch.randn(2, 4, 4, 9)
    monkeypatch.setattr(sliding_window, "free_memory", lambda device: 1151)
    result = sliding_window._WeightedSum((4, 4, 9), DEVICE, may_move=True)
    assert torch.allclose(summed(result, image), image, atol=1e-6)
    assert small_device == ["free meta", "allocate on cpu"]


def test_memory_that_the_case_before_left_counts_as_free(
    small_device: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sliding_window, "free_memory", lambda device: 1152 if small_device else 0)
    sliding_window._WeightedSum((4, 4, 9), DEVICE, may_move=True)._allocate(2)
    assert small_device == ["free meta", "allocate on meta"]


def test_results_move_to_the_host_when_the_device_is_full_after_all(
    small_device: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    image = torch.randn(2, 4, 4, 9)
    result = sliding_window._WeightedSum((4, 4, 9), DEVICE, may_move=True)
    monkeypatch.setattr(result, "_add", out_of_memory_once(result._add, lambda: result.device == DEVICE))
    assert torch.allclose(summed(result, image), image, atol=1e-6)
    assert small_device == ["allocate on meta", "free meta"]
    assert result.device == HOST


def test_results_stay_where_they_were_asked_for(small_device: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    result = sliding_window._WeightedSum((4, 4, 9), DEVICE, may_move=False)
    monkeypatch.setattr(result, "_add", out_of_memory_once(result._add, lambda: True))
    with pytest.raises(torch.OutOfMemoryError):
        summed(result, torch.randn(2, 4, 4, 9))


def test_logits_that_do_not_fit_the_host_are_refused_with_the_numbers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sliding_window, "available_memory", lambda: 3 * 2**20)
    network = Doubling(8, ValueError())
    data = torch.zeros(1, 64, 64, 128)
    # 2 maps of 2^19 voxels of 4 bytes are 4 MiB.
    with pytest.raises(FoldwiseError, match=r"2 maps of 64 x 64 x 128 voxels, take 4.0 MiB, and 3.0 MiB"):
        sliding_window_logits(network, data, (32, 32, 32), batch_size=1)
    assert network.batch_sizes == [1]  # before the other tiles are computed


class LargeTensors(TorchDispatchMode):
    """Remembers every memory of at least `least` bytes that an operation returned."""

    def __init__(self, least: int) -> None:
        super().__init__()
        self.least = least
        self.found: dict[int, int] = {}

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = function(*args, **(kwargs or {}))
        for tensor in result if isinstance(result, (list, tuple)) else [result]:
            if isinstance(tensor, Tensor) and tensor.untyped_storage().nbytes() >= self.least:
                self.found[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return result


@pytest.mark.parametrize("patch", [(16, 16, 16), (16, 16)])
def test_no_volume_but_the_image_and_the_logits_is_ever_held(patch: tuple[int, ...]) -> None:
    network, data = Doubling(8, ValueError()), torch.randn(1, 32, 32, 40)
    with LargeTensors(data.nbytes // 2) as tensors:
        logits = sliding_window_logits(network, data, patch, batch_size=2, mirror_axes=(0, 1))
    storages = {tensor.untyped_storage().data_ptr() for tensor in (data, logits)}
    assert set(tensors.found) == storages
    assert logits.untyped_storage().nbytes() == 2 * data.nbytes
    assert torch.allclose(logits, torch.cat((data, 2 * data)), atol=1e-5)
