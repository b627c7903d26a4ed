"""One CT of 512x512x600 voxels with 100 labels brought to 1 mm: memory at the peak, in resampled images."""

from __future__ import annotations

import json
import math
import sys
import tempfile
from pathlib import Path

from benchmarks.measured_process import measure
from benchmarks.runner import Result
from benchmarks.simulated_ct import write_large_ct
from framework.data.store import CaseStore

SHAPE, SPACING = (600, 512, 512), (1.0, 0.8, 0.8)
GOAL = 4.0


def run(repeat: int) -> Result:
    """The yardstick here is the goal: four times the resampled image in float32."""
    with tempfile.TemporaryDirectory() as folder:
        write_large_ct(Path(folder) / "raw" / "Dataset901_LargeCT", SHAPE, SPACING, num_labels=100)
        roots = {f"FW_{name.upper()}": str(Path(folder) / name) for name in ("raw", "preprocessed", "results")}
        programs = Path(sys.executable).parent
        spacing = ["-overwrite_target_spacing", "1", "1", "1", "-overwrite_plans_name", "one_mm"]
        plan = measure([programs / "fw_plan", "901", *spacing], roots)
        preprocess = measure([programs / "fw_preprocess", "901", "-p", "one_mm", "-c", "3d_fullres"], roots)
        data = Path(folder) / "preprocessed" / "Dataset901_LargeCT"
        identifier = json.loads((data / "one_mm.json").read_text())["configurations"]["3d_fullres"]["data_identifier"]
        shape = CaseStore(data / identifier, mode="packed").shape("ct_0")
    image = 4 * math.prod(shape)
    parts = {"fw_plan": plan, "fw_preprocess": preprocess}
    notes = [f"resampled: {'x'.join(map(str, shape[1:]))} voxels, {image / 2**20:.0f} MB in float32"]
    notes += [
        f"{name}: {part.largest_process >> 20} MB, {part.largest_process / image:.2f} images, {part.seconds:.1f} s"
        for name, part in parts.items()
    ]
    largest = max(part.largest_process for part in parts.values())
    return Result("images", [largest / image], [GOAL], labels=("Foldwise", "goal"), notes=notes)
