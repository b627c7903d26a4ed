"""First batch at iteration 1,000,000, as after a resume, against first batch at iteration 0, 2 workers (seconds)."""

from __future__ import annotations

import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

from benchmarks.batches import WORKLOADS, our_batches
from benchmarks.runner import Result, interleave

FAR = 1_000_000
WORKERS = 2


def first_batch_seconds(maker: Any, position: int, num_workers: int) -> float:
    """From a new loader to the batch at `position`, the start of its workers included."""
    from framework.batch_loader import BatchLoader

    loader = BatchLoader(maker, num_workers=num_workers)
    started = time.perf_counter()
    loader.seek(position)
    next(loader)
    took = time.perf_counter() - started
    loader.close()
    return took


def run(repeat: int) -> Result:
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary) / "cases"
        workload = WORKLOADS["hippocampus"]
        workload.make(folder)
        maker = our_batches(folder, workload, validation=False)
        maker(0)
        measured = {
            # The batches around both places differ from turn to turn: not one easy batch decides.
            workers: _compare(repeat, maker, workers)
            for workers in (0, WORKERS)
        }
    extra = {workers: statistics.median(far) - statistics.median(near) for workers, (far, near) in measured.items()}
    notes = [f"extra time with {workers} workers: {seconds:.3f} s" for workers, seconds in extra.items()]
    return Result(
        "s", *measured[WORKERS], labels=(f"at iteration {FAR:,}", "at iteration 0"), notes=[*notes, "goal: below 0.1 s"]
    )


def _compare(repeat: int, maker: Any, num_workers: int) -> tuple[list[float], list[float]]:
    far, near = iter(range(FAR, FAR + repeat)), iter(range(repeat))
    return interleave(
        repeat,
        lambda: first_batch_seconds(maker, next(far), num_workers),
        lambda: first_batch_seconds(maker, next(near), num_workers),
    )
