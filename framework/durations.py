"""Durations as people write them."""

from __future__ import annotations

import re

from framework.errors import FoldwiseError

_UNITS = {"s": 1.0, "m": 60.0, "min": 60.0, "h": 3600.0, "d": 86400.0}
_CLOCK = re.compile(r"(?:(\d+)-)?(\d+):(\d{1,2})(?::(\d{1,2}))?")


def parse_duration(text: str, where: str = "") -> float:
    """Seconds.

    Args:
        text: ``90`` (seconds), ``90s``, ``45m``, ``23.5h``, ``2d``, or as schedulers write it ``HH:MM:SS``,
            ``D-HH:MM:SS``, ``HH:MM``.
        where: what the duration is for, such as the option, for the message.

    Raises:
        FoldwiseError: it is none of these, or not positive.

    Example:
        >>> parse_duration("1-00:30:00")
        88200.0
    """
    seconds = 0.0
    text = text.strip()
    clock = _CLOCK.fullmatch(text)
    if clock:
        days, hours, minutes, rest = (int(part or 0) for part in clock.groups())
        seconds = float(((days * 24 + hours) * 60 + minutes) * 60 + rest)
    else:
        number = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([a-z]*)", text.lower())
        if number and (number[2] or "s") in _UNITS:
            seconds = float(number[1]) * _UNITS[number[2] or "s"]
    if seconds <= 0:
        place = f"{where} " if where else ""
        raise FoldwiseError(
            f"{place}{text}: expected a duration, such as 90s, 45m, 23.5h, 2d, 23:30:00 (hours, minutes, seconds) or "
            "1-12:00:00 (with days)."
        )
    return seconds
