"""Exported label maps and probabilities against those of the real nnU-Net, in every voxel.

    python -m tests.interop.compare_export            voxels that differ; ends with 1 if there are too many
    python -m tests.interop.compare_export --golden   also write what the unit tests compare with

Needs the yardstick (``python -m benchmarks setup``).
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np

from benchmarks.yardstick import program
from tests.interop.export_cases import CASES, LARGE_CASES, exported, sampled

GOLDEN = Path(__file__).parents[1] / "framework" / "golden" / "export.json"
SMALLEST_AGREEMENT = 0.9999
"""Share of voxels with the same label."""
LARGEST_DIFFERENCE = 1e-4
"""Of probabilities."""


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.interop.compare_export")
    parser.add_argument("--golden", action="store_true", help="write the golden file of the unit tests")
    options = parser.parse_args()
    all_fine, golden = True, {}
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        for name, case in (CASES | LARGE_CASES).items():
            np.save(folder / f"{name}.npy", case.logits())
            description = {
                "plans": case.scan.plans,
                "dataset_json": case.scan.dataset_json,
                "properties": case.properties,
                "want_probabilities": name in CASES,
            }
            (folder / f"{name}.json").write_text(json.dumps(description))
        subprocess.run([program("python"), Path(__file__).with_name("nnunet_export.py"), folder], check=True)
        print(f"{'case':34}{'heads':>6}{'voxels':>10}{'other label':>13}{'probabilities':>15}")
        for name, case in (CASES | LARGE_CASES).items():
            theirs = np.load(folder / f"{name}_nnunet.npz")
            label_map, probabilities = exported(case)
            if label_map.shape != theirs["label_map"].shape:
                sys.exit(f"{name}: shape {label_map.shape}, nnU-Net {theirs['label_map'].shape}")
            different = int((label_map != theirs["label_map"]).sum())
            all_fine &= different <= (1 - SMALLEST_AGREEMENT) * label_map.size
            largest = float("nan")
            if name in CASES:
                largest = float(np.abs(probabilities - theirs["probabilities"]).max())
                all_fine &= largest <= LARGEST_DIFFERENCE
                golden[name] = sampled(theirs["label_map"], theirs["probabilities"])
            print(f"{name:34}{len(probabilities):6}{label_map.size:10}{different:13}{largest:15.1e}")
    if options.golden:
        lines = [f"{json.dumps(name)}: {json.dumps(value, separators=(',', ':'))}" for name, value in golden.items()]
        GOLDEN.write_text("{\n" + ",\n".join(lines) + "\n}\n")
    return 0 if all_fine else 1


if __name__ == "__main__":
    sys.exit(main())
