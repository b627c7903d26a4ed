"""``fw_ensemble``: one segmentation from the probabilities of several models."""

from __future__ import annotations

import argparse
import sys

from framework.commands.common import DONE, WRONG_INPUT, run_command


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="fw_ensemble",
        description="Average the probabilities (CASE.npz) of several folders, written by fw_predict "
        "--save_probabilities, and write the segmentations that the means give.",
    )
    parser.add_argument(
        "-i", "--input", dest="sources", nargs="+", required=True, metavar="FOLDER", help="two folders or more"
    )
    parser.add_argument("-o", "--output", dest="target", required=True, metavar="OUT", help="folder for the result")
    parser.add_argument("-np", "--num-processes", type=int, metavar="N", help="cases at once (default: one per core)")
    parser.add_argument(
        "--save_npz", "--save-npz", "--save_probabilities", action="store_true", help="also write the mean, as CASE.npz"
    )
    return parser


def main(arguments: list[str] | None = None) -> int:
    options = build_parser().parse_args(arguments)
    return run_command(lambda: _ensemble(options))


def _ensemble(options: argparse.Namespace) -> int:
    from framework.commands.progress_bar import ProgressBar
    from framework.processors import usable_cpus
    from framework.selection.folder_ensemble import ensemble_folders

    bar = ProgressBar()
    try:
        outcome = ensemble_folders(
            options.sources,
            options.target,
            save_probabilities=options.save_npz,
            num_threads=options.num_processes or usable_cpus(),
            progress=bar,
        )
    finally:
        bar.close()
    print(f"{len(outcome.results)} cases ensembled from {len(options.sources)} folders; written to {options.target}")
    if outcome.failures:
        print(f"error: {outcome.failure_text('ensembling')}", file=sys.stderr)
        return WRONG_INPUT
    return DONE


if __name__ == "__main__":
    sys.exit(main())
