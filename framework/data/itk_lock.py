"""One call of ITK at a time, whatever the number of threads.

SimpleITK lets other threads run while it works, and ITK's readers and writers are not safe beside each other in one
process: they are the probable cause of damage to the heap (docs/decisions/0016-one-call-of-itk-at-a-time.md).
"""

from __future__ import annotations

import functools
import os
import threading
from collections.abc import Callable
from typing import ParamSpec, TypeVar

Arguments = ParamSpec("Arguments")
Result = TypeVar("Result")

_LOCK = threading.RLock()
if hasattr(os, "register_at_fork"):
    # A process that is forked while another thread holds the lock would wait for it for ever.
    os.register_at_fork(before=_LOCK.acquire, after_in_parent=_LOCK.release, after_in_child=_LOCK.release)


def one_at_a_time(function: Callable[Arguments, Result]) -> Callable[Arguments, Result]:
    """Decorates functions that call ITK; they may call each other. What is slow without it stays outside."""

    @functools.wraps(function)
    def alone(*arguments: Arguments.args, **options: Arguments.kwargs) -> Result:
        with _LOCK:
            return function(*arguments, **options)

    return alone
