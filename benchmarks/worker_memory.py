"""Peak memory of a process that makes training batches of simulated CT patches, cases read packed (MiB)."""

from __future__ import annotations

import tempfile
from pathlib import Path

from benchmarks.batches import WORKLOADS, measure
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
    note = f"with 40x56x40 patches, batch 7: {small[0]:.0f} MiB, yardstick {small[1]:.0f} MiB"
    return Result("MiB", *measured, labels=("BatchLoader", "nnUNetDataLoader"), notes=[note])
