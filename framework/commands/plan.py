"""``fw_plan DATASET``: fingerprint and plans of a dataset."""

from __future__ import annotations

import argparse
import sys

from framework.commands.common import DONE, add_dataset_argument, chosen_dataset, run_command


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="fw_plan", description="Extract the fingerprint of a raw dataset and write its plans."
    )
    add_dataset_argument(parser)
    parser.add_argument(
        "--preset", default="default", metavar="P", help="default (nnU-Net's rules), laptop, or a JSON file"
    )
    parser.add_argument("--clean", action="store_true", help="extract the fingerprint again even if there is one")
    parser.add_argument("-np", "--num-processes", type=int, metavar="N", help="processes (default: one per core)")
    return parser


def main(arguments: list[str] | None = None) -> int:
    parser = build_parser()
    options = parser.parse_args(arguments)
    dataset = chosen_dataset(parser, options)
    return run_command(lambda: _plan(options, dataset))


def _plan(options: argparse.Namespace, dataset: str) -> int:
    from framework.data.example import create_example_if_asked
    from framework.preprocessing.prepare import plan_dataset_folder

    create_example_if_asked(dataset, print)
    plan_dataset_folder(
        dataset, preset=options.preset, clean=options.clean, num_processes=options.num_processes, say=print
    )
    return DONE


if __name__ == "__main__":
    sys.exit(main())
