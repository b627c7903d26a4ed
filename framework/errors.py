"""Named errors for everything a user can get wrong: what, which value, where, what would be right, what to do."""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from pathlib import Path


class FoldwiseError(ValueError):
    """A mistake that the user can mend. Commands print its message, without a traceback, and exit with 2."""


class PlansError(FoldwiseError):
    """A plans file, or an override of one, says something that cannot be used."""


class DatasetError(FoldwiseError):
    """A raw or preprocessed dataset is missing, incomplete or contradicts itself."""


class CaseError(FoldwiseError):
    """One case cannot be used. The message starts with the name of the case."""

    def __init__(self, case: str, reason: str) -> None:
        super().__init__(f"case '{case}': {reason}")
        self.case = case
        self.reason = reason

    def __reduce__(self) -> tuple[type[CaseError], tuple[str, str]]:
        # Worker processes send this error to the main process; the default would lose one argument.
        return type(self), (self.case, self.reason)


class CaseWarning(UserWarning):
    """Something about a case that is odd, but does not keep it from being used."""


class WriteError(FoldwiseError):
    """A file could not be written: the disk is full, the folder read-only, a quota used up, a server away."""

    def __init__(self, path: Path | str, reason: str, advice: str) -> None:
        super().__init__(f"{path} could not be written: {reason}. {advice}")
        self.path, self.reason, self.advice = path, reason, advice

    def __reduce__(self) -> tuple[type[WriteError], tuple[Path | str, str, str]]:
        return type(self), (self.path, self.reason, self.advice)


class CheckpointError(FoldwiseError):
    """A checkpoint is missing, damaged, or does not fit what should be resumed from it."""


class HookError(FoldwiseError):
    """A hook cannot be attached: a misspelt point, a wrong signature, or a name that is taken."""


class NonFiniteError(FoldwiseError):
    """Losses, gradients or logits are not finite; in training, more often than the plans allow."""

    def add(self, text: str) -> None:
        """Say more, by somebody who knows more than the one that raised it."""
        self.args = (f"{self} {text}".rstrip(),)


class DivergenceError(FoldwiseError):
    """The training has become worse and worse; going on would only cost time."""


class UnknownNameError(FoldwiseError):
    """A name that is not in the list of known names; the message gives the nearest and the whole list."""

    def __init__(self, kind: str, name: object, choices: Iterable[object], where: str | Path = "") -> None:
        self.kind, self.name, self.choices, self.where = kind, str(name), [str(c) for c in choices], str(where)
        place = f"{where}: " if where else ""
        hint = did_you_mean(self.name, self.choices)
        super().__init__(f"{place}{kind} '{name}' is not known.{hint} Known here: {', '.join(self.choices) or 'none'}.")

    def __reduce__(self) -> tuple[type[UnknownNameError], tuple[str, str, list[str], str]]:
        return type(self), (self.kind, self.name, self.choices, self.where)


def nearest_name(name: str, choices: Iterable[str]) -> str | None:
    """The known name that a misspelt one most likely stands for, or None."""
    choices = list(choices)
    lowered = {choice.lower(): choice for choice in reversed(choices)}
    matches = difflib.get_close_matches(name.lower(), list(lowered), n=1, cutoff=0.6)
    return lowered[matches[0]] if matches else None


def did_you_mean(name: str, choices: Iterable[str]) -> str:
    """`` Did you mean 'x'?`` with a leading space, or an empty string."""
    match = nearest_name(name, choices)
    return f" Did you mean '{match}'?" if match else ""
