"""``fw_import``: install a shared model, of Foldwise's or nnU-Net's export, into the results folder."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from framework.commands.common import DONE, run_command
from framework.errors import FoldwiseError


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="fw_import",
        description="Install a model that fw_export or nnU-Net packed into a zip. Everything in it is checked before "
        "it takes its place; nothing in it is executed, and nothing is overwritten.",
    )
    parser.add_argument("archive", metavar="FILE.zip", help="the bundle")
    parser.add_argument("--into", metavar="RESULTS", help="results folder (default: FW_RESULTS or nnUNet_results)")
    parser.add_argument(
        "--overwrite", action="store_true", help="where a model of the same name is there, keep it as ..._before_1"
    )
    parser.add_argument("--rename", metavar="DatasetXXX_New", help="another name for the dataset")
    parser.add_argument(
        "--trainer",
        metavar="T",
        help="the class that builds the network, where the model needs one: package.module:Class, or file.py:Class",
    )
    parser.add_argument(
        "--max-size", type=float, default=64.0, metavar="GB", help="refuse what unpacks to more (default 64)"
    )
    return parser


def main(arguments: list[str] | None = None) -> int:
    options = build_parser().parse_args(arguments)
    return run_command(lambda: _import(options))


def _import(options: argparse.Namespace) -> int:
    from framework.extensions import find_trainer, location_of
    from framework.named_code import names_a_file
    from framework.roots import results_root
    from framework.sharing.archive import Limits
    from framework.sharing.installation import install_bundle

    if "://" in options.archive:
        raise FoldwiseError(f"{options.archive} is an address. Download the file first, then import it.")
    trainer = location_of(find_trainer(options.trainer)) if options.trainer else None
    models = install_bundle(
        Path(options.archive),
        Path(options.into) if options.into else results_root(),
        dataset=options.rename,
        overwrite=options.overwrite,
        trainer=trainer,
        limits=Limits(total_bytes=int(options.max_size * 1e9)),
    )
    print("Imported. To segment a folder of scans:")
    for model in models:
        checkpoint = "" if "final" in model.checkpoints else f" -chk {model.checkpoints[0]}"
        code = f" -tr {trainer}" if trainer is not None and names_a_file(trainer) else ""
        print(f"fw_predict -i IMAGES -o SEGMENTATIONS -m {model.folder}{checkpoint}{code}")
    return DONE


if __name__ == "__main__":
    sys.exit(main())
