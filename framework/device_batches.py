"""Batches on the device that trains, the next one prepared while the current one is used."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import nullcontext
from typing import Any

import torch

from framework.batch_loader import Batches, as_batches, with_one_thread
from framework.device import Execution, tensors_in, to_device


class DeviceBatches:
    """What another series of `Batches` delivers, moved to a device and finished there.

    With `ahead`, a thread copies and finishes the next batch while the current one is used. On CUDA it works
    in a stream of its own, so that the loop waits neither for the copy nor for what `finish` waits for.
    The position is that of the batches handed out: what was prepared ahead and not used is made again.

    Args:
        batches: the series, on the CPU (or on the device, if its cases are there).
        device: where the loop wants its batches.
        finish: applied on the device to what was moved; None for batches that are complete.
        ahead: prepare one batch in advance.
    """

    def __init__(
        self,
        batches: Batches,
        device: torch.device,
        *,
        finish: Callable[[Any], Any] | None = None,
        ahead: bool = False,
    ) -> None:
        self.batches = batches
        self.device = device
        # On a CPU it must round as a worker would, that is with one thread.
        self.finish = with_one_thread(finish) if finish is not None and device.type == "cpu" else finish
        self.ahead = ahead
        self.position = 0
        self._is_placed = True  # `batches` stands where `position` says, but for the batch made ahead
        self._thread: ThreadPoolExecutor | None = None
        self._next: Future[tuple[Any, Any]] | None = None
        self._stream = None
        if ahead and device.type == "cuda":
            self._stream = torch.cuda.Stream(device)
            self._stream.wait_stream(torch.cuda.current_stream(device))  # for cases that were copied there before

    def __next__(self) -> Any:
        if not self._is_placed:
            self.batches.seek(self.position)
            self._is_placed = True
        # The first one is made by this thread: workers should be started by the main thread.
        batch, ready = self._prepare() if self._next is None else self._next.result()
        if self.ahead:
            self._thread = self._thread or ThreadPoolExecutor(1, "batch-ahead")
            self._next = self._thread.submit(self._prepare)
        self.position += 1
        if ready is not None:
            current = torch.cuda.current_stream(self.device)
            current.wait_event(ready)
            for tensor in tensors_in(batch):
                tensor.record_stream(current)  # its memory is not reused before this stream is done with it
        return batch

    def seek(self, position: int) -> None:
        """The next batch is number `position`."""
        if position != self.position:
            self._drop_next()
            self.position, self._is_placed = position, False

    def close(self) -> None:
        """End the thread and the workers; the position is kept."""
        self._drop_next()
        if self._thread is not None:
            self._thread.shutdown()
            self._thread = None
        self.batches.close()

    def _prepare(self) -> tuple[Any, Any]:
        """A batch on the device, and the event after which it can be used."""
        with nullcontext() if self._stream is None else torch.cuda.stream(self._stream):
            batch = to_device(next(self.batches), self.device)
            if self.finish is not None:
                batch = self.finish(batch)
            return batch, None if self._stream is None else self._stream.record_event()

    def _drop_next(self) -> None:
        if self._next is not None:
            if not self._next.cancel():
                wait([self._next])
            self._next, self._is_placed = None, False


def batches_on_device(
    source: Any, device: torch.device, execution: Execution, *, cycle: int | None = None
) -> DeviceBatches:
    """What `build_batches` returned, as batches on the device; one is prepared ahead if it is not the CPU.

    A function `make_batch(number)` may be an object with two halves, ``read(number)`` and ``finish(voxels)``:
    if its ``finishes_on_device`` is true and the execution wants it, workers only do the first and the second
    runs on the device. An object whose ``in_this_process`` is true gets no workers.

    Args:
        source: see `as_batches`; None is an empty series.
        cycle: make only batches 0 ... cycle-1, over and over, with one worker at most; for validation.
    """
    workers, finish = execution.num_workers, None
    if cycle is not None:
        workers = min(1, workers)
    if getattr(source, "in_this_process", False):
        workers = 0
    if execution.finish_on_device and getattr(source, "finishes_on_device", False):
        source, finish = source.read, source.finish
    pinned = device.type == "cuda"
    batches = as_batches(() if source is None else source, num_workers=workers, pin_memory=pinned, cycle=cycle)
    return DeviceBatches(batches, device, finish=finish, ahead=execution.finish_on_device)
