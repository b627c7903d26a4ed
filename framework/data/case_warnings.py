"""Warnings about a case, collected by the thread that reads it.

`warnings.catch_warnings` changes the filters of the whole process, so threads that use it at the same time take
each other's warnings. Here the filters change once, and each thread keeps what it hears.
"""

from __future__ import annotations

import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from framework.errors import CaseWarning

_lock = threading.Lock()
_heard = threading.local()
_num_listening = 0
_filters: warnings.catch_warnings | None = None


@contextmanager
def collected_case_warnings() -> Iterator[list[str]]:
    """A list that fills with the `CaseWarning` messages of this thread until the block ends."""
    global _num_listening, _filters
    with _lock:
        if not _num_listening:
            _filters = warnings.catch_warnings()
            _filters.__enter__()
            warnings.simplefilter("always", CaseWarning)
            _show_elsewhere(warnings.showwarning)
        _num_listening += 1
    messages: list[str] = []
    _heard.messages = messages
    try:
        yield messages
    finally:
        _heard.messages = None
        with _lock:
            _num_listening -= 1
            if not _num_listening:
                assert _filters is not None
                _filters.__exit__(None, None, None)


def _show_elsewhere(otherwise: Any) -> None:
    def show(message: Warning | str, category: type[Warning], *others: Any) -> None:
        messages = getattr(_heard, "messages", None)
        if messages is not None and issubclass(category, CaseWarning):
            messages.append(str(message))
        else:
            otherwise(message, category, *others)

    warnings.showwarning = show  # type: ignore[assignment]
