"""Fingerprint, plans and 3d_fullres data of 5 simulated CTs, 160x256x256, 5 labels, mixed spacing (seconds)."""

from __future__ import annotations

import tempfile
from pathlib import Path

from benchmarks.preprocessing import compare
from benchmarks.runner import Result
from benchmarks.simulated_ct import write_phantom_cts

SPACINGS = ((1.5, 0.8, 0.8), (2.0, 0.7, 0.7), (1.0, 0.9, 0.9), (2.5, 0.75, 0.75), (1.25, 0.8, 0.8))


def run(repeat: int) -> Result:
    with tempfile.TemporaryDirectory() as raw:
        write_phantom_cts(Path(raw) / "Dataset900_SimulatedCT", SPACINGS, (160, 256, 256), num_labels=5)
        return compare(Path(raw), 900, ("3d_fullres",), repeat)
