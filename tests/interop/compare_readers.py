"""Every reader against the real nnU-Net's of the same name: voxels, spacing, properties, and label images both ways.

    python -m tests.interop.compare_readers            counts by reader; ends with 1 if something differs
    python -m tests.interop.compare_readers --golden   also write what the unit tests compare with

Needs the yardstick (``python -m benchmarks setup``).
"""

from __future__ import annotations

import argparse
import base64
import json
import subprocess
import sys
import tempfile
import warnings
import zlib
from collections import Counter, defaultdict
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.yardstick import program
from framework.data.image_io import read_images, read_segmentation, write_segmentation
from framework.errors import CaseWarning, FoldwiseError

GOLDEN = Path(__file__).parents[1] / "framework" / "golden" / "readers.json"
SCRIPT = Path(__file__).with_name("nnunet_readers.py")
IN_GOLDEN = (
    "nifti0.nii", "nifti2.nii.gz", "nifti3.nii", "nifti5.nii.gz", "itk_i2_2d.nrrd", "itk_u1_4d.nii.gz",
    "tiff8_uint8_3_0000.tif", "tiff10_uint8_3_0000.tif", "tiff77_int16_7_0000.tif", "tiff147_float64_2_0000.tif",
    "tiff164_float16_2_0000.tif", "tiff226_bool_2_0000.tif", "photograph_rgba.png", "photograph_bit.png",
    "photograph_palette.png", "photograph_palette.bmp", "photograph_rgba.bmp", "photograph_palette.tif",
)  # fmt: skip
"""Matrix only, quaternion and matrix, neither but scaled, NIfTI-2; planes, tiles, deflate, big-endian; ..."""
LARGEST_DIFFERENCE = 1e-12
DIFFERENT = "DIFFERENT"


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.interop.compare_readers")
    parser.add_argument("--golden", action="store_true", help="write the golden file of the unit tests")
    options = parser.parse_args()
    warnings.simplefilter("ignore", CaseWarning)
    counts: dict[str, Counter[str]] = defaultdict(Counter)
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        subprocess.run([program("python"), SCRIPT, "make", folder], check=True, stderr=subprocess.DEVNULL)
        results = json.loads((folder / "nnunet.json").read_text())
        if options.golden:
            write_golden(folder, results)
        written = [result for result in results if compare(folder, result, counts[result["reader"]])]
        names = [(f"ours_{result['written']}", result["reader"]) for result in written]
        (folder / "written.json").write_text(json.dumps(names))
        subprocess.run([program("python"), SCRIPT, "again", folder], check=True, stderr=subprocess.DEVNULL)
        for result, theirs in zip(written, json.loads((folder / "again.json").read_text()), strict=True):
            expected, properties = read_segmentation(folder / result["written"], result["reader"])
            ours = np.reshape(theirs["voxels"], theirs["shape"])
            same = np.array_equal(ours, expected) and close(properties, theirs["properties"])
            count(counts[result["reader"]], "label image of ours read by nnU-Net", same, result)
    for reader, counter in counts.items():
        print(reader, *(f"  {number:4} {what}" for what, number in sorted(counter.items())), sep="\n")
    return int(any(what.startswith(DIFFERENT) for counter in counts.values() for what in counter))


def compare(folder: Path, result: dict[str, Any], counter: Counter[str]) -> bool:
    """Read what nnU-Net read and wrote, and write the same label image; False if there is none."""
    reader = result["reader"]
    theirs = np.reshape(np.array(result["voxels"], np.float32), result["shape"])
    try:
        ours, properties = read_images([folder / result["file"]], reader)
    except FoldwiseError as error:
        # nnU-Net reads a colour photograph as a volume of three columns.
        count(counter, "colour image refused as a volume", "is a colour image" in str(error), result)
        return False
    count(counter, "voxels", np.array_equal(ours, theirs, equal_nan=True), result)
    count(counter, "properties", close(properties, result["properties"]), result)
    if not result["written"] or result["file"].endswith(".jpg"):
        return False
    segmentation, _ = read_segmentation(folder / result["written"], reader)
    expected = np.arange(segmentation.size).reshape(segmentation.shape) % 5
    count(counter, "label image of nnU-Net read", np.array_equal(segmentation, expected), result)
    write_segmentation(segmentation[0], folder / f"ours_{result['written']}", properties, reader)
    return True


def count(counter: Counter[str], what: str, equal: bool, result: dict[str, Any]) -> None:
    counter[f"equal: {what}" if equal else f"{DIFFERENT}: {what}, {result['file']}"] += 1


def close(ours: dict[str, Any], theirs: dict[str, Any]) -> bool:
    """Whether two sets of properties have the same keys, and the same numbers up to rounding in float64."""
    if ours.keys() != theirs.keys():
        return False
    for key, value in theirs.items():
        if isinstance(value, dict):
            if not close(ours[key], value):
                return False
        elif isinstance(value, str):
            if ours[key] != value:
                return False
        elif not np.allclose(ours[key], value, rtol=LARGEST_DIFFERENCE, atol=LARGEST_DIFFERENCE):
            return False
    return True


def write_golden(folder: Path, results: list[dict[str, Any]]) -> None:
    """Small files with what nnU-Net reads from them, one a line."""
    chosen: dict[str, dict[str, Any]] = {}
    for result in results:
        name = result["file"]
        if name not in IN_GOLDEN:
            continue
        content = base64.b64encode(zlib.compress((folder / name).read_bytes(), 9)).decode()
        entry = chosen.setdefault(name, {"content": content, "read": {}})
        side_file = folder / name.replace("_0000.tif", ".json")
        if name.startswith("tiff") and side_file.is_file():
            entry["side_file"] = side_file.read_text()
        entry["read"][result["reader"]] = {key: result[key] for key in ("shape", "voxels", "properties")}
    lines = [f"{json.dumps(name)}: {json.dumps(entry, separators=(',', ':'))}" for name, entry in chosen.items()]
    GOLDEN.write_text("{\n" + ",\n".join(lines) + "\n}\n")


if __name__ == "__main__":
    sys.exit(main())
