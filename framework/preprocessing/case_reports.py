"""What a run has to tell about its cases: those that cannot be used, and what was odd about others."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

from framework.errors import DatasetError

_NUM_LISTED = 20
"""Lines of a list before the rest is only counted; a log has all of them."""
_NUM_NAMED = 3

_NUMBER = re.compile(r"[-+]?\d+(\.\d*)?([eE][-+]?\d+)?")


class CasesError(DatasetError):
    """Some cases cannot be used; all others were done.

    The message is a table of cases and reasons, cut after some lines; `complete_text` has all of them.
    """

    def __init__(
        self,
        what: str,
        reasons: Mapping[str, str],
        num_cases: int,
        defect: Exception | None = None,
        complete_list: Path | None = None,
    ) -> None:
        """
        Args:
            what: what was being done, in words.
            reasons: why each of these cases cannot be used.
            num_cases: of all cases.
            defect: something else that went wrong with another case.
            complete_list: a file that has the lines that are left out.
        """
        self.what, self.reasons, self.num_cases, self.defect = what, dict(reasons), num_cases, defect
        self.complete_text = self._text(len(self.reasons), None)
        super().__init__(self._text(_NUM_LISTED, complete_list))

    def with_complete_list(self, path: Path) -> CasesError:
        """The same, naming the file that has the complete list."""
        return CasesError(self.what, self.reasons, self.num_cases, self.defect, path)

    def _text(self, num_listed: int, complete_list: Path | None) -> str:
        count = len(self.reasons)
        lines = [f"{count} of {self.num_cases} cases cannot be used{f' ({self.what})' if self.what else ''}:"]
        listed = list(self.reasons)[:num_listed]
        width = max((len(case) for case in listed), default=0) + 2
        lines += [f"  case {case!r:<{width}}  {self.reasons[case]}" for case in listed]
        if count > num_listed:
            where = f"; all of them are listed in {complete_list}" if complete_list else ""
            lines.append(f"  ... and {count - num_listed} more{where}")
        if self.defect is not None:
            lines.append(f"  and one case met a defect: {type(self.defect).__name__}: {self.defect}")
        others = self.num_cases - count
        fine = f"The other {counted_cases(others)} {'is' if others == 1 else 'are'} fine. " if others else ""
        lines.append(f"{fine}Correct what is listed and run the same command again.")
        return "\n".join(lines)


def grouped_warnings(case_warnings: Mapping[str, list[str]]) -> list[str]:
    """One line for each kind of warning: the first of its texts, and the other cases that have it as well.

    Texts are of one kind if they differ only in the name of the case and in numbers.
    """
    first_texts: dict[str, str] = {}
    members: dict[str, list[str]] = {}
    for case, texts in case_warnings.items():
        for text in texts:
            kind = _NUMBER.sub("#", text.replace(case, "CASE"))
            first_texts.setdefault(kind, text)
            cases = members.setdefault(kind, [])
            if case not in cases:
                cases.append(case)
    return [_line(text, members[kind][1:]) for kind, text in first_texts.items()]


def counted_cases(count: int) -> str:
    """``1 case``, ``2 cases``"""
    return f"{count} case{'' if count == 1 else 's'}"


def _line(text: str, others: list[str]) -> str:
    if not others:
        return text
    named = ", ".join(others[:_NUM_NAMED])
    more = f" and {len(others) - _NUM_NAMED} more" if len(others) > _NUM_NAMED else ""
    return f"{text} (likewise {counted_cases(len(others))} more: {named}{more})"
