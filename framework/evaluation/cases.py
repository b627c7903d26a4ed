"""The same work for many cases, several at once; a case that fails does not stop the others."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass, field
from typing import Generic, TypeVar

from framework.errors import CaseError, FoldwiseError

Result = TypeVar("Result")
Progress = Callable[[str, int, int], None]
"""Told after every case, and before the first: what is done, cases done, cases in all."""


@dataclass
class Outcome(Generic[Result]):
    """What came of each case."""

    results: dict[str, Result] = field(default_factory=dict)
    failures: dict[str, str] = field(default_factory=dict)
    """For each case that failed, why."""

    def failure_text(self, what: str) -> str:
        """One line for each case that failed."""
        num_cases = len(self.failures) + len(self.results)
        lines = [f"{what} failed for {len(self.failures)} of {num_cases} case(s):"]
        return "\n".join([*lines, *(f"  {case}: {reason}" for case, reason in self.failures.items())])

    def or_error(self, what: str) -> dict[str, Result]:
        """The results.

        Raises:
            FoldwiseError: a case failed; lists all that did.
        """
        if self.failures:
            raise FoldwiseError(self.failure_text(what))
        return self.results


def for_each_case(
    cases: Iterable[str],
    work: Callable[[str], Result],
    *,
    num_threads: int = 1,
    what: str = "",
    progress: Progress | None = None,
) -> Outcome[Result]:
    """``work(case)`` for every case; results and failures in the order of `cases`.

    Only errors that the project raises on purpose, and those of files and memory, count as failures of a case; any
    other error is a defect and ends the work.
    """
    names = list(cases)
    done: Outcome[Result] = Outcome()
    if progress:
        progress(what, 0, len(names))
    pool = ThreadPoolExecutor(max(1, num_threads))
    try:
        running = {pool.submit(work, case): case for case in names}
        for number, future in enumerate(as_completed(running), start=1):
            case = running.pop(future)
            try:
                done.results[case] = future.result()
            except CaseError as error:
                done.failures[case] = error.reason
            except (FoldwiseError, OSError) as error:
                done.failures[case] = str(error) or type(error).__name__
            except MemoryError:
                done.failures[case] = "there was not enough memory. Use fewer at once: -np 1."
            if progress:
                progress(what, number, len(names))
    finally:
        pool.shutdown(cancel_futures=True)
    return Outcome(_ordered(done.results, names), _ordered(done.failures, names))


def _ordered(values: dict[str, Result], names: list[str]) -> dict[str, Result]:
    return {name: values[name] for name in names if name in values}
