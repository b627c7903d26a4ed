"""As prediction, without mirroring, where much of the time is start, reading and writing (seconds)."""

from __future__ import annotations

from benchmarks.prediction import NUM_SCANS, compare
from benchmarks.runner import Result


def run(repeat: int) -> Result:
    return compare(repeat, NUM_SCANS, mirroring=False)
