"""``fw_evaluate REFERENCE PREDICTED``: scores of segmentations, for each case and label and over all cases."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from framework.commands.common import DONE, run_command

if TYPE_CHECKING:
    from framework.commands.progress_bar import ProgressBar
    from framework.evaluation.case_pairs import CasePairs
    from framework.evaluation.evaluate import Evaluation
    from framework.evaluation.output_files import OutputFiles
    from framework.evaluation.scored_labels import ScoredLabels


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="fw_evaluate",
        description="Score segmentations against references: Dice, IoU, precision, recall, volumes, HD95, average "
        "surface distance, normalised surface Dice. Writes summary.json (nnU-Net's form), metrics.csv (each case and "
        "label) and metrics_aggregated.csv (over the cases, with confidence intervals).",
    )
    parser.add_argument("reference", metavar="REFERENCE", help="folder with the reference label images, or one file")
    parser.add_argument("prediction", metavar="PREDICTED", help="folder with the predicted ones, or one file")
    parser.add_argument("--compare", metavar="OTHER", help="a second prediction of the same cases: is it better?")
    labels = parser.add_argument_group(
        "labels", "by default those of dataset.json in PREDICTED, REFERENCE or around them, else those in REFERENCE"
    )
    labels.add_argument("-l", "--labels", type=int, nargs="+", metavar="L", help="score these labels")
    labels.add_argument("-il", "--ignore-label", type=int, metavar="L", help="voxels where REFERENCE is L do not count")
    labels.add_argument("-djfile", "--dataset-json", metavar="FILE", help="the dataset.json to use")
    labels.add_argument("-pfile", metavar="FILE", help="accepted as in nnU-Net; nothing in it is needed")
    parser.add_argument(
        "-o",
        "--output",
        metavar="OUT",
        help="folder of the results, or summary file .json (default: PREDICTED; for two files nothing is written)",
    )
    parser.add_argument("-np", "--num-processes", type=int, metavar="N", help="cases at once (default: one per core)")
    parser.add_argument("--chill", action="store_true", help="leave out references that have no prediction")
    parser.add_argument(
        "--tolerance",
        nargs="+",
        default=[],
        metavar="MM",
        help="of the normalised surface Dice in mm, for all labels or as LABEL=MM (default: 1)",
    )
    parser.add_argument("--overlap-only", action="store_true", help="no surface distances, which take most of the time")
    parser.add_argument("--pictures", type=int, default=0, metavar="N", help="draw the N worst cases")
    parser.add_argument("--images", metavar="FOLDER", help="scans (CASE_0000.nii.gz) to draw them on")
    return parser


def main(arguments: list[str] | None = None) -> int:
    parser = build_parser()
    options = parser.parse_args(arguments)
    if options.ignore_label is not None and options.dataset_json is not None:
        parser.error("-il goes with -l; dataset.json names the ignore label itself.")
    if options.labels is not None and options.dataset_json is not None:
        parser.error("give the labels with -l, or a dataset.json with -djfile, not both.")
    if options.pictures < 0 or (options.num_processes is not None and options.num_processes < 1):
        parser.error("--pictures and -np count something: give 1 or more.")
    return run_command(lambda: _evaluate(options))


def _evaluate(options: argparse.Namespace) -> int:
    from framework.commands.progress_bar import ProgressBar
    from framework.evaluation.case_pairs import pair_files
    from framework.evaluation.output_files import OutputFiles
    from framework.preprocessing.case_reports import CasesError

    reference, prediction = Path(options.reference), Path(options.prediction)
    labels = _labels_without_reading(options, reference, prediction)
    ending = labels.file_ending if labels is not None else None
    pairs = pair_files(reference, prediction, ending, options.chill)
    others = pair_files(reference, Path(options.compare), ending, options.chill) if options.compare else None
    output = OutputFiles.at(options.output, prediction)
    if output.summary is not None or options.pictures:
        output.check_writable()
    bar = ProgressBar()
    try:
        evaluation, other = _scores(options, labels, pairs, others, bar)
        _say_what_is_odd(pairs, evaluation)
        if evaluation.cases:
            _write_and_print(options, output, pairs.file_ending, evaluation, other)
    finally:
        bar.close()
    failures = {**evaluation.failures}
    for case, reason in other.failures.items() if other is not None else ():
        failures.setdefault(case, reason)
    if failures:
        raise CasesError("evaluation", failures, len(pairs.files))
    return DONE


def _labels_without_reading(options: argparse.Namespace, reference: Path, prediction: Path) -> ScoredLabels | None:
    """The labels that the user or a dataset.json names; None if the references have to tell."""
    from framework.evaluation.scored_labels import find_dataset_json, given_labels, labels_of_dataset

    if options.labels is not None:
        return given_labels(options.labels, options.ignore_label)
    dataset_json = Path(options.dataset_json) if options.dataset_json else find_dataset_json(reference, prediction)
    if dataset_json is None or (options.ignore_label is not None and not options.dataset_json):
        return None
    return labels_of_dataset(dataset_json)


def _scores(
    options: argparse.Namespace,
    labels: ScoredLabels | None,
    pairs: CasePairs,
    others: CasePairs | None,
    bar: ProgressBar,
) -> tuple[Evaluation, Evaluation | None]:
    from framework.evaluation.evaluate import evaluate_pairs, labels_in_references
    from framework.evaluation.tolerances import read_tolerances
    from framework.processors import usable_cpus

    num_threads = options.num_processes or usable_cpus()
    if labels is None:
        labels = labels_in_references(pairs, options.ignore_label, num_threads, bar)
    tolerances = read_tolerances(options.tolerance, labels)
    found = [
        evaluate_pairs(
            each,
            labels,
            tolerance_mm=tolerances,
            surface=not options.overlap_only,
            num_threads=num_threads,
            progress=bar,
        )
        for each in (pairs, others)
        if each is not None
    ]
    return found[0], found[1] if len(found) > 1 else None


def _say_what_is_odd(pairs: CasePairs, evaluation: Evaluation) -> None:
    from framework.preprocessing.case_reports import grouped_warnings

    for cases, what in (
        (pairs.without_reference, "predicted, but without a reference, so not scored"),
        (pairs.without_prediction, "without a prediction, so not scored"),
    ):
        if cases:
            print(f"warning: {len(cases)} case(s) {what}: {', '.join(cases[:8])}", file=sys.stderr)
    for line in grouped_warnings(evaluation.remarks):
        print(f"warning: {line}", file=sys.stderr)


def _write_and_print(
    options: argparse.Namespace, output: OutputFiles, ending: str, evaluation: Evaluation, other: Evaluation | None
) -> None:
    from framework.evaluation.aggregate import aggregate_labels, text_table

    aggregates = aggregate_labels(evaluation)
    written = output.write_scores(evaluation, aggregates)
    print(f"{len(evaluation.cases)} case(s), labels from {evaluation.labels.source}\n")
    print(text_table(evaluation, aggregates))
    if other is not None and other.cases:
        from framework.evaluation.comparison import compare, comparison_text

        differences = compare(evaluation, other)
        written += output.write_comparison(differences, evaluation.labels.names)
        print(f"\nA: {options.prediction}\nB: {options.compare}")
        print(comparison_text(differences, evaluation.labels.names))
    if options.pictures:
        from framework.evaluation.case_pictures import draw_worst_cases

        images = Path(options.images) if options.images else None
        pictures, problems = draw_worst_cases(evaluation, options.pictures, output.pictures, ending, images)
        for problem in problems:
            print(f"warning: {problem}", file=sys.stderr)
        written += pictures[:1]
    for path in written:
        print(f"written: {path}")


if __name__ == "__main__":
    sys.exit(main())
