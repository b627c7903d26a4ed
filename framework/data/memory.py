"""How much memory and disk there is to use."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

_CGROUP_FILES = (
    ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory.current"),
    ("/sys/fs/cgroup/memory/memory.limit_in_bytes", "/sys/fs/cgroup/memory/memory.usage_in_bytes"),
)


def available_memory() -> int:
    """Bytes that can be taken without swapping; the limit of a container or batch job counts.

    0 where the system does not tell.
    """
    available = _meminfo_available()
    for limit_file, usage_file in _CGROUP_FILES:
        limit, usage = _number_in(limit_file), _number_in(usage_file)
        if limit is not None and usage is not None:
            available = min(available, max(0, limit - usage)) if available else max(0, limit - usage)
    return available


def free_disk_space(folder: Path | str) -> int:
    """Bytes free for this user on the disk of `folder`; 0 where it cannot be written."""
    if not os.access(folder, os.W_OK):
        return 0
    return shutil.disk_usage(folder).free


def readable_size(num_bytes: int) -> str:
    """``1.5 GiB``"""
    units = ("bytes", "KiB", "MiB", "GiB", "TiB")
    power = min(len(units) - 1, max(0, num_bytes.bit_length() - 1) // 10)
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


def _number_in(path: str) -> int | None:
    try:
        return int(Path(path).read_text())
    except (OSError, ValueError):  # "max" means no limit
        return None
