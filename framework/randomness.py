"""Randomness as a function of (seed, stream, n), not as a state.

Sample n of a training is the same whichever worker or rank draws it, and whether or not the run was
ever interrupted, because its numbers come from a counter-based generator (Salmon et al. 2011, Parallel
random numbers: as easy as 1, 2, 3. SC'11) whose counter is n. Nothing has to be saved, and jumping to
any n costs nothing.
"""

from __future__ import annotations

import hashlib
import random

import numpy as np


def generator(seed: int, stream: str, n: int) -> np.random.Generator:
    """The random numbers of element `n` of a named stream, for example ``generator(7, "training", 1_000_000)``.

    Distinct (seed, stream, n) give independent numbers; equal ones give equal numbers on every machine.
    """
    key = np.array([seed & _UINT64, _stream_key(stream)], dtype=np.uint64)
    # The low word of the counter runs while numbers are drawn; n sits above it, so elements never overlap.
    counter = np.array([0, 0, n & _UINT64, 0], dtype=np.uint64)
    return np.random.Generator(np.random.Philox(key=key, counter=counter))


def derived_seed(seed: int, stream: str, n: int = 0) -> int:
    """A 63-bit integer for libraries that want one seed."""
    digest = hashlib.blake2b(f"{seed}/{stream}/{n}".encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little") >> 1


def seed_libraries(seed: int, stream: str, n: int) -> None:
    """Seed torch (all devices), numpy and `random`, for code that draws from their global generators.

    The loop calls it before every step, which makes dropout and a user's own ``torch.rand`` a function
    of the iteration as well: resume is exact and no generator state has to be saved.
    """
    import torch

    value = derived_seed(seed, stream, n)
    # torch.manual_seed takes a hundred times as long, and where CUDA has not been used it queues a call each time.
    torch.default_generator.manual_seed(value)
    if torch.cuda.is_initialized():
        torch.cuda.manual_seed_all(value)
    elif torch.backends.mps.is_available():
        torch.mps.manual_seed(value)
    np.random.seed(value & 0xFFFFFFFF)
    random.seed(value)


_UINT64 = 0xFFFFFFFFFFFFFFFF
_STREAM_KEYS: dict[str, int] = {}


def _stream_key(stream: str) -> int:
    key = _STREAM_KEYS.get(stream)
    if key is None:
        digest = hashlib.blake2b(stream.encode("utf-8"), digest_size=8).digest()
        key = _STREAM_KEYS[stream] = int.from_bytes(digest, "little")
    return key
