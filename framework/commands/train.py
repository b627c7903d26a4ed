"""``fw_train DATASET CONFIG FOLD``: from raw scans to a trained and validated fold."""

from __future__ import annotations

import argparse
import os
import sys

from framework.commands.common import DONE, REQUEUE, parse_overrides, run_command


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="fw_train",
        description="Train one fold. Data that is not planned or preprocessed yet is prepared first. "
        "Try it: fw_train Dataset000_Phantom 3d_fullres 0",
        epilog="Folders come from FW_RAW, FW_PREPROCESSED and FW_RESULTS (or nnU-Net's variables, or ./fw_data). "
        "Exit codes: 0 done, 2 wrong input, 75 stopped by a signal with a checkpoint saved (run again with --c).",
    )
    parser.add_argument("dataset", metavar="DATASET", help="id, DatasetXXX_Name, or name")
    parser.add_argument(
        "configuration", metavar="CONFIG", help="a configuration of the plans, such as 3d_fullres or 2d"
    )
    parser.add_argument("fold", metavar="FOLD", help="0 to 4, or all")
    parser.add_argument("-tr", "--trainer", metavar="T", help="trainer: name, package.module:Class, or file.py:Class")
    parser.add_argument("-p", "--plans", metavar="P", help="plans of the dataset, or a preset: default, laptop")
    parser.add_argument(
        "--c", "--continue", dest="resume", action="store_true", help="continue from the newest checkpoint"
    )
    parser.add_argument(
        "--val", action="store_true", help="only validate: predict and score the fold's validation cases"
    )
    parser.add_argument("--val_best", action="store_true", help="validate checkpoint_best instead of checkpoint_final")
    parser.add_argument("--npz", action="store_true", help="also save the probabilities of validation cases")
    parser.add_argument("-pretrained_weights", "--pretrained-weights", metavar="F", help="checkpoint to start from")
    parser.add_argument(
        "-device",
        "--device",
        default="auto",
        metavar="D",
        help="cpu, cuda, cuda:1, mps (default: the GPU if there is one)",
    )
    parser.add_argument(
        "--set",
        dest="overrides",
        action="append",
        default=[],
        metavar="K=V",
        help="change a field of the plans for this run, such as training.num_epochs=50; may be repeated",
    )
    parser.add_argument(
        "--hook",
        dest="hooks",
        action="append",
        default=[],
        metavar="H",
        help="attach a hook: name, package.module:Class, or file.py:Class; may be repeated",
    )
    return parser


def main(arguments: list[str] | None = None) -> int:
    parser = build_parser()
    options = parser.parse_args(arguments)
    if options.resume and options.pretrained_weights:
        parser.error(
            "--c continues a run with its own weights; -pretrained_weights starts a new one. Give one of them."
        )
    if options.resume and options.val:
        parser.error("--c continues the training, --val only validates. Give one of them.")
    return run_command(lambda: _train(options))


def _train(options: argparse.Namespace) -> int:
    # A thread that waits for another spins for a while before it sleeps. By default that is so long that other busy
    # processes can make a training many times slower (benchmarks/busy_machine.py).
    os.environ.setdefault("GOMP_SPINCOUNT", "10000")
    # Only now: torch takes seconds to import, and --help should not.
    from framework.commands.progress_bar import ProgressBar
    from framework.experiment import checked_fold, trainer_in_plans
    from framework.extensions import find_trainer
    from framework.hooks import build_hook

    overrides = parse_overrides(options.overrides)
    checked_fold(options.fold)
    hooks = [build_hook(name) for name in options.hooks]
    named = options.trainer or trainer_in_plans(options.dataset, options.configuration, options.plans)
    trainer_class = find_trainer(named or "SegmentationTrainer")
    validate_only = "best" if options.val_best else "final" if options.val else None
    bar = ProgressBar()
    trainer = trainer_class.from_dataset(
        options.dataset,
        options.configuration,
        options.fold,
        plans=options.plans,
        overrides=overrides,
        hooks=hooks,
        device=options.device,
        resume=validate_only or options.resume,
        report=bar.say,
        progress=bar,
    )
    if options.npz:
        trainer.save_probabilities = True
    if options.pretrained_weights:
        trainer.load_pretrained_weights(options.pretrained_weights)
    if validate_only:
        trainer.validate_fold()
    else:
        trainer.run_training()
    return REQUEUE if trainer.interrupted else DONE


if __name__ == "__main__":
    sys.exit(main())
