"""Batches on the device: same order and content, whatever is prepared ahead, and where they are finished."""

from __future__ import annotations

import dataclasses
import threading
from collections.abc import Callable
from typing import Any

import pytest
import torch

from framework.batch_loader import BatchLoader, IterableBatches
from framework.data.patch_batches import PatchBatches, ReadPatches
from framework.device import Execution, execution_for, tensors_in
from framework.device_batches import DeviceBatches, batches_on_device
from framework.errors import CaseError
from framework.training_settings import TrainingSettings
from tests.framework.test_patch_batches import equal, make_batches, make_store

CPU = torch.device("cpu")


def execution(**changes: Any) -> Execution:
    """On a CPU, which plays the accelerator where `finish_on_device` is set."""
    return dataclasses.replace(execution_for(TrainingSettings(), CPU), **changes)


def count(number: int) -> int:
    return number


def broken(number: int) -> int:
    if number == 2:
        raise CaseError("heart_007", "the file is truncated")
    return number


@pytest.mark.parametrize("ahead", [False, True])
@pytest.mark.parametrize("series", [lambda: BatchLoader(count), lambda: IterableBatches(range(1_000))])
def test_order_and_position_do_not_depend_on_what_is_prepared_ahead(series: Callable[[], Any], ahead: bool):
    batches = DeviceBatches(series(), CPU, ahead=ahead)
    assert [next(batches) for _ in range(4)] == [0, 1, 2, 3]
    assert batches.position == 4
    batches.close()
    assert [next(batches) for _ in range(2)] == [4, 5]  # the one that was made ahead is not lost
    batches.seek(6)
    assert next(batches) == 6  # where it stands already
    batches.seek(900)
    assert next(batches) == 900
    batches.seek(3)
    assert next(batches) == 3
    batches.close()


def test_the_next_batch_is_made_while_the_current_one_is_used():
    made = threading.Event()

    def make(number: int) -> int:
        if number == 1:
            made.set()
        return number

    batches = DeviceBatches(BatchLoader(make), CPU, ahead=True)
    assert next(batches) == 0
    assert made.wait(timeout=30)
    assert batches.position == 1
    batches.close()
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("batch-ahead")]


@pytest.mark.parametrize("ahead", [False, True])
def test_an_error_comes_with_the_batch_that_it_belongs_to(ahead: bool):
    batches = DeviceBatches(BatchLoader(broken), CPU, ahead=ahead)
    assert [next(batches), next(batches)] == [0, 1]
    with pytest.raises(CaseError, match="heart_007"):
        next(batches)
    assert batches.position == 2
    batches.close()


@pytest.mark.parametrize("preset", ["default", None])
@pytest.mark.parametrize("workers", [0, 2])
def test_batches_finished_on_the_device_equal_those_of_one_process_bitwise(preset: Any, workers: int):
    maker = make_batches(make_store((40, 44, 42)), (24, 20, 22), preset)
    batches = batches_on_device(maker, CPU, execution(finish_on_device=True, num_workers=workers))
    for iteration in range(5):
        assert equal(next(batches), maker(iteration))
    batches.close()


def test_two_ranks_that_finish_on_the_device_make_the_samples_of_one():
    whole = make_batches(make_store(), batch_size=5)
    ranks = [batches_on_device(whole.share(rank, 2), CPU, execution(finish_on_device=True)) for rank in range(2)]
    for iteration in range(3):
        made = [next(rank) for rank in ranks]
        assert torch.equal(whole(iteration).data, torch.cat([part.data for part in made]))
        assert torch.equal(whole(iteration).target, torch.cat([part.target for part in made]))
    for rank in ranks:
        rank.close()


class Seen(PatchBatches):
    """Notes in which thread batches are finished."""

    def finish(self, patches: ReadPatches) -> Any:
        self.threads = [*getattr(self, "threads", []), threading.current_thread().name]
        return super().finish(patches)


@pytest.mark.parametrize("needs_cpu", [False, True])
def test_what_needs_the_cpu_is_finished_by_workers(needs_cpu: bool):
    maker = make_batches(make_store())
    seen = Seen(**{field.name: getattr(maker, field.name) for field in dataclasses.fields(maker)})
    seen.augmentation = _Augmentation(seen.augmentation, needs_cpu)  # type: ignore[assignment]
    batches = batches_on_device(seen, CPU, execution(finish_on_device=True, num_workers=1))
    for iteration in range(3):
        assert equal(next(batches), maker(iteration))
    batches.close()
    # A worker has a copy of its own and leaves no note here.
    assert bool(getattr(seen, "threads", [])) == (not needs_cpu)


class _Augmentation:
    def __init__(self, augmentation: Any, needs_cpu: bool) -> None:
        self.augmentation, self.needs_cpu = augmentation, needs_cpu

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return getattr(self.__dict__["augmentation"], name)

    def __reduce__(self) -> Any:
        return _Augmentation, (self.augmentation, self.needs_cpu)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("workers", [0, 2])
def test_batches_finished_on_a_gpu_equal_those_of_a_cpu_up_to_rounding(workers: int):
    cuda = torch.device("cuda")
    maker = make_batches(make_store((40, 44, 42)), (24, 20, 22))
    batches = batches_on_device(maker, cuda, execution(finish_on_device=True, num_workers=workers))
    for iteration in range(20):
        batch, expected = next(batches), maker(iteration)
        assert batch.data.device.type == batch.target.device.type == "cuda"
        # Other kernels interpolate there, and sums are rounded in another order.
        torch.testing.assert_close(batch.data.cpu(), expected.data, atol=1e-3, rtol=1e-3)
        assert (batch.target.cpu() != expected.target).float().mean() < 1e-3
    batches.close()


def test_only_a_gpu_finishes_batches_by_default():
    assert not execution_for(TrainingSettings(), CPU).finish_on_device
    assert execution_for(TrainingSettings(), torch.device("cuda")).finish_on_device


def test_tensors_are_found_in_nested_batches():
    one, two, three = torch.zeros(1), torch.zeros(2), torch.zeros(3)
    patches = ReadPatches([], one, two, {0: (three, one)})
    assert [len(tensor) for tensor in tensors_in({"a": [patches], "b": "text", "c": (two,)})] == [1, 2, 3, 1, 2]
