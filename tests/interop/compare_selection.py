"""The choice of a configuration, ensembles and post-processing against those of the real nnU-Net.

    python -m tests.interop.compare_selection            a table; ends with 1 if anything differs
    python -m tests.interop.compare_selection plain      only this cross-validation
    python -m tests.interop.compare_selection --golden   also write what the unit tests compare with

Both get the same made-up cross-validations. Compared are the mean Dice of every candidate, the winner, the steps of
post-processing, the scores after it, and label maps in every voxel: those of ensembles, those after post-processing,
and those that each program makes of new predictions with the postprocessing.pkl of the other. Needs the yardstick
(``python -m benchmarks setup``).
"""

from __future__ import annotations

import argparse
import base64
import json
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.yardstick import program
from framework.data.image_io import read_segmentation
from tests.interop.selection_cases import CROSS_VALIDATIONS, CrossValidation

GOLDEN = Path(__file__).parents[1] / "framework" / "golden" / "selection.json"
LARGEST_DIFFERENCE = 1e-12
"""Of a mean Dice."""


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.interop.compare_selection")
    parser.add_argument("names", nargs="*", default=list(CROSS_VALIDATIONS), metavar="NAME")
    parser.add_argument("--golden", action="store_true", help="write the golden file of the unit tests")
    options = parser.parse_args()
    golden: dict[str, Any] = {}
    fine = True
    for name in options.names:
        with tempfile.TemporaryDirectory() as temporary:
            problems, theirs = _compare(CROSS_VALIDATIONS[name], Path(temporary))
        best = theirs["winner"]
        print(
            f"{name:14}best {' + '.join(best):34}{theirs['before']:.6f} -> {theirs['after']:.6f}  "
            f"{len(theirs['steps'])} steps  {'; '.join(problems) or 'all equal'}"
        )
        fine &= not problems
        golden[name] = theirs
    if options.golden:
        lines = [f"{json.dumps(name)}: {json.dumps(value)}" for name, value in golden.items()]
        GOLDEN.write_text("{\n" + ",\n".join(lines) + "\n}\n")
    return 0 if fine else 1


def _compare(cross_validation: CrossValidation, folder: Path) -> tuple[list[str], dict[str, Any]]:
    cross_validation.write(folder / "ours")
    shutil.copytree(folder / "ours", folder / "theirs")
    number, configurations = cross_validation.name[7:10], list(cross_validation.models)
    for owner, command in (("ours", _own("select")), ("theirs", [program("nnUNetv2_find_best_configuration")])):
        _run([*command, number, "-c", *configurations, "-np", "1"], folder / owner)
    ours, theirs = (outcome_of(folder / owner / "results" / cross_validation.name) for owner in ("ours", "theirs"))
    problems = [f"{key}: {ours[key]}, nnU-Net {theirs[key]}" for key in ("winner", "steps") if ours[key] != theirs[key]]
    for key in ("before", "after"):
        if abs(ours[key] - theirs[key]) > LARGEST_DIFFERENCE:
            problems.append(f"{key}: {ours[key]}, nnU-Net {theirs[key]}")
    for candidate, dice in theirs["all_results"].items():
        if abs(ours["all_results"].get(candidate, np.inf) - dice) > LARGEST_DIFFERENCE:
            problems.append(f"{candidate}: {ours['all_results'].get(candidate)}, nnU-Net {dice}")
    problems += _different_maps(folder / "ours" / "results", folder / "theirs" / "results", "")
    pickled = folder / "theirs" / _postprocessing_file(folder / "ours" / "results" / cross_validation.name, folder)
    theirs["pickle"] = base64.b64encode(pickled.read_bytes()).decode()
    if not problems:
        problems = _on_new_predictions(cross_validation, folder)
    return problems, theirs


def outcome_of(results: Path) -> dict[str, Any]:
    """What was found, from the files that both programs write."""
    information = json.loads((results / "inference_information.json").read_text())
    best = information["best_model_or_ensemble"]
    postprocessing = json.loads(Path(best["postprocessing_file"]).with_suffix(".json").read_text())
    return {
        "winner": [model["configuration"] for model in best["selected_model_or_models"]],
        "all_results": information["all_results"],
        "before": best["result_on_crossval_pre_pp"],
        "after": best["result_on_crossval_post_pp"],
        "steps": [arguments["labels_or_regions"] for arguments in postprocessing["postprocessing_kwargs"]],
    }


def _on_new_predictions(cross_validation: CrossValidation, folder: Path) -> list[str]:
    """Predictions that the steps were not determined on: two ensembled, then post-processed with the other's file."""
    results = folder / "ours" / "results" / cross_validation.name
    sources = []
    for model in list(cross_validation.models)[:2]:
        source = folder / f"predicted_{model}"
        shutil.copytree(cross_validation.model_folder(folder / "ours", model) / "fold_0" / "validation", source)
        (source / "summary.json").unlink()
        for name in ("dataset.json", "plans.json"):
            shutil.copy(cross_validation.model_folder(folder / "ours", model) / name, source)
        sources.append(source)
    for owner, command in (("ours", _own("ensemble")), ("theirs", [program("nnUNetv2_ensemble")])):
        target = folder / f"ensembled_{owner}"
        _run([*command, "-i", *sources, "-o", target, "-np", "1", "--save_npz"], folder / "ours")
    problems = _different_maps(folder / "ensembled_ours", folder / "ensembled_theirs", "fw_ensemble: ")
    for file in (folder / "ensembled_theirs").glob("*.npz"):
        theirs, ours = (np.load(path)["probabilities"] for path in (file, folder / "ensembled_ours" / file.name))
        if not np.array_equal(ours, theirs):
            problems.append(f"{file.name}: probabilities differ by {np.abs(ours - theirs).max()}")
    relative = _postprocessing_file(results, folder)
    for owner, other, command in (
        ("ours", "theirs", _own("postprocess")),
        ("theirs", "ours", [program("nnUNetv2_apply_postprocessing")]),
    ):
        steps = ["-pp_pkl_file", folder / other / relative, "-np", "1"]
        target = folder / f"postprocessed_{owner}"
        _run([*command, "-i", folder / "ensembled_ours", "-o", target, *steps], folder / "ours")
    different = _different_maps(folder / "postprocessed_ours", folder / "postprocessed_theirs", "fw_postprocess: ")
    return problems + different


def _postprocessing_file(our_results: Path, folder: Path) -> Path:
    """Where it lies, below the folder of either program."""
    best = json.loads((our_results / "inference_information.json").read_text())["best_model_or_ensemble"]
    return Path(best["postprocessing_file"]).relative_to(folder / "ours")


def _different_maps(ours: Path, theirs: Path, what: str) -> list[str]:
    """Label maps of nnU-Net's that we do not have, or that differ in a voxel."""
    problems = []
    compared = 0
    for file in sorted(theirs.rglob("*.nii.gz")):
        own = ours / file.relative_to(theirs)
        if not own.is_file():
            problems.append(f"{what}{own} is missing")
            continue
        different = int((read_segmentation(own)[0] != read_segmentation(file)[0]).sum())
        if different:
            problems.append(f"{what}{own.relative_to(ours)}: {different} voxels differ")
        compared += 1
    return problems if compared else [f"{what}nothing to compare in {theirs}"]


def _own(command: str) -> list[str]:
    return [sys.executable, "-m", f"framework.commands.{command}"]


def _run(command: list[Any], root: Path) -> None:
    roots = {
        f"{prefix}{name}": str(root / kind)
        for kind in ("raw", "preprocessed", "results")
        for prefix, name in (("nnUNet_", kind), ("FW_", kind.upper()))
    }
    done = subprocess.run(
        [str(part) for part in command], env={**os.environ, **roots}, capture_output=True, text=True, check=False
    )
    if done.returncode:
        sys.exit(f"{' '.join(map(str, command))} ended with {done.returncode}:\n{done.stdout}\n{done.stderr}")


if __name__ == "__main__":
    sys.exit(main())
