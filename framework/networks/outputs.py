"""Switching deep supervision off for a while."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from torch import nn


@contextmanager
def single_output(network: nn.Module) -> Iterator[None]:
    """Inside the block the network predicts at full resolution only; then deep supervision is as before."""
    switched = [module for module in network.modules() if getattr(module, "deep_supervision", None) is True]
    for module in switched:
        module.deep_supervision = False  # type: ignore[assignment]
    try:
        yield
    finally:
        for module in switched:
            module.deep_supervision = True  # type: ignore[assignment]
