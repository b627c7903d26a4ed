"""Preprocessing that is killed at any moment, or started twice: the data folder ends up as after one clean run."""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from framework.data.phantom import make_phantom_dataset
from framework.data.store import CaseStore
from framework.preprocessing.prepare import plan_dataset_folder
from tests.builders import use_roots

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not sys.platform.startswith("linux"), reason="kills and looks at processes as Linux does"),
]

_NUM_ROUNDS = 10
_KILLS_IN_A_ROUND = 2  # the second one meets what the first one left
_NUM_CASES = 14
_COMMAND = [sys.executable, "-m", "framework.commands.preprocess", "7", "-c", "2d", "3d_fullres", "-np", "2"]


@pytest.fixture
def planned(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The preprocessed folder of a dataset of small simulated scans that is planned, but not preprocessed."""
    use_roots(tmp_path, monkeypatch)
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    make_phantom_dataset(tmp_path / "raw", "Dataset007_Killed", _NUM_CASES, shape=(20, 48, 48), num_labels=2)
    plans_file = plan_dataset_folder(7, say=lambda text: None)
    plans = json.loads(plans_file.read_text())
    plans["configurations"]["3d_fullres"]["spacing"] = [1.5, 0.8, 0.8]  # resampling takes a while
    plans_file.write_text(json.dumps(plans))
    return plans_file.parent


def _start() -> subprocess.Popen[str]:
    # A session of its own: its processes can be found and are not reached by signals for the tests.
    return subprocess.Popen(
        _COMMAND,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        cwd=Path(__file__).parents[1],
        start_new_session=True,
    )


def _finish(process: subprocess.Popen[str]) -> str:
    output, _ = process.communicate(timeout=300)
    assert process.returncode == 0, output
    return output


def _files(folder: Path) -> dict[str, bytes]:
    """All files but the log, which has times in it."""
    paths = (path for path in folder.rglob("*") if path.is_file() and path.name != "preprocessing.log")
    return {str(path.relative_to(folder)): path.read_bytes() for path in paths}


def _wait_for_work(process: subprocess.Popen[str], planned: Path, num_complete: int) -> None:
    """Until so many cases are complete in both folders together, or nothing more is to come."""
    while process.poll() is None and len(list(planned.glob("nnUNetPlans_*/phantom*.pkl"))) < num_complete:
        time.sleep(0.002)


def _living_members(session: int) -> Iterator[int]:
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                state, _, _, found = (entry / "stat").read_text().rsplit(")", 1)[1].split()[:4]
            except OSError:
                continue
            if int(found) == session and state != "Z":
                yield int(entry.name)


def _wait_until_all_are_gone(session: int) -> None:
    deadline = time.monotonic() + 60
    while list(_living_members(session)):
        assert time.monotonic() < deadline, "workers outlive the process that started them"
        time.sleep(0.01)


def test_killing_it_at_any_moment_and_repeating_it_gives_the_folder_of_a_clean_run(planned: Path, tmp_path: Path):
    untouched = tmp_path / "untouched"
    shutil.copytree(planned, untouched)
    assert f"preprocessing {_NUM_CASES} cases" in _finish(_start())
    expected = _files(planned)
    assert len([name for name in expected if name.endswith(".pkl")]) == 2 * _NUM_CASES
    moments = random.Random(7)
    states = set()
    for _ in range(_NUM_ROUNDS):
        shutil.rmtree(planned)
        shutil.copytree(untouched, planned)
        for _ in range(_KILLS_IN_A_ROUND):
            process = _start()
            _wait_for_work(process, planned, moments.randint(0, 2 * _NUM_CASES - 2))
            time.sleep(moments.uniform(0, 0.05))
            process.kill()
            process.wait()
            _wait_until_all_are_gone(process.pid)
        states.add(len(_files(planned)))
        _finish(_start())
        found = _files(planned)
        assert sorted(found) == sorted(expected)
        assert found == expected
    assert len(states) > _NUM_ROUNDS // 3  # the kills hit different moments


def test_two_runs_at_the_same_time_give_the_folder_of_one(planned: Path, tmp_path: Path):
    shutil.copytree(planned, tmp_path / "untouched")
    _finish(_start())
    expected = _files(planned)
    shutil.rmtree(planned)
    shutil.copytree(tmp_path / "untouched", planned)
    outputs = [_finish(process) for process in [_start() for _ in range(3)]]
    assert _files(planned) == expected
    assert sum(f"preprocessing {_NUM_CASES} cases" in output for output in outputs) == 1


def test_a_keyboard_interrupt_ends_all_processes_and_keeps_what_is_done(planned: Path):
    process = _start()
    folder = planned / "nnUNetPlans_3d_fullres"
    deadline = time.monotonic() + 60
    while len(list(folder.glob("phantom*.pkl"))) < 3 and time.monotonic() < deadline:
        time.sleep(0.005)
    os.killpg(process.pid, signal.SIGINT)
    output, _ = process.communicate(timeout=60)
    assert process.returncode in (0, 130), output
    assert "Traceback" not in output
    _wait_until_all_are_gone(process.pid)
    done = {path.name: path.stat().st_mtime_ns for path in folder.glob("phantom*.pkl")}
    _finish(_start())
    assert len(CaseStore(folder).case_names) == _NUM_CASES
    redone = [name for name, age in done.items() if (folder / name).stat().st_mtime_ns != age]
    assert len(redone) <= 3  # those that were in work
