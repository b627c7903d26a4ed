"""From a loader at batch 0 to batch number 1,000,000, as a resume does, against a batch in order (seconds)."""

from __future__ import annotations

import tempfile
import time
from pathlib import Path

from benchmarks.batches import WORKLOADS, our_batches
from benchmarks.runner import Result, interleave


def run(repeat: int) -> Result:
    from framework.batch_loader import BatchLoader

    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary) / "cases"
        workload = WORKLOADS["hippocampus"]
        workload.make(folder)
        loader = BatchLoader(our_batches(folder, workload, validation=False))
        next(loader)

        def timed(position: int) -> float:
            started = time.perf_counter()
            loader.seek(position)
            next(loader)
            return time.perf_counter() - started

        numbers = iter(range(1, 10**6))
        measured = interleave(repeat, lambda: timed(1_000_000 + next(numbers)), lambda: timed(next(numbers)))
    return Result(
        "s", *measured, labels=("jump to batch 1,000,000", "jump to the next batch"), notes=["goal: below 0.1 s"]
    )
