"""A process that hangs ends the run with its name, and not with silence."""

from __future__ import annotations

import os
import socket
import sys
import threading
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

from framework.distributed import Ranks
from framework.hook import Hook
from framework.pulse import PULSE

if TYPE_CHECKING:
    from framework.base_trainer import BaseTrainer

_MINUTE = 60.0


class RankWatch(Hook):
    """End a run of several processes when one of them has not moved for ``training.rank_timeout_minutes``.

    A process that hangs, on a dead file system for example, keeps all others waiting in the middle of a step, where
    no exception ever comes. A thread of each process tells the others how often its work has moved on
    (`framework.pulse`); rank 0 looks at all of them and rank 1 looks at rank 0. The one that notices says which process
    it is and where it stood, and ends with exit code 1; torchrun then ends the others, and starts the run again
    from its last checkpoint if it was told to (``--max-restarts``).

    A request to stop reaches the others on the same way. Between two steps they would have agreed on it anyway, but
    the final validation has no steps.
    """

    priority = 3
    seconds_between_looks = 2.0

    def __init__(self) -> None:
        self._leave = threading.Event()
        self._thread: threading.Thread | None = None

    def on_train_start(self, trainer: BaseTrainer) -> None:
        if trainer.ranks.size > 1:
            self._leave.clear()
            # Before the first look: a process that hangs soon after this has begun to train, and is to be called so.
            trainer.ranks.put(f"pulse/{trainer.ranks.rank}", own_pulse(0))
            timeout = _MINUTE * trainer.settings.rank_timeout_minutes
            self._thread = threading.Thread(
                target=self._watch, args=(trainer, trainer.ranks, timeout), name="rank watch", daemon=True
            )
            self._thread.start()

    def on_teardown(self, trainer: BaseTrainer) -> None:
        if self._thread is not None:
            self._leave.set()
            self._thread.join()
            self._thread = None

    def _watch(self, trainer: BaseTrainer, ranks: Ranks, timeout: float) -> None:
        watched = range(1, ranks.size) if ranks.is_main else range(1 if ranks.rank == 1 else 0)
        seen = {rank: Sighting(time.monotonic()) for rank in watched}
        tick = 0
        try:
            while not self._leave.wait(min(self.seconds_between_looks, timeout / 4)):
                tick += 1
                ranks.put(f"pulse/{ranks.rank}", own_pulse(tick))
                for rank, sighting in seen.items():
                    complaint = sighting.complaint(ranks.look_up(f"pulse/{rank}"), time.monotonic(), timeout)
                    if complaint:
                        self._end(ranks, f"rank {rank} {complaint}")
                _share_stop(trainer, ranks)
            ranks.put(f"pulse/{ranks.rank}", own_pulse(None))
        except RuntimeError as error:  # the launcher, which keeps the store, has ended
            if not self._leave.is_set():
                self._end(ranks, f"the launcher of this run does not answer ({str(error).splitlines()[0]})")

    def _end(self, ranks: Ranks, reason: str) -> None:
        message = (
            f"{reason}. The run ends here, on rank {ranks.rank}; run the same command with --c, it goes on from the "
            "last checkpoint. If the process was only slow, raise training.rank_timeout_minutes."
        )
        print(f"error: {message}", file=sys.stderr, flush=True)
        ranks.note_failure(TimeoutError(reason))
        # The main thread waits for the other process and cannot be woken.
        os._exit(1)


@dataclass
class Sighting:
    """What was last heard of a process, and since when it has been like that."""

    since: float
    answered: float = 0.0
    tick: int = -1
    beats: int = -1

    def complaint(self, pulse: dict[str, object] | None, now: float, timeout: float) -> str:
        """What is wrong with the process; empty if nothing.

        Args:
            pulse: what it last published, see `own_pulse`; None if it has published nothing yet.
            now: seconds.
            timeout: how long it may stand still, seconds.
        """
        self.answered = self.answered or now
        if pulse is None:
            return "" if now - self.since <= timeout else f"has not begun to train within {timeout:.0f} s"
        if pulse["left"]:
            return ""
        where = f"{pulse['host']}, process {pulse['process']}, last seen at: {pulse['doing']}"
        if pulse["tick"] != self.tick:
            self.tick, self.answered = int(str(pulse["tick"])), now
        elif now - self.answered > timeout:
            return f"has not answered for {timeout:.0f} s ({where})"
        if pulse["beats"] != self.beats or pulse["waits"]:
            self.beats, self.since = int(str(pulse["beats"])), now
        elif now - self.since > timeout:
            return f"has not moved on for {timeout:.0f} s ({where})"
        return ""


def _share_stop(trainer: BaseTrainer, ranks: Ranks) -> None:
    if trainer.interrupted:
        ranks.put("stop", trainer.stop_reason)
    elif (reason := ranks.look_up("stop")) is not None:
        trainer.request_stop(str(reason), immediately=True)


def own_pulse(tick: int | None) -> dict[str, object]:
    """What this process tells the others; None for the last time, when it leaves."""
    return {
        "left": tick is None,
        "tick": tick,
        "beats": PULSE.beats,
        "waits": PULSE.is_waiting,
        "doing": PULSE.doing,
        "host": socket.gethostname(),
        "process": os.getpid(),
    }
