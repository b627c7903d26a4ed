"""Fingerprint, plans and preprocessed data (2d, 3d_fullres) of 200 Hippocampus scans, from raw files (seconds)."""

from __future__ import annotations

import os
import statistics
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from benchmarks.measured_process import Measured, measure
from benchmarks.runner import Result
from benchmarks.yardstick import program

CONFIGURATIONS = ("2d", "3d_fullres")


def run(repeat: int) -> Result:
    raw = Path(os.environ.get("FOLDWISE_SHARED_DATA", "../shared/data")).resolve()
    if not (raw / "Dataset004_Hippocampus").is_dir():
        sys.exit(f"{raw} holds no Dataset004_Hippocampus. Set FOLDWISE_SHARED_DATA to the folder that does.")
    return compare(raw, 4, CONFIGURATIONS, repeat)


def compare(raw: Path, dataset: int, configurations: Sequence[str], repeat: int) -> Result:
    """Both programs in turns, each into a new folder; and ours once more on what it made."""
    measured: tuple[list[Measured], list[Measured]] = ([], [])
    again = []
    # All folders stay until the end: file systems are slow for some seconds after many files were deleted.
    with tempfile.TemporaryDirectory() as folder:
        for number in range(repeat):
            for side in (0, 1) if number % 2 == 0 else (1, 0):
                environment = _environment(raw, Path(folder) / f"{number}_{side}", ours=side == 0)
                command = (_ours if side == 0 else _theirs)(dataset, configurations)
                measured[side].append(measure(command, environment))
                if side == 0:
                    again.append(measure(command, environment).seconds)
    ours, theirs = measured
    largest = [statistics.median(one.largest_process for one in side) / 2**20 for side in measured]
    processor = [statistics.median(one.processor_seconds for one in side) for side in measured]
    return Result(
        "s",
        [one.seconds for one in ours],
        [one.seconds for one in theirs],
        labels=("fw_preprocess -p default", "nnUNetv2_plan_and_preprocess"),
        notes=[
            f"largest process: {largest[0]:.0f} MB and {largest[1]:.0f} MB (ratio {largest[1] / largest[0]:.1f})",
            f"processor time: {processor[0]:.1f} s and {processor[1]:.1f} s (ratio {processor[1] / processor[0]:.1f})",
            f"fw_preprocess again, with nothing changed: {statistics.median(again):.2f} s",
        ],
    )


def _ours(dataset: int, configurations: Sequence[str]) -> list[str | Path]:
    """It plans first, where there are no plans."""
    command = Path(sys.executable).with_name("fw_preprocess")
    return [command, str(dataset), "-p", "default", "-c", *configurations]


def _theirs(dataset: int, configurations: Sequence[str]) -> list[str | Path]:
    processes = ["-npfp", "2", "-np", *["2"] * len(configurations)]
    command = program("nnUNetv2_plan_and_preprocess")
    return [command, "-d", str(dataset), "-c", *configurations, *processes]


def _environment(raw: Path, folder: Path, ours: bool) -> dict[str, str]:
    names = ("FW_RAW", "FW_PREPROCESSED", "FW_RESULTS")
    if not ours:
        names = ("nnUNet_raw", "nnUNet_preprocessed", "nnUNet_results")
    return dict(zip(names, (str(raw), str(folder / "preprocessed"), str(folder / "results"))))
