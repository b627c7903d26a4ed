"""``fw_select DATASET``: which configuration, or ensemble of two, does best in the cross-validation."""

from __future__ import annotations

import argparse
import sys

from framework.commands.common import DONE, add_dataset_argument, chosen_dataset, run_command


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="fw_select",
        description="Compare the trained configurations of a dataset, and their pairwise ensembles, by the Dice of the "
        "cross-validation; decide on post-processing for the best one; print the commands that predict with it. "
        "Ensembles need probabilities of the validation cases: fw_train ... --npz, or afterwards --val --npz.",
    )
    add_dataset_argument(parser)
    parser.add_argument("-p", "--plans", nargs="+", metavar="P", help="plans to compare (default: all)")
    parser.add_argument("-c", "--configurations", nargs="+", metavar="C", help="configurations (default: all)")
    parser.add_argument("-tr", "--trainers", nargs="+", metavar="T", help="trainers (default: all)")
    parser.add_argument(
        "-f", "--folds", nargs="+", type=int, default=[0, 1, 2, 3, 4], metavar="F", help="folds (default: 0 1 2 3 4)"
    )
    parser.add_argument("--disable_ensembling", "--disable-ensembling", action="store_true", help="no ensembles")
    parser.add_argument(
        "--no_overwrite", "--no-overwrite", action="store_true", help="keep what an earlier run has ensembled"
    )
    parser.add_argument("-np", "--num-processes", type=int, metavar="N", help="cases at once (default: one per core)")
    return parser


def main(arguments: list[str] | None = None) -> int:
    parser = build_parser()
    options = parser.parse_args(arguments)
    options.dataset = chosen_dataset(parser, options)
    if min(options.folds) < 0:
        parser.error("-f: folds are numbered from 0. Fold 'all' has no validation cases of its own to compare by.")
    return run_command(lambda: _select(options))


def _select(options: argparse.Namespace) -> int:
    from framework.commands.progress_bar import ProgressBar
    from framework.processors import usable_cpus
    from framework.roots import dataset_name
    from framework.selection.instructions import INFORMATION_NAME, INSTRUCTIONS_NAME, instructions, write_instructions
    from framework.selection.selection import select

    bar = ProgressBar()
    try:
        selection = select(
            dataset_name(options.dataset),
            trainers=options.trainers,
            plans=options.plans,
            configurations=options.configurations,
            folds=sorted(set(options.folds)),
            ensembling=not options.disable_ensembling,
            overwrite=not options.no_overwrite,
            num_threads=options.num_processes or usable_cpus(),
            progress=bar,
        )
    finally:
        bar.close()
    folder = write_instructions(selection)
    print(instructions(selection))
    print(f"\nThis is also in {folder / INSTRUCTIONS_NAME}, and in {INFORMATION_NAME} beside it.")
    return DONE


if __name__ == "__main__":
    sys.exit(main())
