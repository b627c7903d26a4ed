"""Preprocessed arrays against those of the real nnU-Net, on full arrays.

    python -m tests.interop.compare_preprocessing            the largest differences; ends with 1 if one is too large
    python -m tests.interop.compare_preprocessing --golden   also write what the unit tests compare with

Needs the yardstick (``python -m benchmarks setup``).
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from benchmarks.yardstick import program
from framework.data.image_io import read_images, read_segmentation
from tests.interop.preprocessing_cases import (
    CASES,
    CT,
    LARGE_CASES,
    Preprocessed,
    PreprocessingCase,
    preprocess,
    sampled,
)

GOLDEN = Path(__file__).parents[1] / "framework" / "golden" / "preprocessing.json"
CT_FOLDER = Path(__file__).parents[3] / "shared" / "data" / "ct_small"
LARGEST_DIFFERENCE = 1e-4
"""In normalised intensities."""
SMALLEST_AGREEMENT = 0.9999
"""Share of voxels with the same label."""


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.interop.compare_preprocessing")
    parser.add_argument("--golden", action="store_true", help="write the golden file of the unit tests")
    options = parser.parse_args()
    scans: dict[str, tuple[np.ndarray, np.ndarray, Sequence[float], PreprocessingCase]]
    scans = {name: (*case.arrays(), case.spacing, case) for name, case in (CASES | LARGE_CASES).items()}
    if CT_FOLDER.is_dir():
        scans["ct_small"] = _real_ct()
    all_fine, golden = True, {}
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        for name, (image, labels, spacing, case) in scans.items():
            np.savez(folder / f"{name}.npz", image=image, labels=labels, spacing=spacing)
            description = {"plans": case.plans, "configuration": "some", "dataset_json": case.dataset_json}
            (folder / f"{name}.json").write_text(json.dumps(description))
        script = Path(__file__).with_name("nnunet_preprocessing.py")
        subprocess.run([program("python"), script, folder], check=True)
        print(f"{'case':34}{'shape':>18}{'image':>11}{'back':>11}{'labels that differ':>22}")
        for name, (image, labels, spacing, case) in scans.items():
            theirs = Preprocessed(**np.load(folder / f"{name}_nnunet.npz"))
            ours = preprocess(image, labels, spacing, case.plans, case.dataset_json)
            all_fine &= _reported(name, ours, theirs)
            if name in CASES:
                golden[name] = sampled(theirs)
    if options.golden:
        lines = [f"{json.dumps(name)}: {json.dumps(value, separators=(',', ':'))}" for name, value in golden.items()]
        GOLDEN.write_text("{\n" + ",\n".join(lines) + "\n}\n")
    return 0 if all_fine else 1


def _reported(name: str, ours: Preprocessed, theirs: Preprocessed) -> bool:
    """Print a line; whether all is within tolerance."""
    if ours.image.shape != theirs.image.shape:
        print(f"{name}: shape {ours.image.shape}, nnU-Net {theirs.image.shape}")
        return False
    image = float(np.abs(ours.image - theirs.image).max())
    back = float(np.abs(ours.back - theirs.back).max())
    different = int((ours.labels != theirs.labels).sum())
    shape = "x".join(map(str, ours.image.shape))
    print(f"{name:34}{shape:>18}{image:11.1e}{back:11.1e}{different:>10} of {ours.labels.size}")
    scale = max(1.0, float(np.abs(theirs.image).max()) / 100)  # images that kept their raw values
    if not np.array_equal(ours.locations, theirs.locations) and not different:
        print(f"{'':34}class locations differ: {len(ours.locations)} and {len(theirs.locations)}")
        return False
    few = different <= (1 - SMALLEST_AGREEMENT) * ours.labels.size
    return image <= LARGEST_DIFFERENCE * scale and back <= LARGEST_DIFFERENCE * scale and few


def _real_ct() -> tuple[np.ndarray, np.ndarray, list[float], PreprocessingCase]:
    """The CT of the shared data, to be resampled to finer slices."""
    image, properties = read_images([CT_FOLDER / "ct_0000.nii.gz"])
    labels, _ = read_segmentation(CT_FOLDER / "ct_label.nii.gz")
    spacing = properties["spacing"]
    plans = PreprocessingCase(image.shape[1:], tuple(spacing), (2.2, 2.5, 2.5), (CT,), num_labels=int(labels.max()) + 1)
    return image, labels, spacing, plans


if __name__ == "__main__":
    sys.exit(main())
