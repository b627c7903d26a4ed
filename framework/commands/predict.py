"""``fw_predict``: segment scans with trained folds."""

from __future__ import annotations

import argparse
import os
import signal
import sys
import time

from framework.commands.common import (
    DONE,
    INTERRUPTED,
    REQUEUE,
    WRONG_INPUT,
    add_code_argument,
    run_command,
    vouch_for_code,
)


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="fw_predict",
        description="Segment scans with trained folds.",
        epilog="A case that cannot be predicted does not stop the others; a table at the end names them. Exit codes: "
        "0 all done, 2 wrong input or failed cases, 75 stopped by a signal and 130 by Ctrl-C, what is finished is "
        "kept (go on with --continue_prediction).",
    )
    _add_files(parser)
    _add_model(parser)
    _add_method(parser)
    _add_running(parser)
    return parser


def _add_files(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "-i",
        "--input",
        dest="source",
        nargs="+",
        required=True,
        metavar="IN",
        help="folder with CASE_0000.nii.gz, ..., or with one folder for each DICOM series; one image (of several "
        "channels any one) or DICOM series; several images; or a .txt or .json list of images",
    )
    parser.add_argument(
        "-o",
        "--output",
        dest="target",
        required=True,
        metavar="OUT",
        help="folder for the label images; or a file name, if there is one case",
    )
    parser.add_argument(
        "--save_probabilities", "--save-probabilities", action="store_true", help="also write CASE.npz and CASE.pkl"
    )
    parser.add_argument(
        "--pictures", action="store_true", help="also write pictures/CASE.png, the contours of the labels on the scan"
    )
    parser.add_argument(
        "--continue_prediction",
        "--c",
        "--continue",
        dest="resume",
        action="store_true",
        help="keep the cases whose output is there, whole, and fits the scan",
    )
    parser.add_argument(
        "-num_parts", "--num-parts", type=int, default=1, metavar="N", help="share the cases between N commands"
    )
    parser.add_argument(
        "-part_id", "--part-id", dest="part", type=int, default=0, metavar="K", help="which of them this is, from 0"
    )


def _add_model(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "-m", "--model", metavar="FOLDER", help="model folder .../TRAINER__PLANS__CONFIG, or one fold of it"
    )
    parser.add_argument(
        "-d", "--dataset", metavar="DATASET", help="in place of -m, with -c: id, DatasetXXX_Name, or name"
    )
    parser.add_argument("-c", "--configuration", metavar="CONFIG", help="configuration, with -d")
    parser.add_argument(
        "-tr",
        "--trainer",
        metavar="T",
        help="trainer, with -d (default: SegmentationTrainer, or the only one trained); FILE.py:Class where a network "
        "needs your code",
    )
    add_code_argument(parser)
    parser.add_argument(
        "-p", "--plans", metavar="P", help="plans, with -d (default: nnUNetPlans, or the only ones trained)"
    )
    parser.add_argument(
        "-f", "--folds", nargs="+", metavar="FOLD", help="folds to average (default: all that are trained)"
    )
    parser.add_argument(
        "-chk",
        "--checkpoint",
        default="final",
        metavar="C",
        help="final, best, latest, or a file name (default: final)",
    )
    parser.add_argument(
        "-prev_stage_predictions",
        "--previous-stage",
        dest="previous_stage",
        metavar="FOLDER",
        help="for a cascade: label images of the previous stage (default: they are predicted first)",
    )


def _add_method(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "-step_size",
        "--step-size",
        dest="step",
        type=float,
        default=0.5,
        metavar="S",
        help="distance of tiles, as a part of the patch (default: 0.5)",
    )
    parser.add_argument("--disable_tta", "--no-mirroring", action="store_true", help="do not average mirrored views")


def _add_running(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "-device", "--device", default="auto", metavar="D", help="cpu, cuda, cuda:1, mps (default: the GPU if any)"
    )
    parser.add_argument(
        "--not_on_device", "--not-on-device", action="store_true", help="sum the logits in host memory: large scans"
    )
    parser.add_argument(
        "-npp",
        "--num-readers",
        type=int,
        metavar="N",
        help="threads that read and preprocess (default: 1 to 3, by the number of processors; 0: in turn)",
    )
    parser.add_argument("-nps", "--num-writers", type=int, metavar="N", help="threads that write (as -npp)")
    parser.add_argument("--verbose", action="store_true", help="also print every case and where failures came from")
    parser.add_argument("--disable_progress_bar", "--no-progress", action="store_true", help="no progress bar")


def main(arguments: list[str] | None = None) -> int:
    parser = build_parser()
    options = parser.parse_args(arguments)
    if (options.model is None) == (options.dataset is None):
        parser.error("give the model folder with -m, or dataset and configuration with -d and -c.")
    if options.dataset is not None and options.configuration is None:
        parser.error("-d needs the configuration too: -c 3d_fullres, for example.")
    return run_command(lambda: _predict(options))


def _predict(options: argparse.Namespace) -> int:
    # A thread that waits for another spins for a while before it sleeps, here in the way of readers and writers.
    os.environ.setdefault("GOMP_SPINCOUNT", "10000")
    from framework.commands.progress_bar import ProgressBar
    from framework.evaluation.picture import draw_case
    from framework.inference import Predictor
    from framework.inference.file_prediction import predict_to_files
    from framework.inference.model_folder import find_model_folder
    from framework.inference.prediction_options import Observer, PredictionOptions
    from framework.inference.prediction_report import failure_table
    from framework.stop_signal import StopSignal

    started = time.monotonic()
    vouch_for_code(options)
    how = PredictionOptions(
        save_probabilities=options.save_probabilities,
        draw_picture=draw_case if options.pictures else None,
        overwrite=not options.resume,
        previous_stage=options.previous_stage,
        num_readers=options.num_readers,
        num_writers=options.num_writers,
        part=options.part,
        num_parts=options.num_parts,
    )
    folder = options.model or find_model_folder(options.dataset, options.configuration, options.trainer, options.plans)
    predictor = Predictor(
        folder,
        options.folds,
        checkpoint=options.checkpoint,
        device=options.device,
        mirror=not options.disable_tta,
        step=options.step,
        results_device="cpu" if options.not_on_device else None,
        load=False,  # while the first scan is read
    )
    bar = ProgressBar(shown=not options.disable_progress_bar)
    source = options.source[0] if len(options.source) == 1 else options.source
    with StopSignal() as stop:
        try:
            report = predict_to_files(
                predictor, source, options.target, how, Observer(bar.say, bar, stop, options.verbose)
            )
        finally:
            bar.close()
    seconds = time.monotonic() - started
    print(f"{len(report.files)} of {report.num_cases} case(s) are in {options.target} ({seconds:.1f} s).")
    if report.failures:
        print(
            f"error: {len(report.failures)} case(s) could not be predicted:\n{failure_table(report.failures)}",
            file=sys.stderr,
        )
        if not options.verbose and any(failure.is_defect for failure in report.failures):
            print("Run again with --verbose to see where in the program they failed.", file=sys.stderr)
    if stop():
        print(
            f"stopped by a signal; {len(report.not_begun)} case(s) are left. The same command with "
            "--continue_prediction goes on.",
            file=sys.stderr,
        )
        return INTERRUPTED if stop.received == signal.SIGINT else REQUEUE
    return WRONG_INPUT if report.failures else DONE


if __name__ == "__main__":
    sys.exit(main())
