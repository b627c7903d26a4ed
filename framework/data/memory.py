"""How much memory and disk there is to use."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

from framework.errors import FoldwiseError

_CGROUPS = Path("/sys/fs/cgroup")
_OWN_CGROUPS = Path("/proc/self/cgroup")
_CGROUP_FILES = (("memory.max", "memory.current"), ("memory.limit_in_bytes", "memory.usage_in_bytes"))
_CACHE_KEYS = ("inactive_file", "total_inactive_file")  # in memory.stat


def available_memory() -> int:
    """Bytes that can be taken without swapping; the limit of a container or batch job counts.

    0 where the system does not tell.
    """
    available = _meminfo_available()
    for folder in _cgroup_folders():
        for limit_file, usage_file in _CGROUP_FILES:
            limit, usage = _number_in(folder / limit_file), _number_in(folder / usage_file)
            if limit is not None and usage is not None:
                # The system gives up its cache of files before it lets a program run out of memory.
                left = max(0, limit - max(0, usage - _cache_of(folder)))
                available = min(available, left) if available else left
    return available


_LARGEST_RATIO = 3000
"""Unpacked bytes for one in a file; deflate, which all image formats use, ends at 1032, LZW below 3000."""
_ALWAYS_FINE = 256 << 20


def refuse_impossible_size(num_bytes: int, path: Path) -> None:
    """Refuse an image whose header announces more than its file can hold, or than there is memory for.

    Raises:
        FoldwiseError: says how much it is.
    """
    stored = path.stat().st_size
    if num_bytes > _ALWAYS_FINE + _LARGEST_RATIO * stored:
        raise FoldwiseError(
            f"{path} is truncated or damaged: its header announces {readable_size(num_bytes)}, more than its "
            f"{readable_size(stored)} can hold. Copy or export it again."
        )
    refuse_beyond_memory(num_bytes, str(path))


def refuse_beyond_memory(num_bytes: int, what: str) -> None:
    """Refuse what a file announces before the system ends the program for it.

    Args:
        num_bytes: that would be needed at once.
        what: begins the message, such as the path of a file.

    Raises:
        FoldwiseError: this machine does not have them.
    """
    available = available_memory()
    if num_bytes > available > 0:
        raise FoldwiseError(
            f"{what} would take {readable_size(num_bytes)} of memory; {readable_size(available)} are free. If its size "
            "is right, use a machine with more memory; if not, the file is damaged: copy or export it again."
        )


def free_disk_space(folder: Path | str) -> int:
    """Bytes free for this user on the disk of `folder`; 0 where it cannot be written."""
    if not os.access(folder, os.W_OK):
        return 0
    return shutil.disk_usage(folder).free


def readable_size(num_bytes: int) -> str:
    """``1.5 GiB``"""
    units = ("bytes", "KiB", "MiB", "GiB", "TiB")
    power = min(len(units) - 1, max(0, num_bytes.bit_length() - 1) // 10)
    if num_bytes >= 1 << 60:
        return "more than a million TiB"
    return f"{num_bytes / 1024**power:.{1 if power else 0}f} {units[power]}"


def _meminfo_available() -> int:
    try:
        for line in Path("/proc/meminfo").read_text().splitlines():
            if line.startswith("MemAvailable:"):
                return int(line.split()[1]) * 1024
    except (OSError, ValueError, IndexError):
        pass
    try:
        return os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (ValueError, OSError, AttributeError):
        pass
    try:
        # macOS tells only the whole; half of it is a cautious guess
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") // 2
    except (ValueError, OSError, AttributeError):
        return 0


def _cgroup_folders() -> list[Path]:
    """The control groups of this process and all that enclose them: a batch job, a container."""
    folders = {_CGROUPS, _CGROUPS / "memory"}
    try:
        lines = _OWN_CGROUPS.read_text().splitlines()
    except OSError:
        lines = []
    for line in lines:
        _, controllers, path = line.split(":", 2)
        if controllers and "memory" not in controllers.split(","):
            continue
        top = _CGROUPS / "memory" if controllers else _CGROUPS
        own = top / path.strip("/")
        folders.update(folder for folder in (own, *own.parents) if folder.is_relative_to(top))
    return sorted(folders)


def _cache_of(folder: Path) -> int:
    try:
        entries = dict(line.split() for line in (folder / "memory.stat").read_text().splitlines())
    except (OSError, ValueError):
        return 0
    return int(next((entries[key] for key in reversed(_CACHE_KEYS) if key in entries), 0))


def _number_in(path: Path) -> int | None:
    try:
        return int(path.read_text())
    except (OSError, ValueError):  # "max" means no limit
        return None
