"""Several processes that train one network together, on torch's own engine.

Started by ``torchrun`` (or anything that sets RANK, WORLD_SIZE, MASTER_ADDR and MASTER_PORT). Every process runs the
same program; rank 0 alone writes files. What is shared goes two ways: gradients and sums of the loss on the device
(NCCL or gloo), and small questions such as "has anybody been asked to stop?" on the CPU, by a gloo group of their own,
so that no step waits for the device.
"""

from __future__ import annotations

import itertools
import json
import os
import secrets
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any

import torch
from torch import Tensor

from framework.errors import FoldwiseError
from framework.pulse import PULSE

_SECONDS_BETWEEN_LOOKS = 0.05
# Processes that hang are found by `framework.rank_watch`, which can say who it is; this is what remains behind it.
_BACKEND_TIMEOUT = timedelta(hours=2)
_SECONDS_FOR_NOTES = 3.0


class OtherRankFailed(FoldwiseError):
    """This process cannot go on, because another one of the same training has ended.

    Attributes:
        rank: of the other one, if it left word of why.
    """

    def __init__(self, message: str, rank: int | None = None) -> None:
        super().__init__(message)
        self.rank = rank


@dataclass(frozen=True)
class Ranks:
    """This process among those that train together; by default it is the only one.

    Attributes:
        rank: its number, 0 to size - 1; rank 0 is the one that writes.
        local_rank, local_size: the same among the processes of this machine.
    """

    rank: int = 0
    size: int = 1
    local_rank: int = 0
    local_size: int = 1
    _store: Any = field(default=None, repr=False, compare=False)
    _control: Any = field(default=None, repr=False, compare=False)
    # All processes meet in the same places in the same order, so that a number is name enough for a meeting.
    _meetings: Iterator[int] = field(default_factory=itertools.count, repr=False, compare=False)

    @property
    def is_main(self) -> bool:
        return self.rank == 0

    def agree(self, *flags: bool) -> tuple[bool, ...]:
        """For each flag, whether it is set in any process. Waits until all have asked; does not touch the device."""
        if self.size == 1:
            return flags
        shared = torch.tensor(flags, dtype=torch.uint8)
        with PULSE.waiting(), self._failures_named():
            torch.distributed.all_reduce(shared, torch.distributed.ReduceOp.MAX, group=self._control)
        return tuple(bool(flag) for flag in shared.tolist())

    def gather(self, value: Any) -> list[Any]:
        """The values of all processes, in order of rank, in every process."""
        if self.size == 1:
            return [value]
        gathered: list[Any] = [None] * self.size
        with PULSE.waiting(), self._failures_named():
            torch.distributed.all_gather_object(gathered, value, group=self._control)
        return gathered

    def from_main(self, value: Any) -> Any:
        """The value that rank 0 has; what the others pass is ignored."""
        if self.size == 1:
            return value
        shared = [value]
        with PULSE.waiting(), self._failures_named():
            torch.distributed.broadcast_object_list(shared, src=0, group=self._control)
        return shared[0]

    @contextmanager
    def main_first(self) -> Iterator[None]:
        """Rank 0 runs the block, then all others do: for work whose result the others find ready.

        Raises:
            OtherRankFailed: in the others, if rank 0 failed.
        """
        if self.size == 1:
            yield
            return
        key = f"main first/{next(self._meetings)}"
        if not self.is_main:
            with PULSE.waiting():
                outcome = self._wait_for(key)
            if outcome != "done":
                raise OtherRankFailed(outcome, 0)
            yield
            return
        try:
            yield
        except BaseException as error:
            self._store.set(key, f"rank 0 failed: {error}")
            raise
        self._store.set(key, "done")

    def wait_for_all(self) -> None:
        """Return when every process has come here, however long that takes."""
        if self.size == 1:
            return
        key = f"all here/{next(self._meetings)}"
        self._store.add(key, 1)
        with PULSE.waiting():
            while self._store.add(key, 0) < self.size:
                self._raise_noted_failure()
                time.sleep(_SECONDS_BETWEEN_LOOKS)

    def put(self, key: str, value: Any) -> None:
        """Leave a JSON value where every process can look it up."""
        self._store.set(key, json.dumps(value))

    def look_up(self, key: str) -> Any:
        """What some process has left under `key`, or None; never waits."""
        return json.loads(self._store.get(key)) if self._store.check([key]) else None

    def note_failure(self, error: BaseException) -> None:
        """Leave word for the others of why this process ends."""
        if self.size > 1 and not isinstance(error, OtherRankFailed):
            try:
                self._store.set(f"failure/{self.rank}", f"{type(error).__name__}: {error}")
            except Exception:  # the store has ended with the launcher
                return

    def is_own_message(self, message: str) -> bool:
        """Whether this process should print an error; rank 0 prints what all of them have to say."""
        if self.size == 1:
            return True
        try:
            if self.is_main:
                self._store.set("message of rank 0", message)
                return True
            ends = time.monotonic() + _SECONDS_FOR_NOTES
            while time.monotonic() < ends:
                if self._store.check(["message of rank 0"]):
                    return not self._store.get("message of rank 0").decode().startswith(message)
                time.sleep(_SECONDS_BETWEEN_LOOKS)
        except Exception:
            return True
        return True

    @contextmanager
    def _failures_named(self) -> Iterator[None]:
        """A broken connection is the consequence of something; say of what."""
        try:
            yield
        except RuntimeError as error:
            raise self.explained(error) from error

    def explained(self, error: BaseException) -> BaseException:
        """What to raise in the place of an error that came while other processes were needed."""
        if self.size == 1 or isinstance(error, FoldwiseError) or not isinstance(error, RuntimeError):
            return error
        lost = isinstance(error, torch.distributed.DistError) or any(
            word in str(error) for word in ("Connection", "connection", "gloo", "NCCL", "Timed out", "timed out")
        )
        if not lost:
            return error
        ends = time.monotonic() + _SECONDS_FOR_NOTES
        while time.monotonic() < ends:
            try:
                self._raise_noted_failure()
            except OtherRankFailed as failure:
                return failure
            except Exception:
                break
            time.sleep(_SECONDS_BETWEEN_LOOKS)
        reason = str(error).strip().splitlines()[0]
        return OtherRankFailed(
            f"the connection to another process of this training broke ({reason}). It was killed, or its machine has "
            "failed. Run the same command with --c: it goes on from the last checkpoint."
        )

    def _raise_noted_failure(self) -> None:
        for rank in range(self.size):
            key = f"failure/{rank}"
            if rank != self.rank and self._store.check([key]):
                raise OtherRankFailed(f"rank {rank} failed: {self._store.get(key).decode()}", rank)

    def _wait_for(self, key: str) -> str:
        while not self._store.check([key]):
            self._raise_noted_failure()
            time.sleep(_SECONDS_BETWEEN_LOOKS)
        return self._store.get(key).decode()


_ranks = Ranks()


def ranks() -> Ranks:
    """This process among the others; joins them when it is first asked in a process that a launcher has started.

    Raises:
        FoldwiseError: the environment of the launcher is incomplete.
    """
    global _ranks
    if _ranks.size == 1 and (int(os.environ.get("WORLD_SIZE", "1")) > 1 or _is_initialised()):
        _ranks = _join()
    return _ranks


def ranks_so_far() -> Ranks:
    """As `ranks`, without joining the others if that has not been done."""
    return _ranks


def leave() -> None:
    """Part from the other processes; for the end of a program."""
    global _ranks
    if _ranks.size > 1 and _is_initialised():
        torch.distributed.destroy_process_group()
    _ranks = Ranks()


def restarts() -> int:
    """How often torchrun has started this process again after a failure."""
    return int(os.environ.get("TORCHELASTIC_RESTART_COUNT", "0"))


def launch_id() -> str | None:
    """What is the same for all processes and restarts of one launch; None without a launcher."""
    return os.environ.get("TORCHELASTIC_RUN_ID")


def _is_initialised() -> bool:
    return torch.distributed.is_available() and torch.distributed.is_initialized()


def _join() -> Ranks:
    distributed = torch.distributed
    if not _is_initialised():
        missing = [name for name in ("RANK", "MASTER_ADDR", "MASTER_PORT") if name not in os.environ]
        if missing:
            raise FoldwiseError(
                f"WORLD_SIZE={os.environ['WORLD_SIZE']} asks for several processes, but {', '.join(missing)} is not "
                "set. Start them with torchrun, or with -num_gpus, or unset WORLD_SIZE."
            )
        # Both, so that tensors on the CPU can be exchanged while the device is busy.
        backend = "cpu:gloo,cuda:nccl" if torch.cuda.is_available() and distributed.is_nccl_available() else "gloo"
        store, rank, size = next(distributed.rendezvous("env://"))
        store = distributed.PrefixStore(_name_of_this_start(store, rank, size), store)
        if torch.cuda.is_available():
            torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", "0")) % torch.cuda.device_count())
        distributed.init_process_group(
            backend, store=distributed.PrefixStore("group", store), rank=rank, world_size=size, timeout=_BACKEND_TIMEOUT
        )
    else:
        store = distributed.distributed_c10d._get_default_store()
    return Ranks(
        rank=distributed.get_rank(),
        size=distributed.get_world_size(),
        local_rank=int(os.environ.get("LOCAL_RANK", "0")),
        local_size=int(os.environ.get("LOCAL_WORLD_SIZE", "1")),
        _store=distributed.PrefixStore("foldwise", store),
        _control=distributed.new_group(backend="gloo", timeout=_BACKEND_TIMEOUT),
    )


def _name_of_this_start(store: Any, rank: int, size: int) -> str:
    """A name that all processes of this start share, and that no earlier start had.

    torchrun keeps its store when it starts processes again. What dead ones have left there, such as their addresses,
    would be taken for that of their successors.
    """
    name = secrets.token_hex(8)
    if rank > 0:
        store.set(f"hello/{rank}", name)
        own = _text_under(store, f"start/{name}")
        store.set(f"ready/{own}/{rank}", "")
        return own
    waiting = set(range(1, size))
    ends = time.monotonic() + _BACKEND_TIMEOUT.total_seconds()
    while waiting:
        for other in sorted(waiting):
            if store.check([f"hello/{other}"]):
                # This may be a dead one's greeting; then its successor's is found here in a moment.
                store.set(f"start/{store.get(f'hello/{other}').decode()}", name)
            if store.check([f"ready/{name}/{other}"]):
                waiting.remove(other)
        if time.monotonic() > ends:
            raise FoldwiseError(f"ranks {sorted(waiting)} of {size} did not come to the start of the training.")
        time.sleep(_SECONDS_BETWEEN_LOOKS / 5)
    return name


def _text_under(store: Any, key: str) -> str:
    ends = time.monotonic() + _BACKEND_TIMEOUT.total_seconds()
    while not store.check([key]):
        if time.monotonic() > ends:
            raise FoldwiseError("rank 0 did not come to the start of the training.")
        time.sleep(_SECONDS_BETWEEN_LOOKS / 5)
    return store.get(key).decode()


def sum_over_ranks(sums: Tensor) -> Tensor:
    """Sum over all processes, in every process; unchanged in a single one.

    Gradients are those of a loss that is the same in all processes and whose gradients are averaged over them
    afterwards, as `DistributedDataParallel` does.
    """
    return _SumOverRanks.apply(sums) if _is_initialised() and torch.distributed.get_world_size() > 1 else sums


def mean_over_all(total: Tensor, count: Tensor | int) -> Tensor:
    """``total / count`` with both summed over all processes, scaled so that the *mean over the processes* is that mean.

    Gradients are averaged over processes, and so are recorded losses; a process with a larger share of the batch
    thereby weighs more, and the result is that of one process with the whole batch.

    Args:
        total: a sum over the elements of this process, with its graph.
        count: how many they are; 0 counts as 1.
    """
    if not _is_initialised() or (size := torch.distributed.get_world_size()) == 1:
        return total / (count.clamp_min(1) if isinstance(count, Tensor) else max(1, count))
    if isinstance(count, Tensor):
        everywhere = count.detach().to(torch.float32, copy=True)
    else:
        everywhere = torch.full((), float(count), device=total.device)
    torch.distributed.all_reduce(everywhere)
    return size * total / everywhere.clamp_min(1)


class _SumOverRanks(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, sums: Tensor) -> Tensor:
        total = sums.detach().clone()
        torch.distributed.all_reduce(total)
        return total

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        # Every process has the same gradient of the sum: their sum is known without asking. The mean that follows
        # divides by the same number.
        return gradient * torch.distributed.get_world_size()
