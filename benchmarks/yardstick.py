"""The real nnU-Net 2.8.1 in a virtual environment of its own; never imported, only run."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

FOLDER = Path(__file__).parent / "yardstick"
_STEPS = (
    ("torch==2.13.0",),
    ("--no-deps", "nnunetv2==2.8.1", "dynamic-network-architectures", "acvl-utils", "batchgeneratorsv2"),
    (
        "batchgenerators", "SimpleITK", "scikit-image", "scikit-learn", "nibabel", "tifffile", "imagecodecs", "pandas",
        "seaborn", "graphviz", "einops", "yacs", "blosc2", "connected-components-3d", "tqdm", "requests",
    ),
)  # fmt: skip


def set_up() -> int:
    """Build the environment."""
    subprocess.run([sys.executable, "-m", "venv", FOLDER], check=True)
    for packages in _STEPS:
        subprocess.run([FOLDER / "bin" / "pip", "install", "-q", *packages], check=True)
    print(f"the yardstick is ready in {FOLDER}")
    return 0


def program(name: str) -> Path:
    """A program of the yardstick; tells how to install it if it is not there."""
    path = FOLDER / "bin" / name
    if not path.exists():
        sys.exit(f"{path} is missing. Run first: python -m benchmarks setup")
    return path
