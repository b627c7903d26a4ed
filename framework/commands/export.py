"""``fw_export``: trained models as one zip, for others to predict with."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from framework.commands.common import DONE, add_dataset_argument, run_command
from framework.errors import FoldwiseError


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="fw_export",
        description="Pack trained models into one zip: weights, plans, dataset description, checksums, licence and "
        "citation. fw_import installs it, and so does nnU-Net.",
    )
    add_dataset_argument(parser)
    parser.add_argument(
        "-m",
        dest="models",
        nargs="+",
        metavar="FOLDER",
        help="in place of DATASET: model folders .../TRAINER__PLANS__CONFIG, or one fold of one",
    )
    parser.add_argument(
        "-c", dest="configurations", nargs="+", metavar="CONFIG", help="configurations (default: all that are trained)"
    )
    parser.add_argument("-tr", "--trainer", metavar="T", help="trainer, where models of several are there")
    parser.add_argument("-p", "--plans", metavar="P", help="plans, where models of several are there")
    parser.add_argument("-o", "--output", dest="output", required=True, metavar="FILE.zip", help="the zip to write")
    parser.add_argument(
        "-f", "--folds", dest="folds", nargs="+", metavar="FOLD", help="folds (default: all with the checkpoint)"
    )
    parser.add_argument(
        "-chk",
        "--checkpoint",
        dest="checkpoints",
        nargs="+",
        default=["final"],
        metavar="C",
        help="final, best or latest (default: final); nnU-Net's checkpoint_final.pth is understood",
    )
    parser.add_argument("--licence", "--license", dest="licence", metavar="L", help="SPDX name, such as CC-BY-4.0")
    parser.add_argument("--citation", metavar="TEXT", help="what to cite, or a file that holds it")
    parser.add_argument("--authors", nargs="+", default=[], metavar="NAME", help="who made the model")
    parser.add_argument("--description", metavar="TEXT", help="what it is for, and on what it was tested, or a file")
    parser.add_argument(
        "--not_strict", "--not-strict", action="store_true", help="leave out configurations and folds that are missing"
    )
    parser.add_argument(
        "--exp_cv_preds", "--export-predictions", dest="predictions", action="store_true",
        help="also the label images of the cross-validation",
    )  # fmt: skip
    parser.add_argument("--overwrite", action="store_true", help="replace FILE.zip")
    return parser


def main(arguments: list[str] | None = None) -> int:
    parser = build_parser()
    options = parser.parse_args(arguments)
    dataset = options.dataset or options.dataset_option
    if (options.models is None) == (dataset is None):
        parser.error("give DATASET, or model folders with -m.")
    if options.models is not None and (options.configurations or options.trainer or options.plans):
        parser.error("-c, -tr and -p choose among the models of DATASET; -m names the folders themselves.")
    return run_command(lambda: _export(options, dataset))


def _export(options: argparse.Namespace, dataset: str | None) -> int:
    from framework.roots import trained_dataset
    from framework.sharing.bundle import write_bundle
    from framework.sharing.selection import chosen_model, model_folder, model_folders, with_previous_stages

    output = Path(options.output)
    if output.is_dir():
        raise FoldwiseError(f"{output} is a folder. Give the name of the zip: {output / 'model.zip'}")
    if output.exists() and not options.overwrite:
        raise FoldwiseError(f"{output} exists. Pass --overwrite to replace it, or give another name.")
    strict = not options.not_strict
    if options.models is not None:
        folders = [model_folder(Path(folder)) for folder in options.models]
    else:
        trainer = options.trainer.rpartition(":")[2] if options.trainer else None
        assert dataset is not None
        folders = model_folders(trained_dataset(dataset), options.configurations, trainer, options.plans, strict)
    models = [
        chosen_model(folder, options.folds, options.checkpoints, strict) for folder in with_previous_stages(folders)
    ]
    bundle = write_bundle(
        models,
        output,
        licence=options.licence,
        citation=_text_or_file(options.citation),
        authors=options.authors,
        description=_text_or_file(options.description),
        with_predictions=options.predictions,
    )
    print("\n".join(bundle.card.lines()))
    print(f"written: {bundle.path}, {bundle.size / 1e6:.1f} MB, SHA-256 {bundle.sha256}")
    print(f"Next, where it is wanted: fw_import {bundle.path.name}")
    return DONE


def _text_or_file(value: str | None) -> str | None:
    """The text, or what the file of that name holds."""
    if value is None or "\n" in value or len(value) > 255 or not Path(value).is_file():
        return value
    try:
        return Path(value).read_text(encoding="utf-8").strip()
    except UnicodeDecodeError:
        raise FoldwiseError(f"{value} is no text in UTF-8; a citation or description was expected.") from None


if __name__ == "__main__":
    sys.exit(main())
