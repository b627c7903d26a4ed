"""``fw_preprocess DATASET``: preprocess the raw cases of a planned dataset."""

from __future__ import annotations

import argparse
import sys

from framework.commands.common import DONE, run_command


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="fw_preprocess",
        description="Preprocess what is missing or has changed; without plans, plan first. Deletes nothing.",
    )
    parser.add_argument("dataset", metavar="DATASET", nargs="?", help="id, DatasetXXX_Name, or name")
    parser.add_argument("-d", dest="dataset_option", metavar="DATASET", help="the same, in nnU-Net's spelling")
    parser.add_argument("-p", "-plans_name", "--plans", metavar="P", help="plans of the dataset, or a preset")
    parser.add_argument(
        "-c", "--configurations", nargs="+", metavar="CONFIG", help="configurations (default: all in the plans)"
    )
    parser.add_argument("-np", "--num-processes", type=int, metavar="N", help="processes (default: one per core)")
    return parser


def main(arguments: list[str] | None = None) -> int:
    parser = build_parser()
    options = parser.parse_args(arguments)
    dataset = options.dataset or options.dataset_option
    if dataset is None:
        parser.error("which dataset? Give an id, DatasetXXX_Name, or a name.")
    return run_command(lambda: _preprocess(options, dataset))


def _preprocess(options: argparse.Namespace, dataset: str) -> int:
    from framework.data.example import create_example_if_asked
    from framework.preprocessing.prepare import prepare_dataset

    create_example_if_asked(dataset, print)
    prepare_dataset(dataset, options.configurations, options.plans, num_processes=options.num_processes, say=print)
    return DONE


if __name__ == "__main__":
    sys.exit(main())
