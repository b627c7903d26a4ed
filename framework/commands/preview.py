"""``fw_preview DATASET CONFIG [FOLD]``: a picture of augmented training patches, and the time that they take."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from framework.commands.common import DONE, add_training_arguments, chosen_trainer, parse_overrides, run_command

if TYPE_CHECKING:
    from framework.data.patch_batches import PatchBatches
    from framework.evaluation.preview import PatchTile


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="fw_preview",
        description="Draw the first training patches of a fold, as augmented as the network will see them, with their "
        "targets as outlines, and measure each stage of making a batch. Prepares data like fw_train; trains nothing.",
    )
    add_training_arguments(parser, default_fold="0")
    parser.add_argument("--samples", type=int, default=16, metavar="N", help="patches to draw (default: 16)")
    parser.add_argument("--channel", type=int, default=0, metavar="C", help="input channel to draw (default: 0)")
    parser.add_argument("-o", dest="output", metavar="FILE.png", help="(default: DATASET_CONFIG_preview.png)")
    return parser


def main(arguments: list[str] | None = None) -> int:
    parser = build_parser()
    options = parser.parse_args(arguments)
    if not 1 <= options.samples <= 100:
        parser.error(f"--samples {options.samples}: give a number from 1 to 100.")
    if options.output is not None and not options.output.lower().endswith(".png"):
        parser.error(f"-o {options.output}: the picture is a PNG, so give a name that ends in .png.")
    return run_command(lambda: _preview(options))


def _preview(options: argparse.Namespace) -> int:
    from framework.data.patch_batches import PatchBatches
    from framework.errors import FoldwiseError
    from framework.evaluation.preview import draw_patches
    from framework.evaluation.stage_times import measure_stages
    from framework.experiment import checked_fold

    overrides = parse_overrides(options.overrides)
    fold = checked_fold(options.fold)
    trainer = chosen_trainer(options).from_dataset(
        options.dataset, options.configuration, fold, plans=options.plans, overrides=overrides
    )
    batches = trainer.build_batches()[0]
    if not isinstance(batches, PatchBatches):
        raise FoldwiseError(
            f"{type(trainer).__name__} makes batches of its own ({type(batches).__name__}); "
            "only those of PatchBatches can be drawn."
        )
    dataset = trainer.experiment.dataset
    path = Path(options.output or f"{dataset}_{options.configuration}_preview.png")
    tiles = _tiles(batches, options.samples, options.channel)
    configuration = trainer.configuration
    size = "x".join(str(length) for length in batches.patch_size)
    recipe = _recipe_name(configuration.augmentation)
    title = f"{dataset}  {configuration.name}  fold {fold}  patches of {size}  augmentation {recipe}"
    draw_patches(path, tiles, batches.labels.foreground_names, configuration.spacing, title)
    print(f"{len(tiles)} training patches: {path}\n")
    print(measure_stages(batches).table())
    return DONE


def _recipe_name(block: str | dict[str, Any]) -> str:
    """What the plan calls it."""
    if isinstance(block, str):
        return f"'{block}'"
    return f"'{block['preset']}', changed" if "preset" in block else "of the plan's own"


def _tiles(batches: PatchBatches, num_samples: int, channel: int) -> list[PatchTile]:
    """The first samples of the training, as it will see them."""
    import torch

    from framework.augmentation.words import in_words
    from framework.errors import FoldwiseError
    from framework.evaluation.preview import PatchTile

    keys = batches.labels.foreground_keys
    tiles: list[PatchTile] = []
    iteration = 0
    while len(tiles) < num_samples:
        batch = batches(iteration).to("cpu")
        num_channels = batch.data.shape[1]
        if not 0 <= channel < num_channels:
            raise FoldwiseError(f"--channel {channel}: the images have {num_channels}, counted from 0.")
        for recipe, image, target in zip(batches.recipes(iteration), batch.data, batch.target):
            masks = (
                target[: len(keys)] if batches.labels.has_regions else torch.stack([target[0] == key for key in keys])
            )
            done = [] if batches.augmentation is None else in_words(recipe.augmentation, batches.augmentation.geometry)
            tiles.append(
                PatchTile(image[channel].numpy(), masks.numpy(), recipe.case_name, ", ".join(done) or "as it is")
            )
        iteration += 1
    return tiles[:num_samples]


if __name__ == "__main__":
    sys.exit(main())
