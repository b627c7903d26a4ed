"""``fw_check DATASET``: what is wrong with a raw dataset, with the cases and what to do."""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from framework.commands.common import DONE, WRONG_INPUT, add_dataset_argument, chosen_dataset, run_command

if TYPE_CHECKING:
    from framework.checking.check import CheckResult
    from framework.preprocessing.parallel import CasePool

_DEFAULT_PICTURE = ""


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="fw_check",
        description="Read every case of a raw dataset once and explain what is wrong with it. "
        "Exit code 2 if training would fail or learn nonsense, else 0. Changes nothing.",
    )
    add_dataset_argument(parser)
    parser.add_argument("--json", action="store_true", help="print one JSON object and nothing else")
    parser.add_argument(
        "--picture",
        nargs="?",
        const=_DEFAULT_PICTURE,
        metavar="FILE.png",
        help="draw an overview of the cases (default: DATASET_check.png in this folder)",
    )
    parser.add_argument("-np", "--num-processes", type=int, metavar="N", help="processes (default: one per core)")
    return parser


def main(arguments: list[str] | None = None) -> int:
    parser = build_parser()
    options = parser.parse_args(arguments)
    if options.picture and not options.picture.lower().endswith(".png"):
        if options.dataset or options.dataset_option:
            parser.error(f"--picture {options.picture}: the overview is a PNG, so give a name that ends in .png.")
        options.dataset, options.picture = options.picture, _DEFAULT_PICTURE  # fw_check --picture DATASET
    dataset = chosen_dataset(parser, options)
    return run_command(lambda: _check(options, dataset))


def _check(options: argparse.Namespace, dataset: str) -> int:
    from framework.checking.check import check_dataset
    from framework.checking.report import as_json, as_text
    from framework.commands.progress_bar import ProgressBar
    from framework.data.example import create_example_if_asked
    from framework.preprocessing.parallel import CasePool
    from framework.roots import dataset_name, preprocessed_root, raw_root

    if (Path(dataset) / "imagesTr").is_dir() or os.sep in dataset:
        folder = Path(dataset)  # a folder that is not yet where datasets live can be checked as well
    else:
        create_example_if_asked(dataset, lambda text: print(text, file=sys.stderr))
        folder = raw_root() / dataset_name(dataset)
    with CasePool(options.num_processes) as pool:
        bar = ProgressBar()
        try:
            result = check_dataset(folder, [preprocessed_root() / folder.resolve().name], pool, bar)
        finally:
            bar.close()
        if options.json:
            import json

            print(json.dumps(as_json(result), indent=2))
        else:
            print(as_text(result))
        if options.picture is not None:
            _draw(result, options.picture, pool)
    return WRONG_INPUT if result.has_errors else DONE


def _draw(result: CheckResult, path: str, pool: CasePool) -> None:
    from framework.checking.picture import draw_overview

    target = Path(path or f"{result.evidence.listing.folder.name}_check.png")
    num_drawn = draw_overview(target, result, pool)
    said = f"picture of {num_drawn} cases: {target}" if num_drawn else "no picture: no case could be read"
    print(said, file=sys.stderr)


if __name__ == "__main__":
    sys.exit(main())
