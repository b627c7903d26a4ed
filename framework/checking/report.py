"""Findings as text for a person, and as JSON for a program."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator
from typing import Any

import numpy as np

from framework.checking.case_summary import by_x
from framework.checking.check import CheckResult
from framework.checking.evidence import Evidence
from framework.checking.findings import Finding, Severity

JSON_FORMAT = 1
_NUM_NAMED = 4
_WIDTH = 110
_TITLES = {
    Severity.ERROR: "ERRORS: training would fail, or learn nonsense",
    Severity.WARNING: "WARNINGS: likely wrong",
    Severity.NOTE: "NOTES: good to know",
}


def as_json(result: CheckResult) -> dict[str, Any]:
    """The result as one JSON object.

    Returns:
        ``format`` (1; changes when a key changes its meaning), ``dataset`` (name), ``folder``, ``counts``
        (``{"error", "warning", "note"}``: number of findings), ``findings`` (errors first; each with ``code``,
        ``severity``, ``cases``, ``message``, ``advice``, and ``details``, case -> text), and ``summary``: ``cases``,
        ``test_cases``, ``channels`` (names), ``file_ending``, ``labels`` (each ``name``, ``value``, ``voxels``,
        ``cases``), ``shape`` and ``spacing`` (each ``min``, ``median``, ``max`` for every array axis; null if no image
        could be read).
    """
    evidence = result.evidence
    listing = evidence.listing
    return {
        "format": JSON_FORMAT,
        "dataset": listing.folder.name,
        "folder": str(listing.folder),
        "counts": {severity.value: len(_of(result, severity)) for severity in Severity},
        "findings": [finding.as_json() for finding in result.findings],
        "summary": {
            "cases": len(listing.cases),
            "test_cases": len(evidence.test_cases),
            "channels": list(listing.channel_names),
            "file_ending": listing.file_ending,
            "labels": _label_table(evidence),
            "shape": _range([case.grid.shape for case in evidence.cases if case.grid is not None]),
            "spacing": _range([case.grid.spacing for case in evidence.cases if case.grid is not None]),
        },
    }


def as_text(result: CheckResult) -> str:
    """The report a person reads: findings by severity, then what the dataset is."""
    lines: list[str] = []
    for severity, title in _TITLES.items():
        found = _of(result, severity)
        if found:
            lines += [title, ""]
            for finding in found:
                lines += [*_lines(finding), ""]
    return "\n".join([*lines, *_summary_lines(result)])


def _lines(finding: Finding) -> Iterator[str]:
    yield f"  {finding.code}"
    yield _wrapped(finding.message, "    ")
    told = [(case, text) for case, text in finding.details.items() if text]
    for case, text in told[:_NUM_NAMED]:
        yield _wrapped(text if case in text else f"{case}: {text}", "      ")
    untold = [case for case in finding.cases if case not in finding.message]
    if told and len(finding.cases) > _NUM_NAMED:
        yield f"      and {len(finding.cases) - len(told[:_NUM_NAMED])} more"
    elif not told and untold and len(finding.cases) <= _NUM_NAMED:
        yield f"      {', '.join(untold)}"
    if finding.advice:
        yield _wrapped(finding.advice, "    -> ")


def _wrapped(text: str, indent: str) -> str:
    return textwrap.fill(
        text,
        _WIDTH,
        initial_indent=indent,
        subsequent_indent=" " * len(indent),
        break_long_words=False,
        break_on_hyphens=False,
    )


def _summary_lines(result: CheckResult) -> Iterator[str]:
    evidence = result.evidence
    listing = evidence.listing
    summary = as_json(result)["summary"]
    channels = ", ".join(listing.channel_names) or "not named"
    tests = f", {len(evidence.test_cases)} test cases" if evidence.test_cases else ""
    yield f"{listing.folder.name}: {len(listing.cases)} cases{tests}; channels: {channels}"
    for label in summary["labels"]:
        yield (
            f"  label {label['value']} {label['name']}: {label['voxels']} voxels in {label['cases']} of "
            f"{len(evidence.cases)} cases"
        )
    for name, unit in ("shape", "voxels"), ("spacing", "mm"):
        if summary[name] is not None:
            median, low, high = (by_x(summary[name][key]) for key in ("median", "min", "max"))
            yield f"  {name}: median {median} {unit}" + (f" ({low} to {high})" if low != high else ", all alike")
    counts = [f"{len(_of(result, severity))} {severity.value}(s)" for severity in Severity if _of(result, severity)]
    fine = len(set(listing.cases) - set(result.codes_by_case()))
    yield f"{', '.join(counts) or 'nothing found'}; {fine} of {len(listing.cases)} cases are fine."


def _of(result: CheckResult, severity: Severity) -> list[Finding]:
    return [finding for finding in result.findings if finding.severity is severity]


def _label_table(evidence: Evidence) -> list[dict[str, Any]]:
    labels = [case.label for case in evidence.cases if case.label is not None]
    return [
        {
            "name": name,
            "value": value,
            "voxels": sum(label.counts.get(value, 0) for label in labels),
            "cases": sum(value in label.counts for label in labels),
        }
        for value, name in sorted(evidence.label_names.items())
        if value != 0
    ]


def _range(rows: list[tuple[float, ...]]) -> dict[str, list[float]] | None:
    if not rows:
        return None
    table = np.array(rows)
    return {
        "min": table.min(axis=0).tolist(),
        "median": np.median(table, axis=0).tolist(),
        "max": table.max(axis=0).tolist(),
    }
