from __future__ import annotations

import os
import signal

import pytest
import torch

from framework.batch_loader import BatchLoader, IterableBatches
from framework.errors import CaseError, FoldwiseError


def make(number: int) -> dict:
    return {"x": torch.full((2,), number), "pid": os.getpid()}


def broken(number: int) -> int:
    if number == 2:
        raise CaseError("heart_007", "the file is truncated")
    return number


def defective(number: int) -> int:
    raise ZeroDivisionError("in a worker")


def deadly(number: int) -> int:
    if number == 1:
        os.kill(os.getpid(), signal.SIGKILL)
    return number


@pytest.mark.parametrize("workers", [0, 1, 3])
def test_batches_come_in_order_whatever_the_number_of_workers(workers: int):
    loader = BatchLoader(make, num_workers=workers)
    assert [int(next(loader)["x"][0]) for _ in range(7)] == list(range(7))
    loader.seek(1_000_000)
    assert int(next(loader)["x"][0]) == 1_000_000
    loader.close()


def test_workers_are_other_processes_and_gone_after_close():
    loader = BatchLoader(make, num_workers=1)
    pid = next(loader)["pid"]
    assert pid != os.getpid()
    loader.close()
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)


def test_a_cycle_repeats_the_same_batches():
    loader = BatchLoader(make, cycle=3)
    assert [int(next(loader)["x"][0]) for _ in range(7)] == [0, 1, 2, 0, 1, 2, 0]


@pytest.mark.parametrize("workers", [0, 2])
def test_a_broken_case_arrives_with_its_type_and_name(workers: int):
    loader = BatchLoader(broken, num_workers=workers)
    assert [next(loader), next(loader)] == [0, 1]
    with pytest.raises(CaseError, match="case 'heart_007': the file is truncated") as caught:
        next(loader)
    assert caught.value.case == "heart_007"
    loader.close()


def test_a_defect_arrives_with_the_traceback_of_the_worker():
    loader = BatchLoader(defective, num_workers=1)
    with pytest.raises(ZeroDivisionError) as caught:
        next(loader)
    assert "in defective" in "".join(getattr(caught.value, "__notes__", [str(caught.value)]))
    loader.close()


def test_a_killed_worker_is_reported_with_the_likely_cause():
    loader = BatchLoader(deadly, num_workers=1)
    with pytest.raises(FoldwiseError, match="run out of memory"):
        list(zip(range(5), iter(lambda: next(loader), None)))
    loader.close()


def test_workers_ignore_the_signals_that_stop_a_run():
    loader = BatchLoader(make, num_workers=1)
    pid = next(loader)["pid"]
    os.kill(pid, signal.SIGTERM)
    os.kill(pid, signal.SIGINT)
    assert [int(next(loader)["x"][0]) for _ in range(5)] == [1, 2, 3, 4, 5]
    loader.close()


def test_an_iterable_starts_over_and_can_be_skipped_through():
    batches = IterableBatches([10, 11, 12])
    assert [next(batches) for _ in range(5)] == [10, 11, 12, 10, 11]
    batches.seek(2)
    assert next(batches) == 12
    with pytest.raises(FoldwiseError, match="yields nothing"):
        next(IterableBatches([]))
