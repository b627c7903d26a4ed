"""``fw_train DATASET CONFIG FOLD``: from raw scans to a trained and validated fold."""

from __future__ import annotations

import argparse
import os
import sys

from framework.commands.common import (
    DONE,
    REQUEUE,
    add_training_arguments,
    chosen_trainer,
    parse_overrides,
    run_command,
)
from framework.errors import FoldwiseError
from framework.launcher import announce_process, exit_code, is_launched, launch


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="fw_train",
        description="Train one fold. Data that is not planned or preprocessed yet is prepared first. "
        "Try it: fw_train Dataset000_Phantom 3d_fullres 0",
        epilog="Folders come from FW_RAW, FW_PREPROCESSED and FW_RESULTS (or nnU-Net's variables, or ./fw_data). "
        "A file named STOP in the run folder ends a run as a signal does. Several GPUs: -num_gpus, or torchrun -m "
        "framework.commands.train. "
        "Exit codes: 0 done, 2 wrong input, 75 stopped with a checkpoint saved (run again with --c).",
    )
    add_training_arguments(parser)
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
        "-num_gpus",
        "--num-gpus",
        type=int,
        default=1,
        metavar="N",
        help="train with so many processes on this machine, one for each GPU (with -device cpu: on the CPU)",
    )
    parser.add_argument(
        "--hook",
        dest="hooks",
        action="append",
        default=[],
        metavar="H",
        help="attach a hook: name, package.module:Class, or file.py:Class; may be repeated",
    )
    parser.add_argument(
        "--time-limit",
        metavar="T",
        help="stop in time, with a checkpoint and exit code 75: 90s, 45m, 23.5h, 23:30:00, 1-12:00:00",
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
    if options.num_gpus < 1:
        parser.error(f"-num_gpus {options.num_gpus}: expected 1 or more.")
    if options.num_gpus > 1 and not is_launched():
        return run_command(lambda: _launch(options, sys.argv[1:] if arguments is None else arguments))
    announce_process()
    return exit_code(run_command(lambda: _train(options)))


def _launch(options: argparse.Namespace, arguments: list[str]) -> int:
    from framework.device import choose_device

    # Here once, and not in each process.
    device = choose_device(options.device)
    if device.type == "cuda":
        import torch

        if options.num_gpus > torch.cuda.device_count():
            raise FoldwiseError(f"-num_gpus {options.num_gpus}: this machine has {torch.cuda.device_count()} GPU(s).")
    return launch("framework.commands.train", arguments, options.num_gpus)


def _train(options: argparse.Namespace) -> int:
    # A thread that waits for another spins for a while before it sleeps. By default that is so long that other busy
    # processes can make a training many times slower (benchmarks/busy_machine.py).
    os.environ.setdefault("GOMP_SPINCOUNT", "10000")
    # Only now: torch takes seconds to import, and --help should not.
    from framework.base_trainer import say_nothing
    from framework.commands.progress_bar import ProgressBar
    from framework.distributed import leave, ranks
    from framework.durations import parse_duration
    from framework.experiment import checked_fold
    from framework.hooks import build_hook
    from framework.hooks.stop_on_request import StopOnRequest

    overrides = parse_overrides(options.overrides)
    checked_fold(options.fold)
    time_limit = parse_duration(options.time_limit, "--time-limit") if options.time_limit else None
    hooks = [build_hook(name) for name in options.hooks]
    trainer_class = chosen_trainer(options)
    validate_only = "best" if options.val_best else "final" if options.val else None
    together = ranks()
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
        report=bar.say if together.is_main else say_nothing,
        progress=bar,
    )
    if time_limit is not None:
        trainer.detach("StopOnRequest")
        trainer.attach(StopOnRequest(time_limit))
    if options.npz:
        trainer.save_probabilities = True
    if options.pretrained_weights:
        trainer.load_pretrained_weights(options.pretrained_weights)
    if validate_only:
        trainer.validate_fold()
    else:
        trainer.run_training()
    leave()
    return REQUEUE if trainer.interrupted else DONE


if __name__ == "__main__":
    sys.exit(main())
