"""Modules that were loaded from a user's file, in processes that begin with nothing (start method ``spawn``)."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

from framework.extensions import load_file


class LoadedExtensions:
    """When pickled, remembers which files of ``file.py:Class`` are loaded; when unpickled, loads them.

    Whatever is pickled after it in the same stream can then be found: Python pickles classes and functions by
    the name of their module, and such a module has no name that another process could import.
    """

    def __reduce__(self) -> tuple[Callable[[list[str]], LoadedExtensions], tuple[list[str]]]:
        files = [getattr(module, "__file_of_extension__", None) for module in list(sys.modules.values())]
        return _load, ([file for file in files if isinstance(file, str)],)


def _load(files: list[str]) -> LoadedExtensions:
    for file in files:
        load_file(Path(file))
    return LoadedExtensions()
