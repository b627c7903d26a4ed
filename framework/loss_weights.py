"""`LossWeights`: the weighted sum of named loss parts."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from framework.distributed import mean_over_all


class LossWeights:
    """Weights of loss parts as functions of the iteration; parts that are not named weigh 1."""

    def __init__(self, schedules: Mapping[str, Callable[[int], float]]) -> None:
        self.schedules = dict(schedules)

    def weight(self, name: str, iteration: int) -> float:
        schedule = self.schedules.get(name)
        return 1.0 if schedule is None else schedule(iteration)

    def weighted(self, parts: Mapping[str, Tensor], iteration: int) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """All parts as means, and their weighted sum as ``"loss"``.

        Args:
            parts: scalars, or one value per element (n,).

        Returns:
            - the parts and ``"loss"`` with their graph;
            - the same detached, with ``"num_elements"`` where a part had elements, for the record of the epoch.
        """
        count = max((part.numel() for part in parts.values() if part.ndim), default=0)
        losses = {name: mean_over_all(part.sum(), part.numel()) if part.ndim else part for name, part in parts.items()}
        weighted = [self.weight(name, iteration) * part.float() for name, part in losses.items()]
        losses["loss"] = torch.stack(weighted).sum()
        record: dict[str, Any] = {name: part.detach() for name, part in losses.items()}
        if count:
            record["num_elements"] = count
        return losses, record
