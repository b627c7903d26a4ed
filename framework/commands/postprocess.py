"""``fw_postprocess``: remove all but the largest components, where the cross-validation says that it helps."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from framework.commands.common import DONE, WRONG_INPUT, run_command


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="fw_postprocess",
        description="Apply the post-processing that fw_select, nnU-Net, or --determine decided on to a folder of "
        "predictions. With --determine: decide on it, from predictions of a cross-validation and their references.",
    )
    parser.add_argument("-i", "--input", dest="source", required=True, metavar="IN", help="folder of predictions")
    parser.add_argument("-o", "--output", dest="target", metavar="OUT", help="folder for the result")
    parser.add_argument(
        "-pp_pkl_file",
        "--steps",
        dest="steps",
        metavar="F",
        help="postprocessing.json or .pkl, of ours or of nnU-Net's; or a folder that holds one: of a cross-validation, "
        "or a model folder",
    )
    parser.add_argument("--determine", action="store_true", help="decide; writes postprocessing.json and .pkl into IN")
    parser.add_argument("-ref", "--reference", metavar="LABELS", help="with --determine: folder of the references")
    parser.add_argument(
        "--remove_postprocessed",
        "--remove-postprocessed",
        action="store_true",
        help="with --determine: do not write the post-processed predictions into IN/postprocessed",
    )
    parser.add_argument("-dataset_json", "--dataset-json", metavar="F", help="default: IN/dataset.json")
    parser.add_argument("-plans_json", "--plans-json", metavar="F", help="default: IN/plans.json, if there is one")
    parser.add_argument("-np", "--num-processes", type=int, metavar="N", help="cases at once (default: one per core)")
    return parser


def main(arguments: list[str] | None = None) -> int:
    parser = build_parser()
    options = parser.parse_args(arguments)
    if options.determine and options.reference is None:
        parser.error("--determine needs the references: -ref LABELS.")
    if options.determine and (options.target is not None or options.steps is not None):
        parser.error("--determine writes into IN; -o and -pp_pkl_file are for applying what was decided.")
    if not options.determine and (options.target is None or options.steps is None):
        parser.error("give OUT with -o and what to apply with -pp_pkl_file; or --determine to decide on it first.")
    return run_command(lambda: _determine(options) if options.determine else _apply(options))


def _apply(options: argparse.Namespace) -> int:
    from framework.commands.progress_bar import ProgressBar
    from framework.processors import usable_cpus
    from framework.selection.folder_postprocessing import postprocess_folder
    from framework.selection.postprocessing_files import read_postprocessing
    from framework.selection.prediction_folder import PredictionFolder

    source = PredictionFolder.open(options.source, options.dataset_json, options.plans_json)
    steps = read_postprocessing(options.steps, source.labels)
    bar = ProgressBar()
    try:
        outcome = postprocess_folder(
            source,
            Path(options.target),
            steps,
            num_threads=options.num_processes or usable_cpus(),
            progress=bar,
        )
    finally:
        bar.close()
    for step in steps:
        print(f"kept the largest component of {step.name or step.labels}")
    if not steps:
        print(f"{options.steps} asks for nothing: the predictions are copied as they are.")
    changed = sum(outcome.results.values())
    print(f"{changed} of {len(outcome.results)} cases changed; written to {options.target}")
    if outcome.failures:
        print(f"error: {outcome.failure_text('post-processing')}", file=sys.stderr)
        return WRONG_INPUT
    return DONE


def _determine(options: argparse.Namespace) -> int:
    from framework.commands.progress_bar import ProgressBar
    from framework.processors import usable_cpus
    from framework.selection.folder_postprocessing import determine_for_folder, references_for
    from framework.selection.instructions import describe_decisions
    from framework.selection.postprocessing_files import JSON_NAME, PICKLE_NAME
    from framework.selection.prediction_folder import PredictionFolder

    folder = PredictionFolder.open(options.source, options.dataset_json, options.plans_json)
    references = references_for(folder, options.reference)
    bar = ProgressBar()
    try:
        determined = determine_for_folder(
            folder,
            references,
            keep_postprocessed=not options.remove_postprocessed,
            num_threads=options.num_processes or usable_cpus(),
            progress=bar,
        )
    finally:
        bar.close()
    print(f"decided on {len(references)} cases:")
    print("\n".join(describe_decisions(determined)))
    print(f"written to {folder.folder}: {JSON_NAME}, {PICKLE_NAME}")
    return DONE


if __name__ == "__main__":
    sys.exit(main())
