"""The reduced form of the fault suite: some faults of each kind, on a real training, in a few minutes."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.faults.run_with_fault import Fault, final_path

ROOT = Path(__file__).resolve().parents[2]
on_linux = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="kills and looks at processes as Linux does")


@on_linux
@pytest.mark.slow
@pytest.mark.shared_data
def test_no_fault_loses_anything(tmp_path: Path, shared_data: Path):
    report = tmp_path / "report.json"
    command = [sys.executable, "-m", "tests.faults", "--seed", "1", "--kills", "12", "--disk", "5", "--damage", "5"]
    # A process of its own: trainings are forked from it, and pytest has threads.
    result = subprocess.run(
        [*command, "--report", str(report), "--data", str(shared_data)],
        cwd=ROOT,
        env=os.environ | {"TMPDIR": str(tmp_path)},
        capture_output=True,
        text=True,
    )
    assert report.exists(), result.stdout + result.stderr
    outcomes = json.loads(report.read_text())
    assert sum(len(outcome["faults"]) for outcome in outcomes) >= 22
    lost = {f"{each['kind']}_{each['number']}": (each["faults"], each["problems"]) for each in outcomes}
    assert not {name: problems for name, problems in lost.items() if problems[1]}, result.stdout
    assert result.returncode == 0


@pytest.mark.parametrize("text", ["on_update/7/KILL//1", "write/1/ENOSPC/checkpoint_final/0"])
def test_a_fault_can_be_told_and_repeated(text: str):
    assert str(Fault.of_text(text)) == text


def test_a_temporary_file_is_known_by_its_final_name():
    assert final_path("/a/.checkpoint_best.0123abcd.tmp.pth") == "/a/checkpoint_best.pth"
    assert final_path("/a/history.jsonl") == "/a/history.jsonl"
