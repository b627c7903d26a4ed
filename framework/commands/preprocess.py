"""``fw_preprocess DATASET``: preprocess the raw cases of a planned dataset."""

from __future__ import annotations

import argparse
import sys

from framework.commands.common import DONE, add_dataset_argument, chosen_dataset, run_command


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="fw_preprocess",
        description="Preprocess what is missing or has changed; without plans, plan first. Deletes nothing.",
    )
    add_dataset_argument(parser)
    parser.add_argument("-p", "-plans_name", "--plans", metavar="P", help="plans of the dataset, or a preset")
    parser.add_argument(
        "-c", "--configurations", nargs="+", metavar="CONFIG", help="configurations (default: all in the plans)"
    )
    parser.add_argument("-np", "--num-processes", type=int, metavar="N", help="processes (default: one per core)")
    return parser


def main(arguments: list[str] | None = None) -> int:
    parser = build_parser()
    options = parser.parse_args(arguments)
    dataset = chosen_dataset(parser, options)
    return run_command(lambda: _preprocess(options, dataset))


def _preprocess(options: argparse.Namespace, dataset: str) -> int:
    from framework.data.example import create_example_if_asked
    from framework.preprocessing.prepare import prepare_dataset

    create_example_if_asked(dataset, print)
    prepare_dataset(dataset, options.configurations, options.plans, num_processes=options.num_processes, say=print)
    return DONE


if __name__ == "__main__":
    sys.exit(main())
