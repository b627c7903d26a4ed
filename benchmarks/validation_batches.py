"""Validation batches of simulated CT patches (96x160x160, batch 2), one process (batches/s)."""

from __future__ import annotations

from benchmarks.batches import compare
from benchmarks.runner import Result


def run(repeat: int) -> Result:
    return compare(repeat, "ct", validation=True)
