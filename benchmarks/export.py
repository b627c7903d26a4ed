"""Export of 40 classes, logits of 128x192x192 to a scan of 256x384x384, same logits and same labels (seconds)."""

from __future__ import annotations

import statistics
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from benchmarks.measured_process import measure
from benchmarks.runner import Result, interleave
from benchmarks.yardstick import program
from framework.files import read_json, write_json

NUM_LABELS, NETWORK_SHAPE, SCAN_SHAPE = 40, (128, 192, 192), (256, 384, 384)

# Each side in a process of its own. What is timed is the call alone: programs and logits are loaded before.
_LOAD = """
import json, resource, sys, time
import numpy as np, torch
case, name = json.load(open(sys.argv[1] + "/case.json")), sys.argv[1] + "/" + sys.argv[2]
logits = torch.from_numpy(np.load(sys.argv[1] + "/logits.npy"))
"""
_TIME = """
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
started, processor = time.perf_counter(), time.process_time()
label_map = export()
taken = {"seconds": time.perf_counter() - started, "processor_seconds": time.process_time() - processor}
peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
json.dump(taken | {"peak": peak * 1024, "beyond": (peak - before) * 1024}, open(name + ".json", "w"))
np.save(name + ".npy", label_map)
"""
_OURS = """
from framework.data.labels import Labels
from framework.inference.export import label_map_from_logits
from framework.plans import Plans
plans, labels = Plans.from_dict(case["plans"]), Labels.from_dataset_json(case["dataset_json"])
export = lambda: label_map_from_logits(logits, case["properties"], plans, plans.configuration("3d_fullres"), labels)
"""
_THEIRS = """
from nnunetv2.inference.export_prediction import convert_predicted_logits_to_segmentation_with_correct_shape as convert
from nnunetv2.utilities.plans_handling.plans_handler import PlansManager
plans = PlansManager(case["plans"])
labels, configuration = plans.get_label_manager(case["dataset_json"]), plans.get_configuration("3d_fullres")
export = lambda: convert(logits, plans, configuration, labels, case["properties"])
"""


@dataclass(frozen=True)
class Export:
    """What one export took: seconds on the clock and of all cores, bytes of the process at its peak, and bytes by
    which that peak grew after the logits had been loaded."""

    seconds: float
    processor_seconds: float
    peak: int
    beyond: int


def run(repeat: int) -> Result:
    (ours, theirs), notes = compare(repeat)
    processor = [statistics.median(each.processor_seconds for each in side) for side in (ours, theirs)]
    notes.append(f"processor time: {processor[0]:.2f} s and {processor[1]:.1f} s ({processor[1] / processor[0]:.0f})")
    return Result("s", [each.seconds for each in ours], [each.seconds for each in theirs], labels=LABELS, notes=notes)


LABELS = ("Foldwise", "nnU-Net")


def compare(repeat: int) -> tuple[tuple[list[Export], list[Export]], list[str]]:
    """Both sides in turns, and how far their labels agree."""
    programs = (Path(sys.executable), _LOAD + _OURS + _TIME), (program("python"), _LOAD + _THEIRS + _TIME)
    found: tuple[list[Export], list[Export]] = ([], [])
    with tempfile.TemporaryDirectory() as folder:
        logits = simulated_logits(NUM_LABELS, NETWORK_SHAPE)
        np.save(f"{folder}/logits.npy", logits)
        write_json(f"{folder}/case.json", _description())

        def export(side: int) -> float:
            measure([programs[side][0], "-c", programs[side][1], folder, f"side_{side}"], {})
            found[side].append(Export(**read_json(f"{folder}/side_{side}.json")))
            return found[side][-1].seconds

        interleave(repeat, lambda: export(0), lambda: export(1))
        maps = [np.load(f"{folder}/side_{side}.npy") for side in (0, 1)]
    different, present = int((maps[0] != maps[1]).sum()), len(np.unique(maps[1]))
    share = 100 * (1 - different / maps[0].size)
    notes = [
        f"{present} of {NUM_LABELS} labels occur; {different} of {maps[0].size} voxels have another label "
        f"({share:.5f}% agree)",
        f"logits: {logits.nbytes / 2**20:.0f} MB",
    ]
    return found, notes


def simulated_logits(num_labels: int, shape: tuple[int, int, int]) -> Tensor:
    """(K, X, Y, Z) float32 of round organs in a body, as networks give them: sure inside, smooth at borders, other
    classes far below but not equal, and a little noise."""
    random = np.random.default_rng(0)
    generator = torch.Generator().manual_seed(0)
    grids = [
        torch.linspace(0, 1, length).view([-1 if i == axis else 1 for i in range(3)])
        for axis, length in enumerate(shape)
    ]
    logits = torch.empty(num_labels, *shape)
    for k in range(num_labels):
        coarse = torch.randn((1, 1, *(max(2, length // 6) for length in shape)), generator=generator)
        smooth = torch.nn.functional.interpolate(coarse, shape, mode="trilinear")[0, 0]
        if k == 0:
            certainty = torch.zeros(shape)
        else:
            centre, radius = random.uniform(0.15, 0.85, 3), random.uniform(0.07, 0.16, 3)
            distance = sum(((grid - c) / r) ** 2 for grid, c, r in zip(grids, centre, radius))
            certainty = (20 * (1 - torch.as_tensor(distance).sqrt())).clamp(-8, 8)
        logits[k] = certainty + smooth + 0.1 * torch.randn(shape, generator=generator)
    return logits


def _description() -> dict[str, object]:
    spacing = [2.0 * network / scan for network, scan in zip(NETWORK_SHAPE, SCAN_SHAPE)]
    function = "resample_data_or_seg_to_shape"
    linear = {"is_seg": False, "order": 1, "order_z": 0, "force_separate_z": None}
    configuration = {
        "data_identifier": "none",
        "architecture": {"network_class_name": "none", "arch_kwargs": {}, "_kw_requires_import": []},
        "patch_size": [96, 96, 96],
        "spacing": [2.0, 2.0, 2.0],
        "normalization_schemes": ["CTNormalization"],
        "use_mask_for_norm": [False],
    }
    for kind in ("data", "seg", "probabilities"):
        configuration |= {f"resampling_fn_{kind}": function, f"resampling_fn_{kind}_kwargs": linear}
    return {
        "plans": {
            "dataset_name": "Dataset902_Export",
            "plans_name": "nnUNetPlans",
            "image_reader_writer": "SimpleITKIO",
            "label_manager": "LabelManager",
            "transpose_forward": [0, 1, 2],
            "transpose_backward": [0, 1, 2],
            "configurations": {"3d_fullres": configuration},
        },
        "dataset_json": {
            "channel_names": {"0": "CT"},
            "labels": {"background": 0} | {f"organ_{label}": label for label in range(1, NUM_LABELS)},
            "file_ending": ".nii.gz",
        },
        "properties": {
            "spacing": spacing,
            "shape_before_cropping": SCAN_SHAPE,
            "bbox_used_for_cropping": [[0, length] for length in SCAN_SHAPE],
            "shape_after_cropping_and_before_resampling": SCAN_SHAPE,
        },
    }
