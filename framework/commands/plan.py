"""``fw_plan DATASET``: fingerprint and plans of a dataset."""

from __future__ import annotations

import argparse
import functools
import sys
from pathlib import Path
from typing import Any

from framework.commands.common import (
    DONE,
    WRONG_INPUT,
    add_datasets_argument,
    chosen_datasets,
    one_thread_a_process,
    run_command,
)


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="fw_plan", description="Extract the fingerprint of a raw dataset and write its plans."
    )
    add_datasets_argument(parser)
    parser.add_argument(
        "-pl", "--preset", default="default", metavar="P",
        help="default (nnU-Net's rules), resenc_m, resenc_l, resenc_xl, laptop, a JSON file, or a planner of nnU-Net",
    )  # fmt: skip
    parser.add_argument(
        "-overwrite_plans_name", "--plans-name", metavar="NAME", help="name of the plans (default: the preset's)"
    )
    parser.add_argument(
        "-gpu_memory_target", "--memory-gb", type=float, metavar="GB", help="memory of the graphics card to plan for"
    )
    parser.add_argument(
        "-overwrite_target_spacing", "--target-spacing", type=float, nargs=3, metavar=("Z", "Y", "X"),
        help="spacing of 3d_fullres in mm, in the order of the image arrays, instead of the one that would be planned",
    )  # fmt: skip
    parser.add_argument("--explain", action="store_true", help="say what the data are, and why the plans are so")
    parser.add_argument("--overwrite", action="store_true", help="replace plans of this name that say something else")
    parser.add_argument("--clean", action="store_true", help="extract the fingerprint again even if there is one")
    parser.add_argument(
        "--verify_dataset_integrity", "--check", dest="check", action="store_true",
        help="read and check every file, even if there is a fingerprint already (which is then extracted again)",
    )  # fmt: skip
    parser.add_argument(
        "-np", "-npfp", "--num-processes", type=int, metavar="N", help="processes (default: one per core)"
    )
    parser.add_argument("--verbose", action="store_true", help="also print the details that otherwise only the log has")
    parser.add_argument("--no_pbar", "--no-progress", action="store_true", help="no progress bar")
    # nnU-Net's scripts may name what is the only choice here.
    parser.add_argument("-fpe", choices=["DatasetFingerprintExtractor"], help=argparse.SUPPRESS)
    parser.add_argument("-preprocessor_name", choices=["DefaultPreprocessor"], help=argparse.SUPPRESS)
    return parser


def main(arguments: list[str] | None = None) -> int:
    parser = build_parser()
    options = parser.parse_args(arguments)
    codes = []
    for dataset in chosen_datasets(parser, options):
        codes.append(run_command(functools.partial(_plan, options, dataset)))
        if codes[-1] not in (DONE, WRONG_INPUT):
            break  # interrupted; a mistake in one dataset does not stop the others
    return max(codes)


def _plan(options: argparse.Namespace, dataset: str) -> int:
    one_thread_a_process()
    from framework.commands.progress_bar import ProgressBar
    from framework.data.example import create_example_if_asked
    from framework.preprocessing.prepare import plan_dataset_folder
    from framework.preprocessing.presets import load_preset, preset_of_planner, with_rules

    name = preset_of_planner(options.preset) or options.preset
    asked = {"memory_gb": options.memory_gb, "target_spacing": options.target_spacing}
    rules = {key: value for key, value in asked.items() if value is not None}
    preset = with_rules(load_preset(name), rules)
    bar = ProgressBar(shown=not options.no_pbar)
    try:
        create_example_if_asked(dataset, bar.say)
        plans_file = plan_dataset_folder(
            dataset,
            preset=name,
            plans_name=options.plans_name,
            rules=rules,
            clean=options.clean or options.check,
            overwrite=options.overwrite,
            num_processes=options.num_processes,
            say=bar.say,
            progress=bar,
            verbose=options.verbose,
        )
    finally:
        bar.close()
    if options.explain:
        _explain(plans_file, preset)
    return DONE


def _explain(plans_file: Path, preset: dict[str, Any]) -> None:
    from framework.data.raw_dataset import RawDataset
    from framework.errors import DatasetError
    from framework.files import read_json
    from framework.preprocessing.explain import explain_plans, planned_otherwise
    from framework.preprocessing.fingerprint import FILE_NAME
    from framework.roots import raw_root

    raw_dataset = RawDataset.open(raw_root() / plans_file.parent.name)
    fingerprint = read_json(plans_file.parent / FILE_NAME, error_type=DatasetError)
    print()
    for line in explain_plans(raw_dataset, fingerprint, preset):
        print(line)
    different = planned_otherwise(read_json(plans_file, error_type=DatasetError), raw_dataset, fingerprint, preset)
    if different:
        print(f"\nThis is what would be planned now. {plans_file} has another {', '.join(different)}.")


if __name__ == "__main__":
    sys.exit(main())
