"""Paths of the machine on which a file was made, taken out of what leaves it.

They mean nothing elsewhere, and they tell names of people, projects and patients' folders.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

_START = r"(?:file://)?(?:~?/|[A-Za-z]:[\\/]|\\\\)"
_WHOLE = re.compile(rf"{_START}(?!.*\s-)[^\n]*[^\n/\\][^\n]*")
_INSIDE = re.compile(
    rf"(?P<address>(?:https?|ftp)://\S+)|(?<![\w:/.\\~\-]){_START}[^\s\"'<>|,;/\\]+(?:[\\/][^\s\"'<>|,;/\\]*)+"
)


def without_machine_paths(value: Any, root: Path) -> Any:
    """A JSON value in which every absolute path is relative to `root`, or only a file name if it lies elsewhere.

    Args:
        value: dicts, lists, text and numbers; keys are cleaned as well.
        root: the results root, below which paths keep their meaning.
    """
    if isinstance(value, str):
        return text_without_machine_paths(value, root)
    if isinstance(value, dict):
        return {without_machine_paths(key, root): without_machine_paths(entry, root) for key, entry in value.items()}
    if isinstance(value, (list, tuple)):
        return type(value)(without_machine_paths(entry, root) for entry in value)
    return value


def text_without_machine_paths(text: str, root: Path) -> str:
    """As `without_machine_paths`, for text that may hold several, such as a command."""
    for prefix in sorted({str(root.absolute()), str(root.resolve())}, key=len, reverse=True):
        if len(prefix) > 1:
            text = text.replace(prefix.rstrip("/\\") + "/", "").replace(prefix.rstrip("/\\") + "\\", "")
    if _WHOLE.fullmatch(text):
        return _last_part(text)
    return _INSIDE.sub(lambda found: found["address"] or _last_part(found[0]), text)


def _last_part(path: str) -> str:
    return re.split(r"[\\/]", path.rstrip("/\\"))[-1]
