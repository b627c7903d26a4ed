"""One function over many cases in worker processes; a case that fails does not stop the others."""

from __future__ import annotations

import importlib
import multiprocessing
import os
import signal
import sys
import threading
import warnings
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from multiprocessing import connection
from types import TracebackType
from typing import Any

from framework.allocator import keep_freed_memory
from framework.data.memory import available_memory
from framework.errors import CaseError, CaseWarning, FoldwiseError
from framework.preprocessing.case_reports import CasesError
from framework.processors import usable_cpus

Progress = Callable[[str, int, int], None]
"""Told before the first and after every case: what is being done, cases done, cases in all."""

_Outcome = tuple[Any, Exception | None, list[str]]
"""Result, or why there is none; and what the case warned of."""


class CasePool:
    """Worker processes that stay for as long as the pool is open, so that they start only once.

    They are forked where the system allows it: they share what is imported already and start in milliseconds.
    They end when this process ends, even if it is killed. With one process everything runs in this one.
    """

    def __init__(self, num_processes: int | None = None) -> None:
        self.num_processes = usable_cpus() if num_processes is None else max(1, num_processes)
        self._chosen_by_user = num_processes is not None
        self._warned: dict[str, list[str]] = {}
        self._warned_before: set[tuple[str, str]] = set()
        self._executor: ProcessPoolExecutor | None = None
        self._wanted_next: tuple[str, ...] = ()
        self._importing: threading.Thread | None = None

    def __enter__(self) -> CasePool:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._close_workers()

    def import_meanwhile(self, *modules: str) -> None:
        """During the next run this process, which only waits then, imports what the run after that needs.

        The workers of that run are forked with it; each would have to import it otherwise.
        """
        self._wanted_next = modules if _forks() else ()

    def run(
        self,
        function: Callable[..., Any],
        arguments: Mapping[str, tuple[Any, ...]],
        what: str = "",
        progress: Progress | None = None,
        on_result: Callable[[str, Any], None] | None = None,
        bytes_per_case: float = 0,
    ) -> dict[str, Any]:
        """``function(*arguments[case])`` for every case.

        Args:
            function: of a module's top level; its arguments and results travel between processes.
            what: what is done, in words, for `progress` and for messages.
            on_result: called in this process as soon as a case is done.
            bytes_per_case: memory that the work on the largest case takes. No more cases are in work at a time
                than fit, unless the user chose the number of processes.

        Returns:
            The results in the order of `arguments`.

        Raises:
            CasesError: lists every case that cannot be used, with the reason; all others were done.
            Exception: a defect, after all other cases were done.
        """
        results: dict[str, Any] = {}
        reasons: dict[str, str] = {}
        defect: Exception | None = None
        if self._importing is not None:
            self._close_workers()
        if progress is not None:
            progress(what, 0, len(arguments))
        limit = self._cases_that_fit(bytes_per_case)
        for done, (case, (result, error, texts)) in enumerate(self._outcomes(function, arguments, limit), 1):
            for text in texts:
                self._note(case, text)
            if error is None:
                results[case] = result
                if on_result is not None:
                    on_result(case, result)
            elif isinstance(error, (FoldwiseError, MemoryError, OSError)):
                reasons[case] = _reason(error)
            else:
                defect = error
            if progress is not None:
                progress(what, done, len(arguments))
        if reasons:
            ordered = {case: reasons[case] for case in arguments if case in reasons}
            raise CasesError(what, ordered, len(arguments), defect)
        if defect is not None:
            raise defect
        return {case: results[case] for case in arguments}

    def take_warnings(self) -> dict[str, list[str]]:
        """For each case the texts of its CaseWarnings that have not been taken yet; no text comes twice."""
        taken, self._warned = self._warned, {}
        return taken

    def _cases_that_fit(self, bytes_per_case: float) -> int:
        if self._chosen_by_user or not bytes_per_case:
            return self.num_processes
        # Where the system does not tell how much memory there is, one at a time.
        return max(1, min(self.num_processes, int(available_memory() / bytes_per_case)))

    def _note(self, case: str, text: str) -> None:
        if (case, text) not in self._warned_before:
            self._warned_before.add((case, text))
            self._warned.setdefault(case, []).append(text)

    def _outcomes(
        self, function: Callable[..., Any], arguments: Mapping[str, tuple[Any, ...]], limit: int
    ) -> Iterator[tuple[str, _Outcome]]:
        """(case, outcome), in the order in which cases are done."""
        if limit == 1 or len(arguments) < 2:
            for case, values in arguments.items():
                try:
                    yield case, _call(function, values)
                except Exception as error:  # a defect
                    yield case, (None, error, [])
            return
        waiting = deque(arguments)
        in_work: dict[Future[_Outcome], str] = {}
        while waiting or in_work:
            # One case more than there are workers lies ready, so that none of them waits for this process.
            ready = 1 if limit == self.num_processes else 0
            while waiting and len(in_work) < limit + ready:
                case = waiting.popleft()
                in_work[self._submitted(function, arguments[case])] = case
            outcomes = {
                in_work.pop(future): _outcome_of(future) for future in wait(in_work, return_when=FIRST_COMPLETED).done
            }
            if None in outcomes.values():
                # The system ended a worker, most likely because memory ran out, and the work of all others is
                # lost with it. Fewer at a time need less; those that were in work are done again alone, which
                # shows which of them it is.
                outcomes |= {case: _outcome_of(future) for future, case in in_work.items()}
                in_work.clear()
                self._close_workers()
                limit = max(1, limit // 2)
            for case, outcome in outcomes.items():
                yield case, outcome or _outcome_alone(function, case, arguments[case])

    def _submitted(self, function: Callable[..., Any], values: tuple[Any, ...]) -> Future[_Outcome]:
        try:
            submitted = self._opened().submit(_call, function, values)
        except BrokenProcessPool:  # a worker was ended while it had nothing to do
            self._close_workers()
            submitted = self._opened().submit(_call, function, values)
        if self._wanted_next:
            # All workers were forked with the first case: a fork while something is imported would hang.
            self._importing = threading.Thread(target=_import, args=(self._wanted_next,), daemon=True)
            self._importing.start()
            self._wanted_next = ()
        return submitted

    def _opened(self) -> ProcessPoolExecutor:
        if self._executor is None:
            if _forks():
                import SimpleITK  # noqa: F401  imported once here, it is there in all workers
            self._executor = _executor(self.num_processes)
        return self._executor

    def _close_workers(self) -> None:
        if self._importing is not None:
            self._importing.join()
            self._importing = None
        if self._executor is not None:
            self._executor.shutdown(wait=True, cancel_futures=True)
            self._executor = None


_LARGEST_KEPT = 1 << 26  # bytes; above the slabs that the work is done in, below the images
_FEWER_PROCESSES = "Close other programs, or use fewer processes (-np 1)."


def _call(function: Callable[..., Any], values: tuple[Any, ...]) -> _Outcome:
    """Call the function and keep its CaseWarnings, in whatever process this is. Defects are raised."""
    texts: list[str] = []
    with warnings.catch_warnings():
        warnings.simplefilter("always", CaseWarning)
        show_others = warnings.showwarning

        def keep(message: Warning | str, category: type[Warning], *where: Any, **more: Any) -> None:
            if issubclass(category, CaseWarning):
                texts.append(str(message))
            else:
                show_others(message, category, *where, **more)

        warnings.showwarning = keep
        try:
            return function(*values), None, texts
        except (FoldwiseError, MemoryError, OSError) as error:
            return None, error, texts


def _outcome_of(future: Future[_Outcome]) -> _Outcome | None:
    """Of a case that is done, waited for if need be; None if the worker was ended."""
    try:
        return future.result()
    except BrokenProcessPool:
        return None
    except Exception as error:  # a defect
        return None, error, []


def _outcome_alone(function: Callable[..., Any], case: str, values: tuple[Any, ...]) -> _Outcome:
    """As `_call`, in a process of its own, so that its end is the end of this case only."""
    with _executor(1) as single:
        outcome = _outcome_of(single.submit(_call, function, values))
    if outcome is None:
        return None, CaseError(case, f"the system ended the process that did it. {_FEWER_PROCESSES}"), []
    result, error, texts = outcome
    interrupted = "the system ended a process while this case was in work, perhaps because memory ran out"
    return result, error, [*texts, f"case '{case}': {interrupted}; it was done again, alone"]


def _reason(error: Exception) -> str:
    if isinstance(error, CaseError):
        return error.reason
    if isinstance(error, MemoryError):
        return f"there is not enough memory for it ({error}). {_FEWER_PROCESSES}"
    if isinstance(error, OSError) and error.filename is not None:
        return f"{error.filename}: {error.strerror}"
    return str(error)


def _executor(num_processes: int) -> ProcessPoolExecutor:
    return ProcessPoolExecutor(num_processes, mp_context=_context(), initializer=_prepare_worker)


def _forks() -> bool:
    # On macOS forking is offered, but system libraries do not survive it.
    return sys.platform not in ("darwin", "win32") and "fork" in multiprocessing.get_all_start_methods()


def _context() -> Any:
    return multiprocessing.get_context("fork" if _forks() else "spawn")


def _import(modules: Sequence[str]) -> None:
    for module in modules:
        importlib.import_module(module)


def _prepare_worker() -> None:
    import SimpleITK

    # Every core has a worker already; threads within workers would only wait for each other.
    SimpleITK.ProcessObject.SetGlobalDefaultNumberOfThreads(1)
    keep_freed_memory(_LARGEST_KEPT)
    # Ctrl-C reaches the workers too: they end without a traceback each, since every write is atomic.
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    """Without this, workers of a process that was killed would wait for their next case for ever."""
    parent = multiprocessing.parent_process()
    assert parent is not None
    connection.wait([parent.sentinel])
    os._exit(1)
