"""The input of a cascade's second stage against the real nnU-Net's: scan and previous stage, voxel by voxel.

    python -m tests.interop.compare_cascade_input    the largest differences; ends with 1 if one is too large

Needs the yardstick (``python -m benchmarks setup``).
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import SimpleITK

from benchmarks.yardstick import program
from framework.data.case_listing import RawCase
from framework.data.labels import Labels
from framework.data.prediction_input import read_case_to_predict
from framework.inference.network_input import network_input
from framework.plans import Plans
from tests.interop.compare_preprocessing import LARGEST_DIFFERENCE
from tests.interop.preprocessing_cases import CASES, PreprocessingCase

_CHOSEN = (
    "finer",
    "coarser",
    "thick slices",
    "thick slices last in the file",
    "within the mask",
    "holes within the mask",
    "four channels",
    "slices of a volume",
    "regions",
    "many labels",
    "labels by nearest voxel",
)


def main() -> int:
    all_fine = True
    with tempfile.TemporaryDirectory() as temporary:
        for name in _CHOSEN:
            write_case(Path(temporary) / name, CASES[name])
        script = Path(__file__).with_name("nnunet_cascade_input.py")
        subprocess.run([program("python"), script, temporary], check=True)
        print(f"{'case':34}{'shape':>18}{'scan':>11}{'voxels of the previous stage that differ':>46}")
        for name in _CHOSEN:
            folder, case = Path(temporary) / name, CASES[name]
            theirs, ours = np.load(folder / "nnunet.npy"), our_input(folder, case)
            if theirs.shape != ours.shape:
                print(f"{name}: shape {ours.shape}, nnU-Net {theirs.shape}")
                all_fine = False
                continue
            channels = len(case.schemes)
            scan = float(np.abs(ours[:channels] - theirs[:channels]).max())
            different = int((ours[channels:] != theirs[channels:]).sum())
            print(f"{name:34}{'x'.join(map(str, ours.shape)):>18}{scan:11.1e}{different:>25} of {ours[channels:].size}")
            all_fine &= scan <= LARGEST_DIFFERENCE and different == 0
    return 0 if all_fine else 1


def write_case(folder: Path, case: PreprocessingCase) -> None:
    """The files of one case, as `nnunet_cascade_input` expects them."""
    folder.mkdir()
    image, labels = case.arrays()
    if case.labels and "ignore" in case.labels:
        labels[labels == case.labels["ignore"]] = 0  # nothing predicts it
    for number, channel in enumerate(image):
        _write(folder / f"scan_{number:04d}.nii.gz", channel, case)
    _write(folder / "scan.nii.gz", labels[0].astype(np.uint8), case)
    (folder / "plans.json").write_text(json.dumps(plans_of_second_stage(case)))
    (folder / "dataset.json").write_text(json.dumps(case.dataset_json))


def our_input(folder: Path, case: PreprocessingCase) -> np.ndarray:
    """By Foldwise, from the same files."""
    plans, labels = Plans.from_dict(plans_of_second_stage(case)), Labels.from_dataset_json(case.dataset_json)
    raw = RawCase("scan", tuple(sorted(folder.glob("scan_*.nii.gz"))))
    image, segmentation, properties = read_case_to_predict(
        raw, labels, len(case.schemes), plans.image_reader_writer, print, folder / "scan.nii.gz"
    )
    return network_input(image, segmentation, properties, plans, plans.configuration("some"), labels)[0]


def plans_of_second_stage(case: PreprocessingCase) -> dict:
    plans = case.plans
    plans["configurations"]["some"] |= {"previous_stage": "other", "preprocessor_name": "DefaultPreprocessor"}
    plans["configurations"]["other"] = {"inherits_from": "some", "previous_stage": None, "next_stage": "some"}
    return plans


def _write(path: Path, array: np.ndarray, case: PreprocessingCase) -> None:
    image = SimpleITK.GetImageFromArray(array)
    image.SetSpacing([float(length) for length in reversed(case.spacing)])
    SimpleITK.WriteImage(image, str(path))


if __name__ == "__main__":
    sys.exit(main())
