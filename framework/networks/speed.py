"""Settings of the process and of the network that change how fast it runs, and nothing else."""

from __future__ import annotations

import ctypes
import sys
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn

# Parameter numbers of glibc's mallopt, from malloc.h.
_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3


def memory_format_of(network: nn.Module) -> torch.memory_format:
    """Channels-last for the number of spatial axes of the network's convolutions, or the plain format.

    Use it for the network and for its input: `network.to(memory_format=...)`. Convolutions of channels-last
    tensors run up to twice as fast on CPUs, and with half precision on GPUs.
    """
    for module in network.modules():
        if isinstance(module, (nn.Conv3d, nn.Conv2d)):
            return torch.channels_last_3d if isinstance(module, nn.Conv3d) else torch.channels_last
    return torch.contiguous_format


def keep_freed_memory() -> bool:
    """Let this process reuse memory that tensors free, instead of handing it back to the system each time.

    Without it every large tensor on a CPU is fresh memory that the system clears page by page; a training
    step is some 15% faster with it. The process stays as large as it was at its peak. Call it once, early.

    Returns:
        Whether it took effect: on Linux with glibc, and nowhere else.
    """
    if not sys.platform.startswith("linux"):
        return False
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError):
        return False
    # Older versions of glibc refuse thresholds above 32 MiB.
    kept = mallopt(_MMAP_THRESHOLD, 1 << 30) or mallopt(_MMAP_THRESHOLD, 1 << 25)
    return bool(kept and mallopt(_TRIM_THRESHOLD, 2**31 - 1))


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
