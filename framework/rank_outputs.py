"""Outputs of a step that several processes computed, each from its share, as one process would have them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch

Outputs = dict[str, Any]


def merge_by_kind(name: str, values: Sequence[Any]) -> Any:
    """The default rule for one entry of the outputs.

    Args:
        values: of every process, in order of rank; that is the order of the elements of the whole batch.

    Returns:
        - mean of floating scalars (each process scales its own so that the mean is right, see
          `framework.distributed.mean_over_all`);
        - sum of integers;
        - tensors with axes joined along the first one, which counts the elements of the batch; lists joined.
        - Anything else: the value of rank 0.
    """
    first = values[0]
    if isinstance(first, torch.Tensor):
        if first.ndim:
            return torch.cat(list(values))
        stacked = torch.stack(list(values))
        return stacked.mean() if first.is_floating_point() else stacked.sum()
    if isinstance(first, bool) or not isinstance(first, (int, float, list)):
        return first
    if isinstance(first, list):
        return [entry for value in values for entry in value]
    return sum(values) / len(values) if isinstance(first, float) else sum(values)


def merged(parts: Sequence[Outputs], merge: Callable[[str, Sequence[Any]], Any]) -> Outputs:
    """The outputs of one step; entries that not all processes have are merged from those that do."""
    names = dict.fromkeys(name for part in parts for name in part)
    return {name: merge(name, [part[name] for part in parts if name in part]) for name in names}


def interleaved(from_all: Sequence[Sequence[Outputs]]) -> list[Outputs]:
    """Whole batches that were dealt out in turns, back in the order of their numbers."""
    return [output for turn in zip(*from_all) for output in turn]
