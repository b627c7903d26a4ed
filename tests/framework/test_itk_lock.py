from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from framework.data import itk_files
from framework.data.itk_lock import _LOCK, one_at_a_time
from framework.data.raw_dataset import RawCase
from framework.preprocessing.raw_size import values_of_largest

GEOMETRY = {"spacing": (1.0, 1.0, 1.0), "origin": (0.0, 0.0, 0.0), "direction": (1, 0, 0, 0, 1, 0, 0, 0, 1)}
LABELS = np.arange(24, dtype=np.uint8).reshape(2, 3, 4)


def is_held_up(action: Callable[[], object]) -> bool:
    """Whether the action, in a thread of its own, waits while this one holds the lock; it must end afterwards."""
    done = threading.Event()
    thread = threading.Thread(target=lambda: (action(), done.set()))
    with _LOCK:
        thread.start()
        waited = not done.wait(0.3)
    thread.join()
    assert done.is_set()
    return waited


def test_decorated_functions_never_run_beside_each_other_but_may_call_each_other():
    inside, most = [], []

    @one_at_a_time
    def inner() -> None:
        inside.append(1)
        most.append(len(inside))
        time.sleep(0.002)
        inside.pop()

    @one_at_a_time
    def outer() -> None:
        inner()

    threads = [threading.Thread(target=work) for work in (inner, outer) * 4]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(most) == 8
    assert max(most) == 1


@pytest.mark.parametrize("ending", [".nii.gz", ".nrrd"])
def test_reading_and_writing_wait_for_each_other(tmp_path: Path, ending: str):
    path = tmp_path / f"labels{ending}"
    assert is_held_up(lambda: itk_files.write(LABELS, path, GEOMETRY))
    assert is_held_up(lambda: itk_files.read(path))
    np.testing.assert_array_equal(itk_files.read(path)[0], LABELS)


def test_turning_and_reading_sizes_wait_too(tmp_path: Path):
    assert is_held_up(lambda: itk_files.reoriented(LABELS, GEOMETRY, "LPS"))
    image = tmp_path / "case_0000.nii.gz"
    itk_files.write(LABELS, image, GEOMETRY)
    assert is_held_up(lambda: values_of_largest([RawCase("case", (image,))]))


@pytest.mark.skipif(not hasattr(os, "fork"), reason="nothing is forked there")
def test_a_process_forked_while_another_thread_calls_itk_does_not_wait_for_it():
    held = threading.Event()

    @one_at_a_time
    def hold() -> None:
        held.set()
        time.sleep(0.2)

    thread = threading.Thread(target=hold)
    thread.start()
    held.wait()
    child = os.fork()
    if child == 0:
        is_free = [False]

        def look() -> None:
            is_free[0] = _LOCK.acquire(timeout=5)

        other = threading.Thread(target=look)
        other.start()
        other.join()
        os._exit(0 if is_free[0] else 1)
    thread.join()
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
