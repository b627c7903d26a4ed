"""``fw_predict``: segment a folder of scans with trained folds."""

from __future__ import annotations

import argparse
import sys

from framework.commands.common import DONE, run_command


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="fw_predict", description="Segment a folder of scans with trained folds.")
    parser.add_argument(
        "-i",
        dest="source",
        required=True,
        metavar="IN",
        help="folder with CASE_0000.nii.gz, ..., or with one folder for each DICOM series",
    )
    parser.add_argument("-o", dest="target", required=True, metavar="OUT", help="folder for the label images")
    parser.add_argument(
        "-m", dest="model", metavar="FOLDER", help="model folder .../TRAINER__PLANS__CONFIG, or one fold of it"
    )
    parser.add_argument(
        "-d", dest="dataset", metavar="DATASET", help="in place of -m, with -c: id, DatasetXXX_Name, or name"
    )
    parser.add_argument("-c", dest="configuration", metavar="CONFIG", help="configuration, with -d")
    parser.add_argument("-tr", "--trainer", default="SegmentationTrainer", metavar="T", help="trainer, with -d")
    parser.add_argument("-p", "--plans", metavar="P", help="plans, with -d")
    parser.add_argument(
        "-f", dest="folds", nargs="+", metavar="FOLD", help="folds to average (default: all that are trained)"
    )
    parser.add_argument("-chk", dest="checkpoint", default="final", metavar="C", help="final, best or latest")
    parser.add_argument(
        "-step_size", dest="step", type=float, default=0.5, metavar="S", help="distance of tiles (default 0.5)"
    )
    parser.add_argument("--disable_tta", action="store_true", help="do not average over mirrored views")
    parser.add_argument("--save_probabilities", action="store_true", help="also write CASE.npz")
    parser.add_argument("--continue_prediction", action="store_true", help="skip cases whose label image is there")
    parser.add_argument("-device", "--device", default="auto", metavar="D", help="cpu, cuda, mps")
    return parser


def main(arguments: list[str] | None = None) -> int:
    parser = build_parser()
    options = parser.parse_args(arguments)
    if (options.model is None) == (options.dataset is None):
        parser.error("give the model folder with -m, or dataset and configuration with -d and -c.")
    if options.dataset is not None and options.configuration is None:
        parser.error("-d needs the configuration too: -c 3d_fullres, for example.")
    return run_command(lambda: _predict(options))


def _predict(options: argparse.Namespace) -> int:
    from framework.experiment import find_plans
    from framework.extensions import find_trainer
    from framework.inference import Predictor
    from framework.roots import dataset_name, results_root
    from framework.run_folder import RunFolder

    folder = options.model
    if folder is None:
        name = dataset_name(options.dataset)
        trainer = find_trainer(options.trainer).__name__
        plans = find_plans(name, options.plans).stem
        run = RunFolder.of(results_root(), name, trainer, plans, options.configuration, 0)
        folder = run.model_folder
    checkpoint = options.checkpoint.removeprefix("checkpoint_").removesuffix(".pth")
    predictor = Predictor(
        folder,
        options.folds,
        checkpoint=checkpoint,
        device=options.device,
        mirror=not options.disable_tta,
        step=options.step,
    )
    predictor.predict_files(
        options.source,
        options.target,
        save_probabilities=options.save_probabilities,
        overwrite=not options.continue_prediction,
    )
    return DONE


if __name__ == "__main__":
    sys.exit(main())
