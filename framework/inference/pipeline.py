"""Many cases through reading, a network and writing: the three overlap, memory is bounded, failures stay apart.

Reading and preprocessing of the next case, the network, and export of the previous case run at the same time:
readers and writers are threads, the network runs in the thread that calls. Why threads:
``docs/decisions/0009-prediction-overlaps-with-threads.md``.
"""

from __future__ import annotations

import queue
import threading
import traceback
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from framework.errors import CaseError, FoldwiseError
from framework.inference.out_of_memory import ran_out_of_memory

Item = TypeVar("Item")
Result = TypeVar("Result")

READING, PREDICTING, WRITING = "reading", "predicting", "writing"
"""The steps of a case, as `CaseFailure.step` names them."""

_SECONDS_BETWEEN_LOOKS = 0.1  # how long a request to stop may go unnoticed while nothing else happens


class StopPrediction(Exception):
    """Raised by the network function in the middle of a case, when `stop` has turned true."""


@dataclass(frozen=True)
class CaseFailure:
    """A case that could not be predicted.

    Attributes:
        case: its name.
        step: ``reading``, ``predicting`` or ``writing``.
        message: one line or a few for the user, without the name of the case.
        error: what was raised, without its traceback: that would keep the arrays of the case alive.
        details: the traceback as text.
    """

    case: str
    step: str
    message: str
    error: BaseException
    details: str

    @property
    def is_defect(self) -> bool:
        """Whether the error is not one that the project raises on purpose."""
        return not isinstance(self.error, (FoldwiseError, OSError)) and not ran_out_of_memory(self.error)


def predict_cases(
    cases: Sequence[str],
    read: Callable[[str], tuple[Item, Any]],
    network: Callable[[str, Item], Result],
    write: Callable[[str, Result, Any], None],
    *,
    num_readers: int = 1,
    num_writers: int = 1,
    prepare: Callable[[], None] | None = None,
    stop: Callable[[], bool] | None = None,
    on_case: Callable[[str, CaseFailure | None], None] | None = None,
) -> list[CaseFailure]:
    """Take every case through `read`, `network` and `write`.

    At most `num_readers` + 1 cases are being read or wait for the network, and at most `num_writers` + 1 are
    being written or wait for it. Cases go through the network as they are ready, so that one that is slow to read
    holds up no other. Whatever one of the three raises is the failure of that case, running out of memory
    included; the others go on.

    Args:
        read: case -> (input of the network, whatever `write` needs beside the logits); called in reader threads.
        network: case, input -> logits; called in this thread. It may raise `StopPrediction` when `stop` is true.
        write: case, logits, what `read` gave; called in writer threads.
        num_readers, num_writers: threads; with 0 the step is done in this thread, in turn.
        prepare: called once in this thread while the first cases are being read, such as to load the network.
            What it raises ends everything.
        stop: asked between cases; once it is true no case is begun, and those that have left the network are
            written.
        on_case: called in this thread for every case that is written (None) or has failed.

    Returns:
        The failures, in the order of `cases`. Cases that were not begun when `stop` came are no failures.

    Raises:
        KeyboardInterrupt, SystemExit: raised in this thread; writers end what they are writing, nothing else is
            begun.
    """
    run = _Run(cases, read, write, num_readers, num_writers, stop or (lambda: False))
    report = on_case or (lambda case, failure: None)
    failures: list[CaseFailure] = []

    def tell() -> None:
        for case, failure in run.finished():
            if failure is not None:
                failures.append(failure)
            report(case, failure)

    run.start()
    try:
        if prepare is not None and not run.is_stopped():
            prepare()
        while (entry := run.next_case()) is not None:
            tell()
            case, item, extra, has_failed = entry
            del entry
            if has_failed:
                continue
            try:
                result = network(case, item)
            except StopPrediction:
                break
            except Exception as error:
                run.note(case, _failure(case, PREDICTING, error))
                continue
            finally:
                del item  # a case that waits for a writer needs its image no more
            run.write(case, result, extra)
            del result, extra
        run.begin_no_more()
        while run.is_writing():
            tell()
        tell()
    finally:
        run.abandon()
    order = {case: index for index, case in enumerate(cases)}
    return sorted(failures, key=lambda failure: order[failure.case])


class _Run:
    """The threads and queues of one call."""

    def __init__(
        self,
        cases: Sequence[str],
        read: Callable[[str], tuple[Any, Any]],
        write: Callable[[str, Any, Any], None],
        num_readers: int,
        num_writers: int,
        stop: Callable[[], bool],
    ) -> None:
        self._read, self._write, self._stop = read, write, stop
        self._waiting = iter(cases)
        self._num_left = len(cases)
        self._lock = threading.Lock()
        self._no_more = threading.Event()
        self._dropped = threading.Event()
        self._to_predict: queue.Queue[tuple[str, Any, Any, bool]] = queue.Queue()
        self._to_write: queue.Queue[tuple[str, Any, Any] | None] = queue.Queue()
        self._finished: queue.Queue[tuple[str, CaseFailure | None]] = queue.Queue()
        # The room is taken before a case is read, and before it joins those to be written.
        self._room_to_read = threading.Semaphore(num_readers + 1)
        self._room_to_write = threading.Semaphore(num_writers + 1)
        self._readers = [threading.Thread(target=self._keep_reading, daemon=True) for _ in range(num_readers)]
        self._writers = [threading.Thread(target=self._keep_writing, daemon=True) for _ in range(num_writers)]

    def is_stopped(self) -> bool:
        return self._stop()

    def start(self) -> None:
        for thread in (*self._readers, *self._writers):
            thread.start()

    def next_case(self) -> tuple[str, Any, Any, bool] | None:
        """A case that is read: name, input, the rest, False; or one that failed: name, None, None, True.

        None when there are no more, or when a stop was asked for.
        """
        while self._num_left and not self._stop():
            if not self._readers:
                self._read_next()
            try:
                entry = self._to_predict.get(timeout=_SECONDS_BETWEEN_LOOKS)
            except queue.Empty:
                continue
            self._num_left -= 1
            self._room_to_read.release()
            return entry
        return None

    def write(self, case: str, result: Any, extra: Any) -> None:
        """Hand a case to the writers; waits while they have too many."""
        if not self._writers:
            self._write_one(case, result, extra)
            return
        self._room_to_write.acquire()
        self._to_write.put((case, result, extra))

    def note(self, case: str, failure: CaseFailure | None) -> None:
        self._finished.put((case, failure))

    def finished(self) -> Iterator[tuple[str, CaseFailure | None]]:
        """Cases that have come to their end since the last call."""
        while True:
            try:
                yield self._finished.get_nowait()
            except queue.Empty:
                return

    def begin_no_more(self) -> None:
        """Let threads end when they have ended what they were given."""
        self._no_more.set()
        for _ in self._readers:
            self._room_to_read.release()
        for _ in self._writers:
            self._to_write.put(None)

    def is_writing(self) -> bool:
        """Whether a writer has work; waits a moment for it."""
        for thread in self._writers:
            if thread.is_alive():
                thread.join(_SECONDS_BETWEEN_LOOKS)
                return True
        return False

    def abandon(self) -> None:
        """Drop what waits, and let no thread outlive the call: one that is in C++ when Python ends crashes it."""
        self._dropped.set()
        self.begin_no_more()
        for thread in (*self._writers, *self._readers):
            thread.join()

    def _keep_reading(self) -> None:
        while True:
            self._room_to_read.acquire()
            if self._no_more.is_set() or self._stop() or not self._read_next():
                return

    def _read_next(self) -> bool:
        """Read the next case; False if there is none."""
        with self._lock:
            case = next(self._waiting, None)
        if case is None:
            return False
        try:
            item, extra = self._read(case)
        except Exception as error:
            self.note(case, _failure(case, READING, error))
            self._to_predict.put((case, None, None, True))
        else:
            self._to_predict.put((case, item, extra, False))
        return True

    def _keep_writing(self) -> None:
        while (entry := self._to_write.get()) is not None:
            if not self._dropped.is_set():
                self._write_one(*entry)
            del entry
            self._room_to_write.release()

    def _write_one(self, case: str, result: Any, extra: Any) -> None:
        try:
            self._write(case, result, extra)
        except Exception as error:
            self.note(case, _failure(case, WRITING, error))
        else:
            self.note(case, None)


def _failure(case: str, step: str, error: BaseException) -> CaseFailure:
    details = "".join(traceback.format_exception(error))
    if isinstance(error, CaseError) and error.case == case:
        message = error.reason
    elif ran_out_of_memory(error):
        first_line = str(error).strip().partition("\n")[0]
        message = "not enough memory for this case" + (f" ({first_line})" if first_line else "")
    elif isinstance(error, FoldwiseError):
        message = str(error)
    else:
        message = f"{type(error).__name__}: {error}".strip().removesuffix(":")
    _forget_frames(error)
    return CaseFailure(case, step, message, error, details)


def _forget_frames(error: BaseException | None) -> None:
    """Frames hold the arrays of the case; an error that is kept until the end must not."""
    seen: set[int] = set()
    while error is not None and id(error) not in seen:
        seen.add(id(error))
        error.__traceback__ = None
        error = error.__cause__ or error.__context__
