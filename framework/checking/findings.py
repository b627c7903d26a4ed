"""What a check finds: a stable code, how bad it is, which cases, and what to do."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from enum import Enum
from typing import Any

_NUM_NAMED = 3


class Severity(str, Enum):
    """How bad a finding is."""

    ERROR = "error"
    """Training would fail, or learn nonsense."""
    WARNING = "warning"
    """Likely wrong."""
    NOTE = "note"
    """Good to know."""


@dataclass(frozen=True)
class Finding:
    """One kind of problem, with all cases that have it."""

    code: str
    """Stable, in kebab-case; scripts may rely on it."""
    severity: Severity
    message: str
    """What is wrong, the value found, and where."""
    advice: str = ""
    details: dict[str, str] = field(default_factory=dict)
    """Case -> what was found there."""

    @property
    def cases(self) -> tuple[str, ...]:
        return tuple(self.details)

    def as_json(self) -> dict[str, Any]:
        return {
            "code": self.code,
            "severity": self.severity.value,
            "cases": list(self.cases),
            "message": self.message,
            "advice": self.advice,
            "details": dict(self.details),
        }


def finding_if_any(
    details: Mapping[str, str], code: str, severity: Severity, message: str, advice: str = ""
) -> list[Finding]:
    """A finding about the cases in `details`, or none if there are no such cases."""
    return [Finding(code, severity, message, advice, dict(details))] if details else []


def some_of(names: Iterable[str]) -> str:
    """The first few names, and how many more there are."""
    names = list(names)
    more = f" and {len(names) - _NUM_NAMED} more" if len(names) > _NUM_NAMED else ""
    return ", ".join(names[:_NUM_NAMED]) + more


def by_severity(findings: Iterable[Finding]) -> list[Finding]:
    """Errors first, then warnings, then notes; within them in the order in which they were found."""
    order = list(Severity)
    return sorted(findings, key=lambda finding: order.index(finding.severity))
