"""How long each stage of making a batch takes, as a data worker would make it."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
from torch import Tensor

from framework.data.patch_batches import PatchBatches, ReadPatches, SampleRecipe

Result = TypeVar("Result")

STAGES = ("draw", "read", "resample", "intensities", "target")


@dataclass(frozen=True)
class StageTimes:
    """Means over some batches, one process, one thread.

    Attributes:
        milliseconds: of each of `STAGES`, for one batch. Mirroring counts as intensities.
        total_milliseconds: of one batch made in one go.
        num_batches: measured.
    """

    milliseconds: dict[str, float]
    total_milliseconds: float
    num_batches: int

    @property
    def batches_per_second(self) -> float:
        """Of one worker."""
        return 1000 / self.total_milliseconds

    def table(self) -> str:
        """Several lines for a console."""
        whole = sum(self.milliseconds.values())
        rows = [f"{'stage':<13}{'ms per batch':>12}{'share':>8}"]
        rows += [f"{name:<13}{value:>12.2f}{value / whole:>8.0%}" for name, value in self.milliseconds.items()]
        rows.append(
            f"{'whole batch':<13}{self.total_milliseconds:>12.2f}      "
            f"{self.batches_per_second:.1f} batches per second with one worker (mean of {self.num_batches})"
        )
        return "\n".join(rows)


def measure_stages(batches: PatchBatches, max_batches: int = 20, max_seconds: float = 20.0) -> StageTimes:
    """Make batches 0, 1, 2, ... stage by stage. The first one, which fills caches, does not count."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        batches(0)
        sums = dict.fromkeys(STAGES, 0.0)
        total, count, started = 0.0, 0, time.perf_counter()
        while count == 0 or (count < max_batches and time.perf_counter() - started < max_seconds):
            for stage, seconds in _measure_one(batches, count).items():
                sums[stage] += seconds
            total += _timed(batches, count)[1]
            count += 1
    finally:
        torch.set_num_threads(threads)
    return StageTimes({name: 1000 * value / count for name, value in sums.items()}, 1000 * total / count, count)


def _measure_one(batches: PatchBatches, number: int) -> dict[str, float]:
    """Seconds of each stage. `finish` does three of them: it is run with and without what makes them up."""
    _, draw = _timed(batches.recipes, number)
    patches, read = _timed(batches.read, number)
    unchanged = [
        dataclasses.replace(
            recipe, augmentation=dataclasses.replace(recipe.augmentation, intensities=(), mirror_axes=())
        )
        for recipe in patches.recipes
    ]
    moved = _copy(patches, unchanged, patches.boxes)
    _, resample = _timed(batches.finish, moved)
    changed, plain = _copy(moved, patches.recipes, {}), _copy(moved, unchanged, {})
    _, intensities = _timed(batches.finish, changed)
    _, target = _timed(batches.finish, plain)
    return {
        "draw": draw,
        "read": max(0.0, read - draw),
        "resample": max(0.0, resample - target),
        "intensities": max(0.0, intensities - target),
        "target": target,
    }


def _copy(patches: ReadPatches, recipes: list[SampleRecipe], boxes: dict[int, tuple[Tensor, Tensor]]) -> ReadPatches:
    """`finish` works in place; this leaves its input to be used again."""
    data, segmentation = patches.data.clone(), patches.segmentation.clone()
    return dataclasses.replace(patches, recipes=recipes, data=data, segmentation=segmentation, boxes=boxes)


def _timed(function: Callable[[Any], Result], argument: Any) -> tuple[Result, float]:
    started = time.perf_counter()
    result = function(argument)
    if torch.cuda.is_initialized():
        torch.cuda.synchronize()  # where the cases are on a GPU, it has only been told what to do so far
    return result, time.perf_counter() - started
