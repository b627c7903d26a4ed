"""A steady-state epoch of `SegmentationTrainer` against nnU-Net's trainer (seconds an epoch); meant for CUDA.

Both train one network (nnU-Net's, as its planner writes it) on the same preprocessed folder, each in a process of its
own, in turns, and each runs three epochs:

    epoch 1   compiles, tries convolution algorithms, fills caches; not counted
    epoch 2   the one that is measured: from its start to the start of what follows, logs and checkpoints included
    epoch 3   one batch, again and again: what the device alone takes

The share of epoch 2 by which it is longer than epoch 3 is the share of the time that the device waits for data. The
mean losses of tenths of epochs 1 and 2 are printed beside each other. The two sides agree up to noise only: nnU-Net
seeds nothing that its loaders draw from, and the initial weights alone move the first loss by 0.3 from seed to seed.

On CUDA: simulated CT, patch 128x128x128, batch 2, 250 + 50 iterations, each side's defaults (half precision, compiled),
4 workers; nnU-Net also with its own default of 12. Without CUDA nothing is measured; to try that it works anywhere,
with patches of 32x32x32 and few iterations:

    python -m benchmarks.epoch --small
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from benchmarks.runner import Result, interleave, report
from benchmarks.yardstick import program

DATASET = "Dataset998_Epoch"


@dataclass(frozen=True)
class Size:
    """How large the work is.

    Attributes:
        widths: channels of the network at each resolution.
        workers: of our loader, and of nnU-Net's in the comparison that counts.
        more_workers: of nnU-Net's loader in one further run; 0 leaves it out.
    """

    image: tuple[int, int, int]
    patch: tuple[int, int, int]
    widths: tuple[int, ...]
    iterations: int
    validation_iterations: int
    workers: int
    more_workers: int
    device: str


LARGE = Size((160, 256, 256), (128, 128, 128), (32, 64, 128, 256, 320, 320), 250, 50, 4, 12, "cuda")
SMALL = Size((48, 64, 56), (32, 32, 32), (4, 8, 16), 10, 2, 1, 0, "cpu")


def run(repeat: int) -> Result:
    import torch

    if not torch.cuda.is_available():
        print(
            "epoch needs a CUDA device; torch sees none here. Nothing was measured. "
            "To try that it works: python -m benchmarks.epoch --small"
        )
        sys.exit(0)
    return compare(repeat, LARGE)


def compare(repeat: int, size: Size) -> Result:
    """Both sides in turns on one folder."""
    runs: dict[str, list[dict[str, Any]]] = {}
    with tempfile.TemporaryDirectory() as temporary:
        root = Path(temporary)
        write_dataset(root / "preprocessed" / DATASET, size)

        def seconds(side: str, workers: int) -> float:
            found = _in_a_process(root, side, size, workers)
            runs.setdefault(f"{side}, {workers} workers", []).append(found)
            return found["seconds"][1]

        measured = interleave(
            repeat, lambda: seconds("Foldwise", size.workers), lambda: seconds("nnU-Net", size.workers)
        )
        if size.more_workers:
            seconds("nnU-Net", size.more_workers)
    notes = [_in_words(name, found[-1]) for name, found in runs.items()]
    notes.append("mean training loss of tenths of epochs 1 and 2, last run of each:")
    for name, found in runs.items():
        first, second, _ = found[-1]["curves"]
        notes.append(f"  {name}: " + " ".join(f"{loss:.3f}" for loss in (*first, *second)))
    return Result("s", *measured, labels=("SegmentationTrainer", "nnUNetTrainer"), notes=notes)


def _in_words(name: str, found: dict[str, Any]) -> str:
    first, steady, alone = found["seconds"]
    return (
        f"{name}: first epoch {first:.1f} s, steady {steady:.2f} s, with one batch {alone:.2f} s: "
        f"the device waits {max(0.0, 1 - alone / steady):.1%} of the time"
    )


# ---------------------------------------------------------------- data


def write_dataset(folder: Path, size: Size) -> None:
    """A preprocessed dataset of three simulated CTs, with plans, as nnU-Net leaves it."""
    from framework.data.case_files import write_case
    from framework.data.labels import Labels
    from framework.data.phantom import phantom_case
    from framework.files import write_json
    from framework.preprocessing.class_sampling import keys_to_sample, sample_class_locations

    names = {"background": 0} | {f"organ_{label}": label for label in range(1, 6)}
    labels = Labels.from_dataset_json({"labels": names})
    cases = [f"ct_{number}" for number in range(3)]
    for number, case in enumerate(cases):
        image, segmentation, _ = phantom_case(
            number, shape=size.image, spacing=(2.0, 1.2, 1.2), num_labels=5, modality="ct", variation=0.0
        )
        image = (image - image.mean()) / image.std()
        segmentation = segmentation.reshape(1, *image.shape[1:])
        properties = {"class_locations": sample_class_locations(segmentation, keys_to_sample(labels))}
        write_case(folder / "nnUNetPlans_3d_fullres", case, image, segmentation, properties, size.patch)
    dataset = {"channel_names": {"0": "CT"}, "labels": names, "numTraining": 3, "file_ending": ".nii.gz"}
    write_json(folder / "dataset.json", dataset)
    write_json(folder / "dataset_fingerprint.json", {})
    write_json(folder / "splits_final.json", [{"train": cases[:2], "val": cases[2:]}])
    write_json(folder / "nnUNetPlans.json", _plans(size))


def _plans(size: Size) -> dict[str, Any]:
    resolutions = len(size.widths)
    resampling: dict[str, Any] = {}
    for name, is_seg, order in (("data", False, 3), ("seg", True, 1), ("probabilities", False, 1)):
        resampling[f"resampling_fn_{name}"] = "resample_data_or_seg_to_shape"
        numbers = {"is_seg": is_seg, "order": order, "order_z": 0, "force_separate_z": None}
        resampling[f"resampling_fn_{name}_kwargs"] = numbers
    network = {
        "network_class_name": "dynamic_network_architectures.architectures.unet.PlainConvUNet",
        "arch_kwargs": {
            "n_stages": resolutions,
            "features_per_stage": list(size.widths),
            "conv_op": "torch.nn.modules.conv.Conv3d",
            "kernel_sizes": [[3, 3, 3]] * resolutions,
            "strides": [[1, 1, 1]] + [[2, 2, 2]] * (resolutions - 1),
            "n_conv_per_stage": [2] * resolutions,
            "n_conv_per_stage_decoder": [2] * (resolutions - 1),
            "conv_bias": True,
            "norm_op": "torch.nn.modules.instancenorm.InstanceNorm3d",
            "norm_op_kwargs": {"eps": 1e-05, "affine": True},
            "dropout_op": None,
            "dropout_op_kwargs": None,
            "nonlin": "torch.nn.LeakyReLU",
            "nonlin_kwargs": {"inplace": True},
        },
        "_kw_requires_import": ["conv_op", "norm_op", "dropout_op", "nonlin"],
    }
    configuration = {
        "data_identifier": "nnUNetPlans_3d_fullres",
        "preprocessor_name": "DefaultPreprocessor",
        "batch_size": 2,
        "patch_size": list(size.patch),
        "median_image_size_in_voxels": list(size.image),
        "spacing": [2.0, 1.2, 1.2],
        "normalization_schemes": ["CTNormalization"],
        "use_mask_for_norm": [False],
        **resampling,
        "architecture": network,
        "batch_dice": False,
    }
    statistics = dict.fromkeys(("max", "mean", "median", "min", "percentile_00_5", "percentile_99_5", "std"), 1.0)
    return {
        "dataset_name": DATASET,
        "plans_name": "nnUNetPlans",
        "original_median_spacing_after_transp": [2.0, 1.2, 1.2],
        "original_median_shape_after_transp": list(size.image),
        "image_reader_writer": "SimpleITKIO",
        "transpose_forward": [0, 1, 2],
        "transpose_backward": [0, 1, 2],
        "configurations": {"3d_fullres": configuration},
        "experiment_planner_used": "ExperimentPlanner",
        "label_manager": "LabelManager",
        "foreground_intensity_properties_per_channel": {"0": statistics},
    }


# ---------------------------------------------------------------- the two sides


def _in_a_process(root: Path, side: str, size: Size, workers: int) -> dict[str, Any]:
    """Run one side; what it prints as its last line: seconds of three epochs, and losses of their tenths."""
    environment = {**os.environ, "nnUNet_n_proc_DA": str(workers)}
    for name in ("raw", "preprocessed", "results"):
        folder = root / name if name != "results" else root / side / "results"
        folder.mkdir(parents=True, exist_ok=True)
        environment[f"nnUNet_{name}"] = environment[f"FW_{name.upper()}"] = str(folder)
    numbers = json.dumps({**asdict(size), "workers": workers})
    code = "from benchmarks.epoch import train_here; train_here()"
    if side == "nnU-Net":
        command = [str(program("python")), "-c", _SHARED + _YARDSTICK, numbers]
    else:
        command = [sys.executable, "-c", code, numbers]
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    if done.returncode != 0:
        sys.exit(done.stdout[-3000:] + done.stderr[-3000:])
    return json.loads(done.stdout.splitlines()[-1])


# Both sides use the same clock and the same averages.
_SHARED = """
import json, sys, time
import torch

class Again:
    '''One batch, again and again.'''
    def __init__(self, batches):
        self.batches, self.batch = batches, next(batches)
    def __next__(self):
        return self.batch
    def seek(self, position):
        pass
    def close(self):
        self.batches.close()

def now():
    if torch.cuda.is_initialized():
        torch.cuda.synchronize()
    return time.perf_counter()

def tenths(losses, count=10):
    count = min(count, len(losses))
    edges = [round(i * len(losses) / count) for i in range(count + 1)]
    return [sum(losses[a:b]) / (b - a) for a, b in zip(edges, edges[1:])]
"""

_YARDSTICK = """
import multiprocessing, os, random
import numpy as np
from os.path import join
from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer

size = json.loads(sys.argv[1])
random.seed(0); np.random.seed(0); torch.manual_seed(0)
if size["device"] == "cuda":
    torch.backends.cudnn.benchmark = True
folder = join(os.environ["nnUNet_preprocessed"], "DATASET")
plans, dataset = (json.load(open(join(folder, name))) for name in ("nnUNetPlans.json", "dataset.json"))
plans["continue_training"] = False  # nnU-Net's own command line puts it there
curves = []

class Watched(nnUNetTrainer):
    def on_train_epoch_end(self, train_outputs):
        curves.append(tenths([float(output["loss"]) for output in train_outputs]))
        super().on_train_epoch_end(train_outputs)

trainer = Watched(plans, "3d_fullres", 0, dataset, torch.device(size["device"]))
trainer.num_iterations_per_epoch = size["iterations"]
trainer.num_val_iterations_per_epoch = size["validation_iterations"]
trainer.on_train_start()
marks = [now()]
for epoch in range(3):
    if epoch == 2:
        loaders = trainer.dataloader_train, trainer.dataloader_val
        trainer.dataloader_train, trainer.dataloader_val = map(Again, loaders)
        marks[-1] = now()
    trainer.on_epoch_start()
    trainer.on_train_epoch_start()
    outputs = [trainer.train_step(next(trainer.dataloader_train)) for _ in range(trainer.num_iterations_per_epoch)]
    trainer.on_train_epoch_end(outputs)
    with torch.no_grad():
        trainer.on_validation_epoch_start()
        count = trainer.num_val_iterations_per_epoch
        outputs = [trainer.validation_step(next(trainer.dataloader_val)) for _ in range(count)]
        trainer.on_validation_epoch_end(outputs)
    trainer.on_epoch_end()
    marks.append(now())
    if epoch == 1:
        steady_end = marks[-1]
ends = [marks[1], steady_end, marks[3]]
print(json.dumps({"seconds": [ends[0] - marks[0], ends[1] - ends[0], ends[2] - marks[2]], "curves": curves}))
sys.stdout.flush()
for child in multiprocessing.active_children():  # the loaders' processes, which would be waited for
    child.kill()
os._exit(0)
""".replace("DATASET", DATASET)


def train_here() -> None:
    """Our side, in a process of its own."""
    from framework.hook import Hook
    from trainers import SegmentationTrainer

    shared: dict[str, Any] = {}
    exec(_SHARED, shared)
    now, tenths, again = shared["now"], shared["tenths"], shared["Again"]
    size = json.loads(sys.argv[1])
    marks: list[tuple[float, float]] = []  # end of an epoch, start of the next one
    curves: list[list[float]] = []

    class Watch(Hook):
        """Notes when epochs begin and what their losses are; stops after the third."""

        priority = 1000

        def on_epoch_start(self, trainer: Any) -> None:
            ended = now()
            if len(marks) == 2:
                trainer.training_batches = again(trainer.training_batches)
                trainer.validation_batches = again(trainer.validation_batches)
            marks.append((ended, now()))

        def on_train_epoch_end(self, trainer: Any, outputs: Any) -> None:
            curves.append(tenths([float(output["loss"]) for output in outputs]))
            if len(curves) == 3:
                trainer.request_stop("the benchmark has seen enough")

        def on_train_end(self, trainer: Any) -> None:
            marks.append((now(), 0.0))

    overrides = {
        "training.iterations_per_epoch": size["iterations"],
        "training.validation_iterations_per_epoch": size["validation_iterations"],
        "training.num_workers": size["workers"],
        "training.final_validation": False,
    }
    trainer = SegmentationTrainer.from_dataset(
        DATASET, "3d_fullres", 0, plans="nnUNetPlans", overrides=overrides, device=size["device"], hooks=[Watch()]
    )
    trainer.run_training()
    seconds = [marks[i + 1][0] - marks[i][1] for i in range(3)]
    print(json.dumps({"seconds": seconds, "curves": curves}))


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.epoch")
    parser.add_argument("--small", action="store_true", help="a tiny size on the CPU, to try that both sides run")
    parser.add_argument("--repeat", type=int, default=1, metavar="N", help="interleaved repetitions (default 1)")
    options = parser.parse_args()
    started = time.perf_counter()
    report("epoch", compare(options.repeat, SMALL) if options.small else run(options.repeat))
    print(f"took {time.perf_counter() - started:.0f} s")
    return 0


if __name__ == "__main__":
    sys.exit(main())
