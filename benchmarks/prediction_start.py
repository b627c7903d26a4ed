"""A prediction of one small scan: start, one tile without mirroring, and writing (seconds)."""

from __future__ import annotations

from benchmarks.prediction import compare
from benchmarks.runner import Result


def run(repeat: int) -> Result:
    return compare(repeat, 1, mirroring=False)
