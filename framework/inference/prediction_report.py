"""What came of the prediction of many cases."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from framework.errors import FoldwiseError
from framework.inference.pipeline import CaseFailure


@dataclass
class PredictionReport:
    """Which cases are complete, and why the others are not.

    Attributes:
        files: label image of every case that is complete, in the order of the cases.
        kept: those of them that an earlier run had completed.
        failures: cases that could not be predicted.
        not_begun: cases that were left when the run was asked to stop.
    """

    files: dict[str, Path] = field(default_factory=dict)
    kept: list[str] = field(default_factory=list)
    failures: list[CaseFailure] = field(default_factory=list)
    not_begun: list[str] = field(default_factory=list)

    @property
    def num_cases(self) -> int:
        return len(self.files) + len(self.failures) + len(self.not_begun)

    def raise_failures(self) -> None:
        """FailedCases if there is any."""
        if self.failures:
            raise FailedCases(self)


class FailedCases(FoldwiseError):
    """Some cases could not be predicted; all others were. The message is a table of them."""

    def __init__(self, report: PredictionReport) -> None:
        failed = len(report.failures)
        super().__init__(
            f"{failed} of {report.num_cases} case(s) could not be predicted:\n{failure_table(report.failures)}"
        )
        self.report = report

    def __reduce__(self) -> tuple[type[FailedCases], tuple[PredictionReport]]:
        return type(self), (self.report,)


def failure_table(failures: Sequence[CaseFailure]) -> str:
    """A line for each: case, step, reason; further lines of a reason are indented."""
    rows = [("case", "step", "reason"), *((each.case, each.step, each.message) for each in failures)]
    widths = [max(len(row[column]) for row in rows) for column in (0, 1)]
    indent = " " * (sum(widths) + 6)
    lines = []
    for case, step, reason in rows:
        first, *rest = reason.splitlines() or [""]
        lines.append(f"  {case:<{widths[0]}}  {step:<{widths[1]}}  {first}")
        lines += [indent + line for line in rest]
    return "\n".join(lines)
