"""Training batches of real MR patches (40x56x40, batch 7, full recipe), one process (batches/s)."""

from __future__ import annotations

import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.runner import Result, interleave
from benchmarks.yardstick import program


@dataclass(frozen=True)
class Workload:
    """Batches that both sides make from one preprocessed folder.

    Attributes:
        make: writes the preprocessed cases into a folder.
        labels: foreground labels are 1 ... labels.
        num_batches: that are timed, after a quarter of them to warm up.
    """

    make: Callable[[Path], None]
    patch_size: tuple[int, int, int]
    batch_size: int
    labels: int
    num_batches: int


def real_hippocampus(folder: Path) -> None:
    """The eight cases that nnU-Net preprocessed."""
    data = os.environ.get("FOLDWISE_SHARED_DATA", Path(__file__).resolve().parents[2] / "shared" / "data")
    source = Path(data) / "nnunet_reference/preprocessed/Dataset004_Hippocampus/nnUNetPlans_3d_fullres"
    if not source.is_dir():
        sys.exit(f"{source} is missing: this benchmark needs real data. Set FOLDWISE_SHARED_DATA to its folder.")
    shutil.copytree(source, folder)


def simulated_ct(folder: Path) -> None:
    """Three simulated trunks of 160x256x256 voxels with five organs."""
    from framework.data.case_files import write_case
    from framework.data.labels import Labels
    from framework.data.phantom import phantom_case
    from framework.preprocessing.class_sampling import keys_to_sample, sample_class_locations

    labels = Labels.from_dataset_json({"labels": {"background": 0} | {f"organ_{i}": i for i in range(1, 6)}})
    for number in range(3):
        image, segmentation, _ = phantom_case(
            number, shape=(160, 256, 256), spacing=(2.0, 1.2, 1.2), num_labels=5, modality="ct", variation=0.0
        )
        image = (image - image.mean()) / image.std()
        segmentation = segmentation.reshape(1, *image.shape[1:])
        properties = {"class_locations": sample_class_locations(segmentation, keys_to_sample(labels))}
        write_case(folder, f"ct_{number}", image, segmentation, properties, (96, 160, 160))


WORKLOADS = {
    "hippocampus": Workload(real_hippocampus, (40, 56, 40), 7, 2, 40),
    "ct": Workload(simulated_ct, (96, 160, 160), 2, 5, 8),
}


def our_batches(folder: Path, workload: Workload, validation: bool, store: Any = "auto") -> Any:
    """The maker of batches that a training with the default recipe uses."""
    from framework.augmentation import Augmentation
    from framework.data.labels import Labels
    from framework.data.patch_batches import PatchBatches
    from framework.data.store import CaseStore

    cases = CaseStore(folder, mode=store)
    cases.check()
    cases.prepare()
    names = {"background": 0} | {f"label_{i}": i for i in range(1, workload.labels + 1)}
    return PatchBatches(
        store=cases,
        case_names=cases.case_names,
        labels=Labels.from_dataset_json({"labels": names}),
        patch_size=workload.patch_size,
        batch_size=workload.batch_size,
        augmentation=None if validation else Augmentation.from_plans("default", workload.patch_size),
        stream="validation" if validation else "training",
    )


def measure_here(folder: str, name: str, validation: bool, store: str) -> None:
    """Print what `Measured` holds as JSON; to be run in a process of its own."""
    import time

    import torch

    from framework.batch_loader import BatchLoader

    torch.set_num_threads(1)
    workload = WORKLOADS[name]
    loader = BatchLoader(our_batches(Path(folder), workload, validation, store))
    for _ in range(max(1, workload.num_batches // 4)):
        next(loader)
    started = time.perf_counter()
    for _ in range(workload.num_batches):
        next(loader)
    print(json.dumps([(time.perf_counter() - started) / workload.num_batches, _peak_bytes()]))


def _peak_bytes() -> int:
    # Not getrusage, whose maximum is inherited from the process that started this one. Linux.
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM:"))


# nnU-Net's own loader and transforms, put together as its trainer does, with the targets of deep supervision left
# out, as ours makes them on the device.
_YARDSTICK = """
import json, sys, time
import numpy as np, torch
from nnunetv2.training.dataloading.data_loader import nnUNetDataLoader
from nnunetv2.training.dataloading.nnunet_dataset import infer_dataset_class
from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer
from nnunetv2.training.data_augmentation.compute_initial_patch_size import get_patch_size
from nnunetv2.utilities.label_handling.label_handling import LabelManager

torch.set_num_threads(1)
folder, patch, batch, labels, count, validation = json.loads(sys.argv[1])
dataset = infer_dataset_class(folder)(folder)
manager = LabelManager({"background": 0, **{f"label_{i}": i for i in range(1, labels + 1)}}, None)
rotation = (-30 / 360 * 2 * np.pi, 30 / 360 * 2 * np.pi)
initial = get_patch_size(patch, rotation, rotation, rotation, (0.85, 1.25))
if validation:
    initial, transforms = patch, nnUNetTrainer.get_validation_transforms(None)
else:
    transforms = nnUNetTrainer.get_training_transforms(patch, rotation, None, (0, 1, 2), False, [False])
loader = nnUNetDataLoader(dataset, batch, initial, patch, manager, 0.33, transforms=transforms)
for _ in range(max(1, count // 4)):
    loader.generate_train_batch()
started = time.perf_counter()
for _ in range(count):
    loader.generate_train_batch()
seconds = (time.perf_counter() - started) / count
peak = [int(line.split()[1]) * 1024 for line in open("/proc/self/status") if line.startswith("VmHWM:")]
print(json.dumps([seconds, *peak]))
"""


def measure(folder: Path, name: str, *, yardstick: bool, validation: bool = False, store: str = "auto") -> list[float]:
    """Seconds a batch and peak memory in bytes, of a process that does nothing else, with one thread."""
    if yardstick:
        workload = WORKLOADS[name]
        numbers = (workload.patch_size, workload.batch_size, workload.labels, workload.num_batches, validation)
        command = [str(program("python")), "-c", _YARDSTICK, json.dumps([str(folder), *numbers])]
    else:
        call = f"measure_here({str(folder)!r}, {name!r}, {validation}, {store!r})"
        command = [sys.executable, "-c", f"from benchmarks.batches import measure_here; {call}"]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    if done.returncode != 0:
        sys.exit(done.stderr)
    return json.loads(done.stdout.splitlines()[-1])


def compare(repeat: int, name: str, *, validation: bool = False) -> Result:
    """Batches a second of both sides on one folder, in turns."""
    peaks: dict[bool, list[float]] = {True: [], False: []}
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary) / "cases"
        WORKLOADS[name].make(folder)

        def rate(yardstick: bool) -> float:
            seconds, peak = measure(folder, name, yardstick=yardstick, validation=validation)
            peaks[yardstick].append(peak)
            return 1 / seconds

        measured = interleave(repeat, lambda: rate(False), lambda: rate(True))
    megabytes = [statistics.median(peaks[side]) / 2**20 for side in (False, True)]
    note = f"peak memory of the process: {megabytes[0]:.0f} MiB, yardstick {megabytes[1]:.0f} MiB"
    return Result(
        "batches/s", *measured, higher_is_better=True, labels=("BatchLoader", "nnUNetDataLoader"), notes=[note]
    )


def run(repeat: int) -> Result:
    return compare(repeat, "hippocampus")
