"""Checkpoints are written beside the training, by a thread of their own."""

from __future__ import annotations

import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import torch

from framework.checkpoint import copy_checkpoint, plain_types, save_checkpoint
from framework.errors import WriteError

SECONDS_BEFORE_TRYING_AGAIN = (1.0, 3.0, 6.0)
"""A server that was away, or a disk that another program filled for a moment, should not end a training of days."""


class CheckpointWriter:
    """Copies the state of a training, which takes milliseconds, and writes the copy while the training goes on.

    At most one checkpoint is in flight, so memory holds one copy: a second `save` waits for the first. What goes
    wrong while writing is raised by the next call of any method, at the latest by `wait`. What the disk refuses is
    tried again a few times before that.
    """

    def __init__(self) -> None:
        self._thread: ThreadPoolExecutor | None = None
        self._jobs: list[Future[None]] = []
        self.longest_seconds = 0.0
        """What the slowest write has taken so far."""

    def save(self, path: Path, state: dict[str, Any]) -> None:
        """Write `state`, as it is now, to `path`."""
        self.wait()
        # Before the thread starts: what cannot be saved is raised where it was caused.
        self._run(self._write, path, on_host(plain_types(state)))

    def copy(self, source: Path, target: Path) -> None:
        """Give the checkpoint at `source` a second name, after everything before has been written."""
        self._run(_persistently, copy_checkpoint, source, target)

    def raise_error(self) -> None:
        """Raise what has gone wrong since the last call; does not wait."""
        for job in [job for job in self._jobs if job.done()]:
            self._jobs.remove(job)
            job.result()

    def wait(self) -> None:
        """Return when everything is on the disk."""
        while self._jobs:
            self._jobs.pop(0).result()

    def close(self) -> None:
        """`wait`, and end the thread."""
        try:
            self.wait()
        finally:
            if self._thread is not None:
                self._thread.shutdown()
                self._thread = None

    def _write(self, path: Path, state: dict[str, Any]) -> None:
        started = time.monotonic()
        _persistently(save_checkpoint, path, state)
        self.longest_seconds = max(self.longest_seconds, time.monotonic() - started)

    def _run(self, function: Callable[..., None], *arguments: Any) -> None:
        self.raise_error()
        if self._thread is None:
            self._thread = ThreadPoolExecutor(1, thread_name_prefix="checkpoint")
        # A step that fails keeps later ones from running: a checkpoint is not removed for one that was not written.
        earlier = list(self._jobs)

        def run_after_earlier() -> None:
            if all(job.exception() is None for job in earlier):
                function(*arguments)

        self._jobs.append(self._thread.submit(run_after_earlier))


def _persistently(write: Callable[..., None], *arguments: Any) -> None:
    """Call `write`; if the disk refuses, again after a while.

    Raises:
        WriteError: it refused every time.
    """
    for seconds in SECONDS_BEFORE_TRYING_AGAIN:
        try:
            return write(*arguments)
        except WriteError:
            time.sleep(seconds)
    try:
        return write(*arguments)
    except WriteError as error:
        raise WriteError(
            error.path,
            f"{error.reason} (tried {len(SECONDS_BEFORE_TRYING_AGAIN) + 1} times)",
            "The checkpoints that were there before are whole. When the disk takes files again, the same command with "
            "--c goes on from the newest one.",
        ) from error


def on_host(value: Any) -> Any:
    """A copy of plain types in which no tensor shares memory with the training's.

    Tensors that are one and the same, under several names, stay one.
    """
    copies: dict[tuple[Any, ...], torch.Tensor] = {}

    def copied(entry: Any) -> Any:
        if isinstance(entry, torch.Tensor):
            key = (entry.device, entry.data_ptr(), entry.dtype, entry.shape, entry.stride())
            if entry.numel() == 0 or key not in copies:
                copies[key] = entry.detach().to("cpu", copy=True)
            return copies[key]
        if isinstance(entry, dict):
            return {name: copied(each) for name, each in entry.items()}
        if isinstance(entry, (list, tuple)):
            return type(entry)(copied(each) for each in entry)
        return entry

    return copied(value)
