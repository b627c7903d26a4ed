"""60 Hippocampus scans with nnU-Net's reference model and mirroring: whole command, two threads, labels (seconds)."""

from __future__ import annotations

import os
import shutil
import statistics
import sys
import tempfile
from pathlib import Path

import numpy as np

from benchmarks.measured_process import Measured, measure
from benchmarks.runner import Result
from benchmarks.yardstick import program
from framework.data.image_io import read_segmentation

NUM_SCANS = 60
THREADS = {"OMP_NUM_THREADS": "2"}
_ENDING = "_0000.nii.gz"


def run(repeat: int) -> Result:
    return compare(repeat, NUM_SCANS, mirroring=True)


def compare(repeat: int, num_scans: int, mirroring: bool) -> Result:
    """Both programs in turns on the same scans, each into a new folder."""
    images, model = _images_and_model()
    scans = sorted(images.glob(f"*{_ENDING}"))[:num_scans]
    measured: tuple[list[Measured], list[Measured]] = ([], [])
    differing: list[str] = []
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        source = folder / "scans"
        source.mkdir()
        for scan in scans:
            shutil.copy(scan, source)
        # nnU-Net wants its folders named, though it does not use them here.
        names = ("nnUNet_raw", "nnUNet_preprocessed", "nnUNet_results")
        environment = THREADS | {name: str(folder / name) for name in names}
        for number in range(repeat):
            targets = [folder / f"{number}_{side}" for side in ("ours", "theirs")]
            for side in (0, 1) if number % 2 == 0 else (1, 0):
                command = _command(side, source, targets[side], model, mirroring)
                measured[side].append(measure(command, environment))
            differing.append(_difference(scans, *targets))
    ours, theirs = measured
    processor = [statistics.median(one.processor_seconds for one in side) for side in measured]
    largest = [statistics.median(one.largest_process for one in side) / 2**20 for side in measured]
    return Result(
        "s",
        [one.seconds for one in ours],
        [one.seconds for one in theirs],
        labels=("fw_predict", "nnUNetv2_predict_from_modelfolder -npp 1 -nps 1"),
        notes=[
            f"{len(scans)} scans, {'with' if mirroring else 'without'} mirroring",
            f"voxels labelled differently: {'; '.join(dict.fromkeys(differing))} (nnU-Net adds up in half precision)",
            f"processor time: {processor[0]:.1f} s and {processor[1]:.1f} s (ratio {processor[1] / processor[0]:.1f})",
            f"largest process: {largest[0]:.0f} MB and {largest[1]:.0f} MB (ratio {largest[1] / largest[0]:.1f})",
        ],
    )


def _images_and_model() -> tuple[Path, Path]:
    shared = Path(os.environ.get("FOLDWISE_SHARED_DATA", "../shared/data")).resolve()
    images = shared / "Dataset004_Hippocampus" / "imagesTr"
    models = sorted((shared / "nnunet_reference" / "results").glob("Dataset004_Hippocampus/*__3d_cpu"))
    if not images.is_dir() or not models:
        sys.exit(
            f"{shared} holds no Dataset004_Hippocampus or no reference model in nnunet_reference/results. "
            "Set FOLDWISE_SHARED_DATA to the folder that does."
        )
    return images, models[0]


def _command(side: int, source: Path, target: Path, model: Path, mirroring: bool) -> list[str | Path]:
    programs = (Path(sys.executable).with_name("fw_predict"), program("nnUNetv2_predict_from_modelfolder"))
    options = ["-f", "0", "-device", "cpu", *([] if mirroring else ["--disable_tta"])]
    if side == 1:
        options += ["-npp", "1", "-nps", "1"]
    return [programs[side], "-i", source, "-o", target, "-m", model, *options]


def _difference(scans: list[Path], ours: Path, theirs: Path) -> str:
    """``N of M``, over all scans; ends the benchmark where a label image is missing."""
    different = total = 0
    for scan in scans:
        name = scan.name.replace(_ENDING, ".nii.gz")
        one, other = (read_segmentation(folder / name)[0] for folder in (ours, theirs))
        if one.shape != other.shape:
            sys.exit(f"{name}: {ours} has {one.shape} voxels, {theirs} {other.shape}")
        different += int(np.count_nonzero(one != other))
        total += one.size
    return f"{different} of {total}"
