"""One run at a time prepares a dataset; what a killed one left half written is cleaned up by the next."""

from __future__ import annotations

import errno
import json
import os
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from framework.errors import FoldwiseError
from framework.files import TEMPORARY_NAME

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]

LOCK_NAME = "preparing.lock"

_SECONDS_BETWEEN_TRIES = 0.3


@contextmanager
def dataset_lock(folder: Path, say: Callable[[str], None]) -> Iterator[bool]:
    """Wait until no other run prepares the dataset in `folder`, then keep others waiting.

    The system holds the lock and gives it back when a process ends, however it ends: there are no stale
    locks. ``foldwise/preparing.lock`` names the holder, for people; the file stays where it is.

    Yields:
        Whether the lock is held. Some systems and network disks have none: two runs are harmless to each
        other there too, since all writes are atomic, but nothing may be cleaned up.
    """
    path = folder / "foldwise" / LOCK_NAME
    with _opened(path) as file:
        held = _try_to_lock(file)
        if held is False:
            say(f"waiting for another run that prepares {folder.name} ({_holder(path)})")
            while held is False:
                time.sleep(_SECONDS_BETWEEN_TRIES)
                held = _try_to_lock(file)
        try:
            if held:
                file.truncate(0)
                file.write(json.dumps({"process": os.getpid(), "host": socket.gethostname(), "since": _now()}))
                file.flush()
            yield bool(held)
        finally:
            if held:
                file.truncate(0)
                # Worker processes share this open file: closing it here would leave the lock with them.
                fcntl.flock(file, fcntl.LOCK_UN)


def remove_leftovers(folder: Path, endings: tuple[str, ...]) -> None:
    """Delete temporary files of `framework.files.atomic_write` that have one of these endings.

    Only to be called while holding the lock, and with endings that nothing but preprocessing writes there.
    """
    if not folder.is_dir():
        return
    with os.scandir(folder) as entries:
        names = [entry.name for entry in entries]
    for name in names:
        if TEMPORARY_NAME.fullmatch(name) and name.endswith(endings):
            (folder / name).unlink(missing_ok=True)


def _opened(path: Path) -> IO[str]:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        return open(path, "a+", encoding="utf-8")
    except OSError as error:
        raise FoldwiseError(
            f"{path} could not be written: {error.strerror}. Free some space or choose another folder "
            "(FW_PREPROCESSED), then run the same command again."
        ) from error


def _try_to_lock(file: IO[str]) -> bool | None:
    """True or False; None where there are no locks."""
    if fcntl is None:
        return None
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        return False if error.errno in (errno.EWOULDBLOCK, errno.EACCES) else None
    return True


def _holder(path: Path) -> str:
    try:
        known = json.loads(path.read_text(encoding="utf-8"))
        return f"process {known['process']} on {known['host']}, since {known['since']}"
    except (OSError, ValueError, KeyError, TypeError):
        return f"it holds {path}"


def _now() -> str:
    return time.strftime("%Y-%m-%d %H:%M:%S")
