"""The same export of 40 classes: memory of the whole process at its peak, logits included (MB)."""

from __future__ import annotations

import statistics

from benchmarks.export import LABELS, Export, compare
from benchmarks.runner import Result


def run(repeat: int) -> Result:
    (ours, theirs), notes = compare(repeat)
    beyond = [statistics.median(each.beyond for each in side) / 2**20 for side in (ours, theirs)]
    notes.append(
        f"beyond what was there when the logits had been loaded: {beyond[0]:.0f} MB and {beyond[1]:.0f} MB "
        f"(ratio {beyond[1] / beyond[0]:.0f})"
    )
    return Result("MB", _peaks(ours), _peaks(theirs), labels=LABELS, notes=notes)


def _peaks(side: list[Export]) -> list[float]:
    return [each.peak / 2**20 for each in side]
