"""Peak memory of a process that makes training batches of simulated CT patches, cases read packed (MiB).

Imports of torch and all else are part of it, and pages of files that are mapped. The notes add what a worker of our
loader has at its peak, forked from a process that imported everything: when it makes whole batches, and when it only
reads for a GPU.
"""

from __future__ import annotations

import tempfile
from pathlib import Path

from benchmarks.batches import WORKLOADS, measure, our_batches
from benchmarks.runner import Result, interleave


def run(repeat: int) -> Result:
    with tempfile.TemporaryDirectory() as temporary:
        folders = {name: Path(temporary) / name for name in WORKLOADS}
        for name, folder in folders.items():
            WORKLOADS[name].make(folder)

        def peak(name: str, yardstick: bool) -> float:
            return measure(folders[name], name, yardstick=yardstick, store="packed")[1] / 2**20

        measured = interleave(repeat, lambda: peak("ct", False), lambda: peak("ct", True))
        small = [peak("hippocampus", yardstick) for yardstick in (False, True)]
        whole, reading = (worker_peak(folders["ct"], only_read=only_read) for only_read in (False, True))
    notes = [
        f"with 40x56x40 patches, batch 7: {small[0]:.0f} MiB, yardstick {small[1]:.0f} MiB",
        f"a forked worker that makes whole batches: {whole:.0f} MiB; one that reads for a GPU: {reading:.0f} MiB",
    ]
    return Result("MiB", *measured, labels=("BatchLoader", "nnUNetDataLoader"), notes=notes)


def worker_peak(folder: Path, *, only_read: bool) -> float:
    """MiB of a worker of the loader after a dozen batches. Linux."""
    from framework.batch_loader import BatchLoader

    maker = our_batches(folder, WORKLOADS["ct"], validation=False, store="packed")
    loader = BatchLoader(maker.read if only_read else maker, num_workers=1)
    for _ in range(12):
        next(loader)
    lines = Path(f"/proc/{loader._iterator._workers[0].pid}/status").read_text().splitlines()
    loader.close()
    return next(int(line.split()[1]) / 1024 for line in lines if line.startswith("VmHWM:"))
