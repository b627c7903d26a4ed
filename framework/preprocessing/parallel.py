"""One function over many cases in worker processes; a case that fails does not stop the others."""

from __future__ import annotations

import multiprocessing
import os
import sys
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future, ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from types import TracebackType
from typing import Any

from framework.errors import CaseError, DatasetError, FoldwiseError

Progress = Callable[[str, int, int], None]
"""Told after every case: what is being done, cases done, cases in all."""


class CasePool:
    """Worker processes that stay for as long as the pool is open, so that they start only once.

    They are forked where the system allows it: they share what is imported already and start in milliseconds.
    With one process everything runs in this one.
    """

    def __init__(self, num_processes: int | None = None) -> None:
        self.num_processes = usable_cpus() if num_processes is None else max(1, num_processes)
        self._executor: ProcessPoolExecutor | None = None

    def __enter__(self) -> CasePool:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if self._executor is not None:
            self._executor.shutdown(wait=True, cancel_futures=True)
            self._executor = None

    def run(
        self,
        function: Callable[..., Any],
        arguments: Mapping[str, tuple[Any, ...]],
        what: str = "",
        progress: Progress | None = None,
        on_result: Callable[[str, Any], None] | None = None,
    ) -> dict[str, Any]:
        """``function(*arguments[case])`` for every case.

        Args:
            function: of a module's top level; its arguments and results travel between processes.
            what: what is done, in words, for `progress` and for messages.
            on_result: called in this process as soon as a case is done.

        Returns:
            The results in the order of `arguments`.

        Raises:
            DatasetError: lists every case that cannot be used, with the reason; all others were done.
            Exception: a defect, after all other cases were done.
        """
        results: dict[str, Any] = {}
        reasons: dict[str, str] = {}
        defect: BaseException | None = None
        for case, result, error in self._outcomes(function, arguments):
            if error is None:
                results[case] = result
                if on_result is not None:
                    on_result(case, result)
            elif isinstance(error, FoldwiseError):
                reasons[case] = error.reason if isinstance(error, CaseError) else str(error)
            elif isinstance(error, MemoryError):
                reasons[case] = f"there is not enough memory for it ({error}). {_FEWER_PROCESSES}"
            else:
                defect = error
            if progress is not None:
                progress(what, len(results) + len(reasons), len(arguments))
        if reasons:
            raise DatasetError(_report(what, arguments, reasons, defect))
        if defect is not None:
            raise defect
        return {case: results[case] for case in arguments}

    def _outcomes(
        self, function: Callable[..., Any], arguments: Mapping[str, tuple[Any, ...]]
    ) -> Iterator[tuple[str, Any, BaseException | None]]:
        """(case, result, error), in the order in which cases are done."""
        if self.num_processes == 1 or len(arguments) < 2:
            for case, values in arguments.items():
                try:
                    yield case, function(*values), None
                except Exception as error:
                    yield case, None, error
            return
        executor = self._opened()
        futures: dict[Future[Any], str] = {
            executor.submit(function, *values): case for case, values in arguments.items()
        }
        interrupted = []
        for future in as_completed(futures):
            case, failure = futures[future], future.exception()
            if isinstance(failure, BrokenProcessPool):
                interrupted.append(case)
            else:
                yield case, None if failure else future.result(), failure
        if interrupted:
            self._executor = None
        for case in interrupted:
            # The system ended a worker, most likely because memory ran out. One case at a time needs less,
            # and shows which case it is.
            with ProcessPoolExecutor(1, mp_context=_context(), initializer=_prepare_worker) as single:
                future = single.submit(function, *arguments[case])
                failure = future.exception()
                if isinstance(failure, BrokenProcessPool):
                    failure = CaseError(case, f"the system ended the process that did it. {_FEWER_PROCESSES}")
                yield case, None if failure else future.result(), failure

    def _opened(self) -> ProcessPoolExecutor:
        if self._executor is None:
            if _context().get_start_method() == "fork":
                _import_what_workers_need()
            self._executor = ProcessPoolExecutor(self.num_processes, mp_context=_context(), initializer=_prepare_worker)
        return self._executor


def usable_cpus() -> int:
    """Processors that this process may use; a batch system may grant fewer than the machine has."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


_FEWER_PROCESSES = "Close other programs, or use fewer processes (-np 1)."


def _context() -> Any:
    # On macOS forking is offered, but system libraries do not survive it.
    forks = sys.platform not in ("darwin", "win32") and "fork" in multiprocessing.get_all_start_methods()
    return multiprocessing.get_context("fork" if forks else "spawn")


def _import_what_workers_need() -> None:
    """Imported once here, it is there in all forked workers."""
    import blosc2  # noqa: F401
    import SimpleITK  # noqa: F401


def _prepare_worker() -> None:
    # Every core has a worker already; threads within workers would only wait for each other.
    import SimpleITK

    SimpleITK.ProcessObject.SetGlobalDefaultNumberOfThreads(1)


def _report(what: str, arguments: Mapping[str, Any], reasons: Mapping[str, str], defect: BaseException | None) -> str:
    lines = [f"{len(reasons)} of {len(arguments)} cases cannot be used{f' ({what})' if what else ''}:"]
    lines += [f"  case '{case}': {reasons[case]}" for case in arguments if case in reasons]
    if defect is not None:
        lines.append(f"  and one case met a defect: {type(defect).__name__}: {defect}")
    lines.append(
        f"The other {len(arguments) - len(reasons)} cases are fine. Correct these and run the same command again."
    )
    return "\n".join(lines)
