"""Which part of the batches one of several processes makes."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

from framework.distributed import Ranks


def can_be_shared(source: Any) -> bool:
    """Whether what `build_batches` returned can make one process's share of every batch."""
    return hasattr(source, "share")


def share_of_rank(source: Any, ranks: Ranks, num_validation_batches: int | None = None) -> Any:
    """What one process makes of the batches.

    An object with a method ``share(rank, num_ranks)`` divides every batch among the processes, so that their number
    changes nothing. Anything else cannot be divided: whole batches are dealt out in turns. In training an update then
    sees as many batches as there are processes; in validation all of them together make the same batches as one would.

    Args:
        num_validation_batches: how many batches there are in all, where they are those of a validation.
    """
    if ranks.size == 1 or source is None:
        return source
    if can_be_shared(source):
        return source.share(ranks.rank, ranks.size)
    if callable(source):
        return InTurns(source, ranks.rank, ranks.size, num_validation_batches)
    return _EveryNth(source, ranks.rank, ranks.size)


def turns(num_batches: int, ranks: Ranks) -> int:
    """In how many turns batches are dealt out, the last of which may be incomplete."""
    return -(-num_batches // ranks.size)


@dataclass
class InTurns:
    """``make_batch(number)`` for every n-th number; picklable, for data workers."""

    make_batch: Callable[[int], Any]
    rank: int
    size: int
    num_batches: int | None = None

    def __call__(self, turn: int) -> Any:
        number = turn * self.size + self.rank
        if self.num_batches is not None:
            # Beyond the last batch: in an incomplete turn somebody does one again, which is then left out.
            number = min(number, self.num_batches - 1)
        return self.make_batch(number)


@dataclass
class _EveryNth:
    iterable: Iterable[Any]
    rank: int
    size: int

    def __iter__(self) -> Iterator[Any]:
        return itertools.islice(iter(self.iterable), self.rank, None, self.size)
