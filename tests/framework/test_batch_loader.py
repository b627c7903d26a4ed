from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from framework.batch_loader import BatchLoader, IterableBatches
from framework.data.store import CaseStore
from framework.errors import CaseError, FoldwiseError
from framework.extensions import find_class
from tests.framework.test_patch_batches import equal, make_batches, make_store
from tests.framework.test_store import arrays, properties, write_case


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


@pytest.mark.parametrize("workers", [0, 1, 2])
def test_batches_come_in_order_whatever_the_number_of_workers(workers: int):
    loader = BatchLoader(make, num_workers=workers)
    assert [int(next(loader)["x"][0]) for _ in range(7)] == list(range(7))
    loader.seek(1_000_000)
    assert int(next(loader)["x"][0]) == 1_000_000
    loader.close()


@pytest.mark.parametrize("workers", [1, 2])
def test_after_a_jump_workers_make_what_is_made_alone(workers: int):
    batches = make_batches(make_store())
    loader = BatchLoader(batches, num_workers=workers)
    for start in (0, 1_000_000, 3):  # a running loader jumps forwards and backwards
        loader.seek(start)
        for number in range(start, start + 3):
            assert equal(next(loader), batches(number))
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


def test_a_worker_that_dies_raises_nothing_while_the_loop_does_other_things():
    loader = BatchLoader(make, num_workers=2)
    pid = next(loader)["pid"]
    os.kill(pid, signal.SIGKILL)
    # torch would raise here, in the midst of an update or of a checkpoint.
    for _ in range(20):
        time.sleep(0.01)
    with pytest.raises(FoldwiseError, match="ended by the system when batch 1 was due"):
        next(loader)
    loader.close()


def test_a_worker_that_dies_while_its_batch_is_taken_over_is_reported_as_well(monkeypatch: pytest.MonkeyPatch):
    loader = BatchLoader(make, num_workers=1)
    pid = next(loader)["pid"]
    iterator = loader._iterator

    class LosesItsWorker:
        """What torch shows when the memory of a batch can no longer be fetched."""

        _workers = iterator._workers
        _shutdown_workers = iterator._shutdown_workers

        def __next__(self) -> None:
            os.kill(pid, signal.SIGKILL)
            raise ConnectionResetError(104, "Connection reset by peer")

    monkeypatch.setattr(loader, "_iterator", LosesItsWorker())
    with pytest.raises(FoldwiseError, match="ended by the system when batch 1 was due"):
        next(loader)
    loader.close()


def test_a_program_ends_though_it_did_not_close_its_loader():
    code = (
        "from tests.framework.test_batch_loader import *; "
        "loader = BatchLoader(make, num_workers=2); next(loader); 1 / 0"
    )
    root = Path(__file__).resolve().parents[2]
    result = subprocess.run([sys.executable, "-c", code], cwd=root, capture_output=True, text=True, timeout=100)
    assert result.returncode == 1
    assert "ZeroDivisionError" in result.stderr


def test_workers_ignore_the_signals_that_stop_a_run():
    loader = BatchLoader(make, num_workers=1)
    pid = next(loader)["pid"]
    os.kill(pid, signal.SIGTERM)
    os.kill(pid, signal.SIGINT)
    os.kill(pid, signal.SIGUSR1)
    assert [int(next(loader)["x"][0]) for _ in range(5)] == [1, 2, 3, 4, 5]
    loader.close()


def test_spawned_workers_make_the_same_batches_without_reading_pickles(tmp_path: Path):
    for seed, case in enumerate("ab"):
        data, segmentation = arrays(seed, (2, 16, 20, 18))
        write_case(tmp_path, case, data, segmentation, properties(segmentation), (12, 14, 10))
    store = CaseStore(tmp_path, mode="packed")
    store.check()
    store.prepare()
    maker = make_batches(store)
    for path in tmp_path.glob("*.pkl"):
        path.unlink()
    loader = BatchLoader(maker, num_workers=1, start_method="spawn")
    for number in range(3):
        assert equal(next(loader), maker(number))
    loader.close()


USERS_FILE = """
from dataclasses import dataclass
from framework.augmentation import IntensityTransform

@dataclass(frozen=True)
class Clip(IntensityTransform):
    level: float = 1.0

    def draw(self, uniforms, num_channels, geometry):
        return {"level": self.level * uniforms.next()}

    def apply(self, image, drawn, seed):
        image.clamp_(max=drawn["level"])

class Negative:
    def __init__(self, batches):
        self.batches = batches

    def __call__(self, number):
        batch = self.batches(number)
        batch.data.neg_()
        return batch
"""


def test_spawned_workers_know_classes_from_a_users_file(tmp_path: Path):
    (tmp_path / "user_code.py").write_text(USERS_FILE)
    negative = find_class(f"{tmp_path}/user_code.py:Negative", base=object, kind="batches", table={})
    batches = make_batches(make_store(), preset={f"{tmp_path}/user_code.py:Clip": {"level": 0.1}})
    assert batches(0).data.max() < 0.1
    loader = BatchLoader(negative(batches), num_workers=1, start_method="spawn")
    for number in range(2):
        assert equal(next(loader), negative(batches)(number))
    loader.close()


@pytest.mark.filterwarnings("ignore:Got pickle error")
def test_batches_that_cannot_be_sent_to_a_spawned_worker_are_told():
    loader = BatchLoader(lambda number: number, num_workers=1, start_method="spawn")
    with pytest.raises(
        FoldwiseError, match=r"function, which makes the batches, cannot be sent to a data worker: .*<lam"
    ):
        next(loader)


@pytest.mark.skipif(not Path("/proc/self/smaps_rollup").exists(), reason="memory is told by /proc")
def test_memory_stays_flat_over_many_batches():
    maker = make_batches(make_store((24, 26, 28)))  # 0.3 MB a batch
    loader = BatchLoader(maker, num_workers=2)
    sizes = []
    for number in range(400):
        next(loader)
        if number in (100, 399):
            processes = [os.getpid(), *(worker.pid for worker in loader._iterator._workers)]
            rollups = [Path(f"/proc/{process}/smaps_rollup").read_text() for process in processes]
            sizes.append(sum(int(re.search(r"^Pss: +(\d+) kB", text, re.MULTILINE)[1]) for text in rollups))
    loader.close()
    assert sizes[1] - sizes[0] < 16_000  # kB; keeping every batch would take 90 MB


def test_an_iterable_starts_over_and_can_be_skipped_through():
    batches = IterableBatches([10, 11, 12])
    assert [next(batches) for _ in range(5)] == [10, 11, 12, 10, 11]
    batches.seek(2)
    assert next(batches) == 12
    batches.close()
    assert next(batches) == 10
    with pytest.raises(FoldwiseError, match="yields nothing"):
        next(IterableBatches([]))
