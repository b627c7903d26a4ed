"""``fw_preprocess DATASET``: preprocess the raw cases of a planned dataset."""

from __future__ import annotations

import argparse
import functools
import sys

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
        prog="fw_preprocess",
        description="Preprocess what is missing or has changed; without plans, plan first. Deletes nothing. A run "
        "that was stopped goes on where it was.",
        epilog="What was done, with settings, times and the complete list of cases that cannot be used, stands in "
        "PREPROCESSED/DATASET/foldwise/preprocessing.log.",
    )
    add_datasets_argument(parser)
    parser.add_argument("-p", "-plans_name", "--plans", metavar="P", help="plans of the dataset, or a preset")
    parser.add_argument(
        "-c", "--configurations", nargs="+", metavar="CONFIG", help="configurations (default: all in the plans)"
    )
    parser.add_argument(
        "-np",
        "--num-processes",
        type=int,
        nargs="+",
        metavar="N",
        help="processes (default: one per core, or as many as memory allows); of several numbers, one for each "
        "configuration, the smallest counts, since a case is done for all configurations at once",
    )
    parser.add_argument("--verbose", action="store_true", help="also print settings and the time of every case")
    parser.add_argument("--no_pbar", "--no-progress", action="store_true", help="no progress bar")
    parser.add_argument(
        "--verify_dataset_integrity", action="store_true", help="accepted; every case is always checked as it is read"
    )
    return parser


def main(arguments: list[str] | None = None) -> int:
    parser = build_parser()
    options = parser.parse_args(arguments)
    datasets = chosen_datasets(parser, options)
    _check_num_processes(parser, options)
    codes = []
    for dataset in datasets:
        codes.append(run_command(functools.partial(_preprocess, options, dataset)))
        if codes[-1] not in (DONE, WRONG_INPUT):
            break  # interrupted; a mistake in one dataset does not stop the others
    return max(codes)


def _check_num_processes(parser: argparse.ArgumentParser, options: argparse.Namespace) -> None:
    numbers, configurations = options.num_processes, options.configurations
    if numbers is None:
        return
    if min(numbers) < 1:
        parser.error(f"-np {min(numbers)}: at least one process is needed.")
    if len(numbers) > 1 and configurations is not None and len(numbers) != len(configurations):
        parser.error(
            f"-np has {len(numbers)} numbers for {len(configurations)} configurations: give one, or one for each."
        )


def _preprocess(options: argparse.Namespace, dataset: str) -> int:
    one_thread_a_process()
    from framework.commands.progress_bar import ProgressBar
    from framework.data.example import create_example_if_asked
    from framework.preprocessing.prepare import prepare_dataset

    bar = ProgressBar(shown=not options.no_pbar)
    try:
        create_example_if_asked(dataset, bar.say)
        prepare_dataset(
            dataset,
            options.configurations,
            options.plans,
            num_processes=min(options.num_processes) if options.num_processes else None,
            say=bar.say,
            progress=bar,
            verbose=options.verbose,
        )
    finally:
        bar.close()
    return DONE


if __name__ == "__main__":
    sys.exit(main())
