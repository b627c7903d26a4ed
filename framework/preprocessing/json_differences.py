"""Where two JSON objects differ, in words."""

from __future__ import annotations

import json
from typing import Any

_NUM_CHARACTERS = 60


def json_differences(old: Any, new: Any, limit: int = 6, path: str = "") -> list[str]:
    """Paths of the first fields in which two JSON objects differ, each with both values."""
    if isinstance(old, dict) and isinstance(new, dict):
        found: list[str] = []
        for key in dict.fromkeys([*old, *new]):
            if old.get(key) != new.get(key):
                found += json_differences(old.get(key), new.get(key), limit, f"{path}.{key}" if path else str(key))
        return found[:limit]
    return [f"{path} ({_short(old)} there, {_short(new)} now)"]


def _short(value: Any) -> str:
    text = json.dumps(value)
    return text if len(text) <= _NUM_CHARACTERS else f"{text[: _NUM_CHARACTERS - 3]}..."
