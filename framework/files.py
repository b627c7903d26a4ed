"""Reading and writing files so that a crash never leaves half of one."""

from __future__ import annotations

import json
import os
import re
import secrets
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from framework.errors import FoldwiseError, WriteError

TEMPORARY_NAME = re.compile(r"\.(.+)\.[0-9a-f]{8}\.tmp(\..+)")
"""What `atomic_write` calls a file that is not complete yet; the groups: final name, ending."""


@contextmanager
def atomic_write(path: Path | str, sync_folder: bool = True) -> Iterator[Path]:
    """Yield a temporary path in the same folder; when the block ends well, it takes the final name.

    The file is flushed to the disk before the rename, so at every instant `path` is either the old
    file, the new file, or absent. When the block raises, the temporary file is removed and `path` is untouched.

    Args:
        sync_folder: make the new name survive a power cut. False where another file of the same folder follows
            that makes both survive.

    Raises:
        WriteError: the disk is full or the folder cannot be written; names the path.
    """
    path = Path(path)
    # The ending stays last: writers such as SimpleITK choose the format by it.
    suffix = "".join(path.suffixes[-2:])
    temporary = path.parent / f".{path.name.removesuffix(suffix)}.{secrets.token_hex(4)}.tmp{suffix}"
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield temporary
        with open(temporary, "rb+") as file:
            os.fsync(file.fileno())
        os.replace(temporary, path)
        if sync_folder:
            _sync_folder(path.parent)
    except OSError as error:
        raise WriteError(
            path,
            error.strerror or str(error),
            "Nothing was left half written; free some space or choose another folder, then run the same command again.",
        ) from error
    finally:
        with suppress(OSError):  # not there, or in what turned out to be no folder
            temporary.unlink()


def write_bytes(path: Path | str, content: bytes) -> None:
    """Write `content` atomically."""
    with atomic_write(path) as temporary, open(temporary, "wb") as file:
        file.write(content)


def write_text(path: Path | str, text: str) -> None:
    """Write UTF-8 text atomically."""
    write_bytes(path, text.encode("utf-8"))


def write_json(path: Path | str, value: Any, *, indent: int = 4, sort_keys: bool = False) -> None:
    """Write JSON atomically. Key order is kept unless `sort_keys`: the order of labels has a meaning."""
    write_text(path, json.dumps(value, indent=indent, sort_keys=sort_keys, default=_plain) + "\n")


def remove_temporary_files(folder: Path) -> None:
    """Delete what a killed process has left of `atomic_write`, in a folder in which nobody else is writing now."""
    with suppress(OSError):  # they do no harm, and the next start tries again
        for path in folder.rglob(".*.tmp.*"):
            if TEMPORARY_NAME.fullmatch(path.name):
                path.unlink()


def copy_if_changed(source: Path, target: Path) -> None:
    """Copy a file with its time, unless the copy has its size and time already."""
    wanted = source.stat()
    if target.is_file():
        found = target.stat()
        if (found.st_size, found.st_mtime_ns) == (wanted.st_size, wanted.st_mtime_ns):
            return
    # The folder is not synced: what a power cut takes is copied again by the next run.
    with atomic_write(target, sync_folder=False) as temporary:
        shutil.copy2(source, temporary)


def refuse_unwritable_folder(folder: Path, what_to_do: str) -> None:
    """Make a folder, and raise FoldwiseError if nothing can be written there: better before the work than after it."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise FoldwiseError(f"{folder} cannot be written to: {error.strerror or error}. {what_to_do}") from error


LARGEST_JSON = 512 << 20
"""Bytes; the scores of 10 000 cases with 100 labels have half of it."""
_DEEPEST_JSON = 60


def read_json(path: Path | str, *, error_type: type[FoldwiseError] = FoldwiseError) -> Any:
    """Read JSON; a missing, broken or boundless file becomes one clear message."""
    path = Path(path)
    try:
        if path.exists() and not path.is_file():
            raise error_type(f"{path} is no file.")
        if path.stat().st_size > LARGEST_JSON:
            raise error_type(f"{path} has more than {LARGEST_JSON >> 20} MiB, which is no JSON file of ours.")
        content = path.read_bytes()
    except FileNotFoundError:
        raise error_type(f"{path} does not exist.") from None
    except OSError as error:
        raise error_type(f"{path} cannot be read: {error.strerror or error}.") from None
    return parse_json(content, path, error_type=error_type)


def read_json_object(path: Path | str, *, error_type: type[FoldwiseError] = FoldwiseError) -> dict[str, Any]:
    """As `read_json`, for a file that holds an object."""
    value = read_json(path, error_type=error_type)
    if not isinstance(value, dict):
        raise error_type(f"{path}: expected an object {{...}}, found {type(value).__name__}.")
    return value


def parse_json(content: bytes, source: Path | str, *, error_type: type[FoldwiseError] = FoldwiseError) -> Any:
    """JSON from memory, as `read_json`; `source` is named in errors."""
    try:
        value = json.loads(content.decode("utf-8"), object_pairs_hook=_object)
        if isinstance(value, (dict, list)) and _is_deep(value):
            raise ValueError(f"it is nested more than {_DEEPEST_JSON} deep")
    except RecursionError:
        raise error_type(f"{source} is not valid JSON: it is nested more than {_DEEPEST_JSON} deep.") from None
    except ValueError as error:  # also bytes that are no UTF-8, and numbers of thousands of digits
        raise error_type(f"{source} is not valid JSON: {error}. Correct that place and run again.") from None
    return value


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    value = dict(pairs)
    if len(value) < len(pairs):
        # Python would take the last one without a word: a label would be lost.
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise ValueError(f"the key '{twice:.200}' stands twice in one object")
    return value


def _is_deep(value: Any) -> bool:
    level = [value]
    for _ in range(_DEEPEST_JSON):
        level = [entry for each in level for entry in (each.values() if isinstance(each, dict) else each)]
        level = [entry for entry in level if isinstance(entry, (dict, list))]
        if not level:
            return False
    return True


def _plain(value: Any) -> Any:
    """Numpy scalars and arrays, paths and sets as plain JSON values."""
    to_list: Callable[[], Any] | None = getattr(value, "tolist", None)
    if to_list is not None:
        return to_list()
    if isinstance(value, Path):
        return str(value)
    if isinstance(value, (set, frozenset)):
        return sorted(value)
    raise TypeError(f"{type(value).__name__} is no JSON value: {value!r}")


def _sync_folder(folder: Path) -> None:
    """Make a rename in `folder` survive a power cut, where the system can (Windows cannot)."""
    try:
        descriptor = os.open(folder, os.O_RDONLY)
    except OSError:
        return
    try:
        os.fsync(descriptor)
    except OSError:
        pass  # some network file systems refuse to sync a folder; the rename itself has been done
    finally:
        os.close(descriptor)
