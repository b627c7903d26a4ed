"""Memory of a loader with two workers after 2000 batches against after 200, shared pages once: must not grow (MiB)."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

from benchmarks.batches import WORKLOADS, our_batches
from benchmarks.runner import Result


def tree_bytes(processes: list[int]) -> int:
    """Proportional set size of some processes together: a page that n of them share counts 1/n in each. Linux."""
    total = 0
    for process in processes:
        for line in Path(f"/proc/{process}/smaps_rollup").read_text().splitlines():
            if line.startswith("Pss:"):
                total += int(line.split()[1]) * 1024
    return total


def sizes(loader: Any, at: list[int]) -> list[int]:
    """Bytes of this process and the loader's workers after each of these numbers of batches."""
    import os

    found, done = [], 0
    for wanted in at:
        while done < wanted:
            next(loader)
            done += 1
        found.append(tree_bytes([os.getpid(), *(worker.pid for worker in loader._iterator._workers)]))
    return found


def run(repeat: int, many: int = 2000) -> Result:
    from framework.batch_loader import BatchLoader

    early: list[float] = []
    late: list[float] = []
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary) / "cases"
        workload = WORKLOADS["hippocampus"]
        workload.make(folder)
        for _ in range(max(1, repeat // 5)):
            loader = BatchLoader(our_batches(folder, workload, validation=False, store="packed"), num_workers=2)
            first, last = sizes(loader, [many // 10, many])
            loader.close()
            early.append(first / 2**20)
            late.append(last / 2**20)
    return Result("MiB", late, early, labels=(f"after {many} batches", f"after {many // 10} batches"))
