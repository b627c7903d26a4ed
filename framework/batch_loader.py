"""Batches made by worker processes, in the order of their numbers."""

from __future__ import annotations

import atexit
import multiprocessing
import pickle
import signal
import threading
import traceback
import weakref
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from multiprocessing.connection import wait
from typing import Any, Protocol

import torch
from torch.utils.data import DataLoader, Dataset

from framework.errors import FoldwiseError
from framework.worker_extensions import LoadedExtensions

MakeBatch = Callable[[int], Any]
_ENDLESS = 2**62


class Batches(Protocol):
    """An endless series of batches with a position."""

    def __next__(self) -> Any: ...
    def seek(self, position: int) -> None: ...
    def close(self) -> None: ...


class BatchLoader:
    """Batch number 0, 1, 2, ... of a function ``make_batch(number)``, prepared ahead by worker processes.

    Because a batch is a function of its number, the loader's whole state is one integer: `seek` jumps
    anywhere at once, and the number of workers does not change what is delivered.

    Args:
        make_batch: a pure function; it is copied into the workers, so it must be picklable where
            processes are spawned.
        num_workers: 0 makes batches in this process.
        pin_memory: place tensors in page-locked memory, for copies to a GPU.
        cycle: make only batches 0 ... cycle-1, over and over.
        start_method: of the workers, ``fork`` or ``spawn``; by default the system's own.
    """

    def __init__(
        self,
        make_batch: MakeBatch,
        *,
        num_workers: int = 0,
        pin_memory: bool = False,
        cycle: int | None = None,
        start_method: str | None = None,
    ) -> None:
        self.make_batch = make_batch
        self.num_workers = num_workers
        self.pin_memory = pin_memory
        self.cycle = cycle
        self.start_method = start_method
        self.position = 0
        self._iterator: Iterator[Any] | None = None
        self._at_exit = partial(_kill_workers, weakref.ref(self))

    def __next__(self) -> Any:
        if self._iterator is None:
            self._iterator = self._start()
            # Registered after torch's own clean-up, so called before it.
            atexit.register(self._at_exit)
        for worker in getattr(self._iterator, "_workers", ()):
            # Told at once, and not only when its share of the queue is used up.
            if not worker.is_alive():
                raise self._ended_by_the_system(f"process {worker.pid} ended with code {worker.exitcode}")
        try:
            batch = next(self._iterator)
        except (RuntimeError, OSError, EOFError) as error:
            # What a worker has made lies in memory that it still holds: its death may also show as a connection
            # that nobody answers.
            if "DataLoader worker" not in str(error) and not self._has_lost_a_worker():
                raise
            raise self._ended_by_the_system(str(error) or type(error).__name__) from error
        if isinstance(batch, _Failure):
            batch.raise_here()
        self.position += 1
        return batch

    def seek(self, position: int) -> None:
        """The next batch is number `position`."""
        if position != self.position:
            self.close()
            self.position = position

    def close(self) -> None:
        """End the workers; the position is kept."""
        atexit.unregister(self._at_exit)
        iterator, self._iterator = self._iterator, None
        shut_down = getattr(iterator, "_shutdown_workers", None)
        if shut_down is not None:
            shut_down()

    def _start(self) -> Iterator[Any]:
        numbers = range(self.position, _ENDLESS)
        series = _Series(self.make_batch, self.cycle)
        if self.num_workers == 0:
            return map(with_one_thread(series.make), numbers)
        loader = DataLoader(
            series,
            sampler=numbers,
            batch_size=None,
            num_workers=self.num_workers,
            prefetch_factor=2,
            pin_memory=self.pin_memory,
            worker_init_fn=_start_worker,
            multiprocessing_context=self.start_method,
        )
        if not hasattr(signal, "SIGCHLD") or threading.current_thread() is not threading.main_thread():
            return self._started(loader)
        # torch would raise the death of a worker in the midst of whatever runs then, an update of the weights
        # or the writing of a checkpoint. Without its handler the death is seen when a batch is asked for.
        handler = signal.getsignal(signal.SIGCHLD)
        iterator = self._started(loader)
        if handler is not None:  # None: set by a library, not from Python
            signal.signal(signal.SIGCHLD, handler)
        return iterator

    def _started(self, loader: DataLoader) -> Iterator[Any]:
        try:
            return iter(loader)
        except (pickle.PicklingError, AttributeError, TypeError) as error:
            if (self.start_method or multiprocessing.get_start_method()) == "fork":
                raise  # nothing is pickled then
            raise FoldwiseError(
                f"{type(self.make_batch).__name__}, which makes the batches, cannot be sent to a data worker: {error}. "
                "Workers start afresh here, so what build_batches returns must be a function or an object of a class "
                "at the top level of a file, without open files or lambdas. Or set training.num_workers to 0."
            ) from error

    def _has_lost_a_worker(self) -> bool:
        sentinels = [worker.sentinel for worker in getattr(self._iterator, "_workers", ())]
        return bool(sentinels and wait(sentinels, timeout=1.0))  # it may be dying just now

    def _ended_by_the_system(self, what: str) -> FoldwiseError:
        return FoldwiseError(
            f"a data worker was ended by the system when batch {self.position} was due ({what}). Most often the "
            "machine has run out of memory: lower training.num_workers, or close other programs."
        )


class IterableBatches:
    """Any iterable as endless `Batches`; it starts over when it ends, and is skipped through to be resumed."""

    def __init__(self, iterable: Iterable[Any]) -> None:
        self.iterable = iterable
        self.position = 0
        self._iterator: Iterator[Any] | None = None

    def __next__(self) -> Any:
        if self._iterator is None:
            self._iterator = iter(self.iterable)
            wanted, self.position = self.position, 0
            self._skip_to(wanted)
        try:
            batch = next(self._iterator)
        except StopIteration:
            self._iterator = iter(self.iterable)
            batch = next(self._iterator, _NOTHING)
            if batch is _NOTHING:
                raise FoldwiseError("build_batches returned an iterable that yields nothing.") from None
        self.position += 1
        return batch

    def seek(self, position: int) -> None:
        if self._iterator is None or position < self.position:
            self._iterator, self.position = None, position
        else:
            self._skip_to(position)

    def close(self) -> None:
        self._iterator = None

    def _skip_to(self, position: int) -> None:
        while self.position < position:
            next(self)


def as_batches(source: Any, *, num_workers: int, pin_memory: bool, cycle: int | None = None) -> Batches:
    """What `build_batches` returned, as `Batches`: a function of the number, an iterable, or ready `Batches`."""
    if all(hasattr(source, name) for name in ("__next__", "seek", "close")):
        return source
    if callable(source):
        return BatchLoader(source, num_workers=num_workers, pin_memory=pin_memory, cycle=cycle)
    if isinstance(source, Iterable):
        return IterableBatches(source)
    raise FoldwiseError(
        f"build_batches returned a {type(source).__name__}; expected a function make_batch(iteration), or an iterable."
    )


_NOTHING = object()


class _Series(Dataset):
    """``make_batch`` as torch's DataLoader wants it."""

    def __init__(self, make_batch: MakeBatch, cycle: int | None) -> None:
        self.make_batch = make_batch
        self.cycle = cycle

    def __reduce__(self) -> Any:
        return _series, (LoadedExtensions(), self.make_batch, self.cycle)

    def make(self, number: int) -> Any:
        return self.make_batch(number % self.cycle if self.cycle else number)

    def __getitem__(self, number: int) -> Any:
        try:
            return self.make(number)
        except Exception as error:
            # Sent as a value: the loader's own way would lose the type and the fields of the error.
            return _Failure(error)


def _series(_: LoadedExtensions, make_batch: MakeBatch, cycle: int | None) -> _Series:
    return _Series(make_batch, cycle)


def with_one_thread(make: Callable[[Any], Any]) -> Callable[[Any], Any]:
    """The same function computed as workers do: sums over several threads are rounded differently."""

    def make_with_one_thread(argument: Any) -> Any:
        threads = torch.get_num_threads()
        torch.set_num_threads(1)
        try:
            return make(argument)
        finally:
            torch.set_num_threads(threads)

    return make_with_one_thread


class _Failure:
    """An exception on its way from a worker to the main process, with the worker's traceback as text."""

    def __init__(self, error: Exception) -> None:
        self.trace = "".join(traceback.format_exception(error))
        try:
            pickle.loads(pickle.dumps(error))
            self.error = error
        except Exception:
            self.error = RuntimeError(f"{type(error).__name__}: {error}")

    def raise_here(self) -> None:
        if not isinstance(self.error, FoldwiseError):
            # Shown below the message by Python's own traceback; a user's mistake needs none.
            note = f"In a data worker:\n{self.trace}"
            if hasattr(self.error, "add_note"):
                self.error.add_note(note)
            else:
                self.error = RuntimeError(f"{self.error}\n{note}")
        raise self.error


def _kill_workers(loader: weakref.ref[BatchLoader]) -> None:
    # Where nobody called `close`, Python would wait for ever at its end for workers that ignore SIGTERM.
    for worker in getattr(getattr(loader(), "_iterator", None), "_workers", ()):
        worker.kill()


def _start_worker(worker: int) -> None:
    # A scheduler signals the whole process group. The main process decides what a signal means; a worker
    # that died of it first would turn an orderly stop into an error.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    if hasattr(signal, "SIGUSR1"):
        signal.signal(signal.SIGUSR1, signal.SIG_IGN)
    torch.set_num_threads(1)
