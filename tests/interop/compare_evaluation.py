"""summary.json against that of the real nnU-Net, in every character but NaN, for labels, regions and ignored voxels.

    python -m tests.interop.compare_evaluation    names what differs; ends with 1 if anything does

Needs the yardstick (``python -m benchmarks setup``).
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.yardstick import program
from framework.commands.evaluate import main as fw_evaluate
from framework.data.image_io import write_segmentation

GEOMETRY = {
    "spacing": [2.0, 1.0, 0.5],
    "sitk_stuff": {
        "spacing": (0.5, 1.0, 2.0),
        "origin": (0.0, 0.0, 0.0),
        "direction": (1.0, 0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0, 1.0),
    },
}
DATASETS: dict[str, dict[str, Any]] = {
    "labels": {"labels": {"background": 0, "liver": 1, "spleen": 2, "in no case": 3}},
    "regions": {
        "labels": {"background": 0, "whole": [1, 2, 3], "core": [2, 3], "enhancing": [3]},
        "regions_class_order": [1, 2, 3],
    },
    "ignore": {"labels": {"background": 0, "liver": 1, "ignore": 2}},
}


def main() -> int:
    all_equal = True
    for name, dataset_json in DATASETS.items():
        with tempfile.TemporaryDirectory() as temporary:
            folder = Path(temporary)
            _write_cases(folder, highest=3 if name == "regions" else 2)
            (folder / "dataset.json").write_text(json.dumps({"file_ending": ".nii.gz", **dataset_json}))
            (folder / "plans.json").write_text(json.dumps({"plans_name": "none", "configurations": {}}))
            arguments = [
                *(str(folder / each) for each in ("references", "predictions")),
                "-djfile", str(folder / "dataset.json"), "-pfile", str(folder / "plans.json"), "-np", "1",
            ]  # fmt: skip
            subprocess.run([program("nnUNetv2_evaluate_folder"), *arguments, "-o", folder / "theirs.json"], check=True)
            if fw_evaluate([*arguments, "-o", str(folder / "ours.json")]) != 0:
                return 1
            theirs = (folder / "theirs.json").read_text().replace("NaN", "null")
            equal = (folder / "ours.json").read_text() == theirs
        print(f"{name}: {'equal' if equal else 'DIFFERENT'}, {theirs.count('null')} undefined scores")
        all_equal &= equal
    return 0 if all_equal else 1


def _write_cases(folder: Path, highest: int) -> None:
    generator = np.random.default_rng(0)
    for number in range(4):
        for kind in ("references", "predictions"):
            labels = generator.integers(0, highest + 1, (9, 10, 11)).astype(np.uint8)
            if number == 3:
                labels[labels == 1] = 0
            write_segmentation(labels, folder / kind / f"case{number}.nii.gz", GEOMETRY)


if __name__ == "__main__":
    sys.exit(main())
