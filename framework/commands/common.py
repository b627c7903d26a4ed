"""What all commands share: one message for a user's mistake, and the exit codes."""

from __future__ import annotations

import argparse
import errno
import faulthandler
import os
import sys
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

from framework.errors import FoldwiseError
from framework.file_names import USUAL_CONFIGURATIONS

DONE, DEFECT, WRONG_INPUT, REQUEUE, INTERRUPTED = 0, 1, 2, 75, 130
"""Exit codes: 75 means that a signal stopped the run, a checkpoint is saved, and the same command with --c goes on; 130
is what a shell gives for a program that Ctrl-C has ended."""


_OF_THE_DISK = (
    errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EACCES, errno.EPERM, errno.EROFS, errno.EIO, errno.ESTALE
)  # fmt: skip


def run_command(command: Callable[[], int]) -> int:
    """Run it; a user's mistake becomes one message and exit code 2, never a traceback."""
    _tell_where_it_crashes()
    try:
        return command()
    except FoldwiseError as error:
        _print_error(error)
        return WRONG_INPUT
    except BrokenPipeError:
        # Whoever read what is printed, such as `head`, has had enough. Nothing more can be said there.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return DONE
    except OSError as error:
        if error.errno not in _OF_THE_DISK:
            raise
        what = "read" if error.errno in (errno.EIO, errno.ESTALE) else "written"
        _tell(f"error: {error.filename or 'a file'} could not be {what}: {error.strerror}.")
        return WRONG_INPUT
    except KeyboardInterrupt:
        _tell("interrupted")
        return INTERRUPTED
    finally:
        _end_output()


def _tell_where_it_crashes() -> None:
    """A crash inside a library ends the process with one line of the system, or none; with this, also with what every
    thread was doing."""
    if not faulthandler.is_enabled():
        # There may be no stderr, or one that is no file.
        with suppress(OSError, ValueError, RuntimeError, AttributeError):
            faulthandler.enable()


def _tell(text: str) -> None:
    with suppress(OSError):  # the disk that is full may be the one that takes our output
        print(text, file=sys.stderr)


def _end_output() -> None:
    """What could not be printed must not turn the exit code into another when Python tries once more at its end."""
    try:
        sys.stdout.flush()
    except OSError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _print_error(error: FoldwiseError) -> None:
    """What is wrong, once: of several processes rank 0 says what all of them find."""
    text = f"error: {error}"
    distributed = sys.modules.get("framework.distributed")
    if distributed is not None and (together := distributed.ranks_so_far()).size > 1:
        together.note_failure(error)
        if getattr(error, "rank", None) == 0 or not together.is_own_message(text):
            return  # rank 0 has said it
        text = text if together.is_main else f"rank {together.rank}: {text}"
    _tell(text)


def one_thread_a_process() -> None:
    """Keep numpy's matrix products to one thread; to be called before numpy is imported.

    For commands whose worker processes take all processors: more threads would only wait for each other.
    """
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")


def add_dataset_argument(parser: argparse.ArgumentParser) -> None:
    """DATASET, or ``-d DATASET`` in nnU-Net's spelling; read back with `chosen_dataset`."""
    parser.add_argument("dataset", metavar="DATASET", nargs="?", help="id, DatasetXXX_Name, or name")
    parser.add_argument("-d", dest="dataset_option", metavar="DATASET", help="the same, in nnU-Net's spelling")


def chosen_dataset(parser: argparse.ArgumentParser, options: argparse.Namespace) -> str:
    """The dataset given in either spelling; ends the command with a usage message if there is none."""
    dataset = options.dataset or options.dataset_option
    if dataset is None:
        parser.error("which dataset? Give an id, DatasetXXX_Name, or a name.")
    return dataset


def add_datasets_argument(parser: argparse.ArgumentParser) -> None:
    """As `add_dataset_argument`, for one or several; read back with `chosen_datasets`."""
    parser.add_argument("dataset", metavar="DATASET", nargs="*", help="id, DatasetXXX_Name, or name; one or several")
    parser.add_argument(
        "-d", dest="dataset_option", metavar="DATASET", nargs="+", default=[], help="the same, in nnU-Net's spelling"
    )


def chosen_datasets(parser: argparse.ArgumentParser, options: argparse.Namespace) -> list[str]:
    """The datasets given in either spelling; ends the command with a usage message if there is none."""
    datasets = [*options.dataset, *options.dataset_option]
    if not datasets:
        parser.error("which dataset? Give an id, DatasetXXX_Name, or a name.")
    # Other commands take DATASET CONFIG; here the second word would be one more dataset.
    mistaken = [name for name in options.dataset if name in USUAL_CONFIGURATIONS]
    if mistaken:
        words = [parser.prog, *(name for name in datasets if name not in mistaken)]
        if hasattr(options, "configurations"):
            words += ["-c", *mistaken]
        parser.error(f"'{mistaken[0]}' is a configuration, not a dataset. Did you mean {' '.join(words)} ?")
    return list(dict.fromkeys(datasets))


def add_training_arguments(parser: argparse.ArgumentParser, default_fold: str | None = None) -> None:
    """DATASET CONFIG FOLD, and what says how the fold is trained."""
    parser.add_argument("dataset", metavar="DATASET", help="id, DatasetXXX_Name, or name")
    parser.add_argument(
        "configuration", metavar="CONFIG", help="a configuration of the plans, such as 3d_fullres or 2d"
    )
    if default_fold is None:
        parser.add_argument("fold", metavar="FOLD", help="0 to 4, or all")
    else:
        parser.add_argument(
            "fold", metavar="FOLD", nargs="?", default=default_fold, help=f"0 to 4, or all (default: {default_fold})"
        )
    parser.add_argument("-tr", "--trainer", metavar="T", help="trainer: name, package.module:Class, or file.py:Class")
    parser.add_argument("-p", "--plans", metavar="P", help="plans of the dataset, or a preset: default, laptop")
    parser.add_argument(
        "--set",
        dest="overrides",
        action="append",
        default=[],
        metavar="K=V",
        help="change a field of the plans for this run, such as training.num_epochs=50; may be repeated",
    )
    add_code_argument(parser)


def add_code_argument(parser: argparse.ArgumentParser) -> None:
    """``--code FILE.py``, for classes that plans or checkpoints name; to be given to `vouch_for_code`."""
    parser.add_argument(
        "--code",
        action="append",
        default=[],
        metavar="FILE.py",
        help="a Python file or module that you trust, so that plans and checkpoints may name its classes; may be "
        "repeated. What is named on this command line needs no --code",
    )


def vouch_for_code(options: argparse.Namespace) -> None:
    """Take the user's word for the code on the command line.

    Raises:
        FoldwiseError: ``--code`` names a file that does not exist.
    """
    from framework.named_code import module_of, names_a_file, vouch_for

    for location in options.code:
        if names_a_file(location) and not Path(module_of(location)).expanduser().is_file():
            raise FoldwiseError(
                f"--code {location}: there is no such file. Give the path of a Python file, or a module."
            )
        vouch_for(location)
    if options.trainer and ":" in options.trainer:
        vouch_for(options.trainer)


def chosen_trainer(options: argparse.Namespace) -> Any:
    """The trainer class that was asked for, or that the plans name, or the one for segmentation."""
    from framework.experiment import trainer_in_plans
    from framework.extensions import find_trainer

    vouch_for_code(options)
    named = options.trainer or trainer_in_plans(options.dataset, options.configuration, options.plans)
    return find_trainer(named or "SegmentationTrainer")


def parse_overrides(texts: list[str]) -> dict[str, Any]:
    """``["training.num_epochs=50"]`` -> ``{"training.num_epochs": "50"}``."""
    overrides: dict[str, Any] = {}
    for text in texts:
        path, equals, value = text.partition("=")
        if not equals or not path:
            raise FoldwiseError(f"--set {text}: expected PATH=VALUE, for example --set training.num_epochs=50.")
        overrides[path.strip()] = value
    return overrides
