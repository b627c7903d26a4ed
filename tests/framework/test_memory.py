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
    monkeypatch.setattr(memory, "_CGROUPS", tmp_path / "nothing")
    machine = memory.available_memory()
    assert machine > 1 << 20
    monkeypatch.setattr(memory, "_CGROUPS", tmp_path)
    limit, usage = tmp_path / "memory.max", tmp_path / "memory.current"
    usage.write_text("1000\n")
    limit.write_text("5000\n")
    assert memory.available_memory() == 4000
    limit.write_text("500\n")
    assert memory.available_memory() == 0
    limit.write_text("max\n")  # no limit: what the machine has, which changes by the moment
    assert memory.available_memory() > machine / 2


@pytest.mark.parametrize(
    ("own", "group", "names"),
    [
        ("0::/slurm/job_7/step", "slurm/job_7", ("memory.max", "memory.current", "inactive_file")),
        (
            "9:cpu:/elsewhere\n4:memory:/slurm/job_7",
            "memory/slurm/job_7",
            ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"),
        ),
    ],
)
def test_the_limit_of_a_batch_job_counts_and_the_cache_of_files_does_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, own: str, group: str, names: tuple[str, str, str]
) -> None:
    folder = tmp_path / "cgroup" / group
    folder.mkdir(parents=True)
    (folder / names[0]).write_text("5000\n")
    (folder / names[1]).write_text("3000\n")
    (folder / "memory.stat").write_text(f"anon 1\n{names[2]} 700\n")
    (tmp_path / "own").write_text(own + "\n")
    monkeypatch.setattr(memory, "_CGROUPS", tmp_path / "cgroup")
    monkeypatch.setattr(memory, "_OWN_CGROUPS", tmp_path / "own")
    assert memory.available_memory() == 5000 - (3000 - 700)


def test_disk_space_of_a_folder_that_cannot_be_written_is_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert memory.free_disk_space(tmp_path) > 0
    monkeypatch.setattr(memory.os, "access", lambda *_: False)
    assert memory.free_disk_space(tmp_path) == 0
