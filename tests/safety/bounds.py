"""How much memory a piece of a test took, and files of a given size that take no room."""

from __future__ import annotations

import resource
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

_STATUS = Path("/proc/self/status")


@contextmanager
def at_most(num_bytes: int) -> Iterator[None]:
    """Fail if the block takes more memory than this at any time, whatever it has given back at its end.

    A bomb that gets through ends with a MemoryError, and not with the computer: the process may reserve some more only.
    """
    if not _STATUS.is_file():
        pytest.skip("the peak of memory is read from /proc, which only Linux has")
    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (_kib("VmSize") * 1024 + 20 * num_bytes, hard))
    Path("/proc/self/clear_refs").write_text("5")  # forget the peak so far
    before = _kib("VmHWM")
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, (soft, hard))
    taken = (_kib("VmHWM") - before) * 1024
    assert taken <= num_bytes, f"{taken >> 20} MiB were taken, at most {num_bytes >> 20} were expected"


def _kib(field: str) -> int:
    line = next(line for line in _STATUS.read_text().splitlines() if line.startswith(field))
    return int(line.split()[1])
