"""``foldwise/preprocessing.log`` of a dataset: what every run did, with which settings, and how long it took."""

from __future__ import annotations

import functools
import importlib.metadata
import os
import platform
import socket
import sys
import time
from collections.abc import Callable
from pathlib import Path

import framework

Say = Callable[[str], None]

LOG_NAME = "preprocessing.log"


class RunLog:
    """Tells the user one line at a time, and keeps these lines and further details in one growing file.

    A run that finds nothing to do leaves no trace: the file is opened with the first line.
    """

    def __init__(self, dataset_folder: Path, say: Say, verbose: bool = False) -> None:
        """
        Args:
            dataset_folder: ``PREPROCESSED/DATASET``.
            verbose: tell the user the details as well.
        """
        self.path = dataset_folder / "foldwise" / LOG_NAME
        self._say = say
        self._verbose = verbose
        self._started = False

    def say(self, text: str) -> None:
        """For the user, and for the log."""
        self._say(text)
        self.record(text)

    def detail(self, text: str) -> None:
        """For the log only, unless this is a verbose run."""
        if self._verbose:
            self._say(text)
        self.record(text)

    def timed(self, what: str) -> _Timed:
        """Context that says what was done and how long it took, if it went well."""
        return _Timed(self, what)

    def record(self, text: str) -> None:
        """For the log only."""
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            with open(self.path, "a", encoding="utf-8") as file:
                if not self._started:
                    self._started = True
                    file.write(f"\n{_heading()}\n")
                now = time.strftime("%H:%M:%S")
                file.writelines(f"{now}  {line}\n" for line in text.splitlines())
        except OSError:
            pass  # a log that cannot be written must not keep anyone from working


class _Timed:
    def __init__(self, log: RunLog, what: str) -> None:
        self.log, self.what = log, what

    def __enter__(self) -> None:
        self.start = time.monotonic()

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        text = f"{self.what}: {time.monotonic() - self.start:.1f} s"
        if kind is None:
            self.log.say(text)
        else:
            self.log.record(f"{text}, ended by {kind.__name__}")


@functools.lru_cache
def library_versions() -> dict[str, str]:
    """Versions of what decides on the content of preprocessed data; nothing is imported to find them."""
    versions = {"foldwise": framework.__version__}
    for name in ("numpy", "scipy", "SimpleITK", "blosc2"):
        try:
            versions[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            versions[name] = "unknown"
    return versions


def _heading() -> str:
    command = " ".join([Path(sys.argv[0]).name, *sys.argv[1:]])
    versions = ", ".join(f"{name} {version}" for name, version in library_versions().items())
    return (
        f"=== {time.strftime('%Y-%m-%d %H:%M:%S')}  {command}\n"
        f"    process {os.getpid()} on {socket.gethostname()}; Python {platform.python_version()}, {versions}"
    )
