"""``fw_convert INPUT``: make a raw dataset of one from the Medical Segmentation Decathlon or of nnU-Net v1."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from framework.commands.common import DONE, run_command


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="fw_convert",
        description="Make a raw dataset of a folder TaskXX_Name of the Medical Segmentation Decathlon or of nnU-Net "
        "version 1; which of the two it is, is recognised. The folder stays as it is.",
    )
    parser.add_argument("source", metavar="INPUT", nargs="?", help="folder with dataset.json, imagesTr and labelsTr")
    parser.add_argument("name", metavar="NAME", nargs="?", help="DatasetXXX_Name (default: as the folder is called)")
    parser.add_argument("-i", dest="source_option", metavar="INPUT", help="the same, in nnU-Net's spelling")
    parser.add_argument(
        "-overwrite_id", "--id", dest="number", type=int, metavar="N", help="number of the new dataset, 1 to 999"
    )
    parser.add_argument("-np", "--num-processes", type=int, metavar="N", help="processes (default: one per core)")
    parser.add_argument("--overwrite", action="store_true", help="replace a raw dataset of the same name")
    return parser


def main(arguments: list[str] | None = None) -> int:
    parser = build_parser()
    options = parser.parse_args(arguments)
    if options.source is not None and options.source_option is not None:
        if options.name is not None:
            parser.error("INPUT is given twice, once with -i.")
        options.source, options.name = options.source_option, options.source
    source = options.source or options.source_option
    if source is None:
        parser.error("which dataset? Give the folder TaskXX_Name.")
    if options.name is not None and options.number is not None:
        parser.error("give NAME or -overwrite_id, not both.")
    if options.number is not None and not 0 < options.number < 1000:
        parser.error(f"-overwrite_id {options.number}: expected a number from 1 to 999.")
    return run_command(lambda: _convert(options, Path(source)))


def _convert(options: argparse.Namespace, source: Path) -> int:
    from framework.commands.progress_bar import ProgressBar
    from framework.data.conversion import convert_file, open_old_dataset
    from framework.data.conversion_target import built_beside, target_folder
    from framework.data.raw_dataset import RawDataset
    from framework.files import write_json
    from framework.preprocessing.parallel import CasePool

    dataset = open_old_dataset(source)
    name = options.name or dataset.default_name
    if options.number is not None:
        name = f"Dataset{options.number:03d}_{name.split('_', 1)[1]}"
    target = target_folder(name, dataset.folder, options.overwrite)
    print(f"{dataset.folder.name} has the layout of {dataset.layout}; converting it to {target}.")
    bar = ProgressBar()
    try:
        with built_beside(target) as temporary:
            for folder in {place for _, place, _ in dataset.files.values()}:
                (temporary / folder).mkdir()
            with CasePool(options.num_processes) as pool:
                pool.run(
                    convert_file,
                    {key: (file, temporary / place, number) for key, (file, place, number) in dataset.files.items()},
                    "convert",
                    bar,
                )
            write_json(temporary / "dataset.json", dataset.dataset_json)
    finally:
        bar.close()
    converted = RawDataset.open(target)
    labels = ", ".join(f"{name}={value}" for name, value in dataset.dataset_json["labels"].items())
    print(f"{len(converted.cases)} training cases; channels {', '.join(converted.channel_names)}; labels {labels}.")
    print(f"Next: fw_train {target.name} 3d_fullres 0")
    return DONE


if __name__ == "__main__":
    sys.exit(main())
