"""Interleaved repetitions, medians, and one table and one JSON line at the end."""

from __future__ import annotations

import json
import os
import platform
import statistics
from collections.abc import Callable
from dataclasses import dataclass, field


@dataclass
class Result:
    """Measured values of both sides, in one unit.

    Attributes:
        ours, yardstick: one value per repetition, taken in turns.
        higher_is_better: a rate and not a time.
        labels: what the two columns are called.
        notes: further lines for the reader.
    """

    unit: str
    ours: list[float]
    yardstick: list[float]
    higher_is_better: bool = False
    labels: tuple[str, str] = ("ours", "yardstick")
    notes: list[str] = field(default_factory=list)

    @property
    def ratio(self) -> float:
        """Above 1: ours is better."""
        ours, yardstick = statistics.median(self.ours), statistics.median(self.yardstick)
        return ours / yardstick if self.higher_is_better else yardstick / ours


def interleave(
    repeat: int, ours: Callable[[], float], yardstick: Callable[[], float]
) -> tuple[list[float], list[float]]:
    """Measure in turns, so that a change of the machine's mood hits both sides."""
    measured: tuple[list[float], list[float]] = ([], [])
    for number in range(repeat):
        order = ((0, ours), (1, yardstick)) if number % 2 == 0 else ((1, yardstick), (0, ours))
        for side, measure in order:
            measured[side].append(measure())
    return measured


def machine() -> str:
    """Processor, cores and versions, as they stand in every table."""
    import torch

    model = platform.processor() or platform.machine()
    if os.path.exists("/proc/cpuinfo"):
        with open("/proc/cpuinfo") as file:
            lines = [line for line in file if line.startswith("model name")]
        model = lines[0].split(":", 1)[1].strip() if lines else model
    gpu = f", {torch.cuda.get_device_name()}" if torch.cuda.is_available() else ""
    return f"{os.cpu_count()} cores of {model}{gpu}; Python {platform.python_version()}, torch {torch.__version__}"


def report(name: str, result: Result) -> None:
    print(f"\n{name} on {machine()}")
    width = max(len(label) for label in result.labels)
    for label, values in zip(result.labels, (result.ours, result.yardstick)):
        print(
            f"  {label:{width}}  median {statistics.median(values):.4g} {result.unit}"
            f"  (of {len(values)}: {', '.join(f'{value:.4g}' for value in values)})"
        )
    for note in result.notes:
        print(f"  {note}")
    print(
        json.dumps(
            {
                "benchmark": name,
                "unit": result.unit,
                "ours": statistics.median(result.ours),
                "yardstick": statistics.median(result.yardstick),
                "ratio": result.ratio,
            }
        )
    )
