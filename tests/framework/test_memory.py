"""Free memory and disk space, and sizes in words."""

from __future__ import annotations

from pathlib import Path

import pytest

from framework.data import memory


@pytest.mark.parametrize(
    ("num_bytes", "text"),
    [(0, "0 bytes"), (1023, "1023 bytes"), (1536, "1.5 KiB"), (3 << 30, "3.0 GiB"), (1 << 52, "4096.0 TiB")],
)
def test_sizes_are_told_in_words(num_bytes: int, text: str) -> None:
    assert memory.readable_size(num_bytes) == text


def test_the_limit_of_a_container_counts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "_CGROUP_FILES", ())
    machine = memory.available_memory()
    assert machine > 1 << 20
    limit, usage = tmp_path / "limit", tmp_path / "usage"
    monkeypatch.setattr(memory, "_CGROUP_FILES", ((str(limit), str(usage)),))
    usage.write_text("1000\n")
    limit.write_text("5000\n")
    assert memory.available_memory() == 4000
    limit.write_text("500\n")
    assert memory.available_memory() == 0
    limit.write_text("max\n")  # no limit: what the machine has, which changes by the moment
    assert memory.available_memory() > machine / 2


def test_disk_space_of_a_folder_that_cannot_be_written_is_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert memory.free_disk_space(tmp_path) > 0
    monkeypatch.setattr(memory.os, "access", lambda *_: False)
    assert memory.free_disk_space(tmp_path) == 0
