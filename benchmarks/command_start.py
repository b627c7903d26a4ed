"""From the command to the first line of its help: fw_train against nnUNetv2_train (seconds)."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

from benchmarks.runner import Result, interleave
from benchmarks.yardstick import program


def seconds(command: list[str | Path]) -> float:
    started = time.perf_counter()
    subprocess.run(command, check=True, capture_output=True)
    return time.perf_counter() - started


def run(repeat: int) -> Result:
    ours = Path(sys.executable).with_name("fw_train")
    theirs = program("nnUNetv2_train")
    measured = interleave(repeat, lambda: seconds([ours, "--help"]), lambda: seconds([theirs, "--help"]))
    return Result("s", *measured, labels=("fw_train --help", "nnUNetv2_train --help"))
