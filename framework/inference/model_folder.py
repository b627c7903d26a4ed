"""Which checkpoints to predict with, and what was trained there. Nothing here needs torch."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from framework.data.labels import Labels
from framework.data.raw_dataset import read_channel_names
from framework.errors import CheckpointError, DatasetError, FoldwiseError
from framework.experiment import Experiment
from framework.file_names import is_file_ending
from framework.plans import Configuration, Plans
from framework.roots import trained_dataset
from framework.validation import shown

DEFAULT_TRAINER, DEFAULT_PLANS = "SegmentationTrainer", "nnUNetPlans"

_FOLD = re.compile(r"fold_(\d+|all)")  # an earlier run that was moved aside is no fold


@dataclass(frozen=True)
class TrainedModel:
    """Some folds of a training, with the plans that they were trained under.

    Attributes:
        folder: ``.../TRAINER__PLANS__CONFIG``.
        checkpoints: one file for each fold.
        experiment: the record of the first of these folds; plans and dataset are the same in all.
    """

    folder: Path
    checkpoints: tuple[Path, ...]
    experiment: Experiment

    @classmethod
    def open(
        cls, folder: Path | str, folds: Sequence[int | str] | None = None, checkpoint: str = "final"
    ) -> TrainedModel:
        """Find the folds of a model folder.

        Args:
            folder: the model folder, or one of its folds.
            folds: None for all that hold the checkpoint; ``all`` is the name of a fold, and is taken only if there
                is no other.
            checkpoint: ``final``, ``best``, ``latest``, or a file name.

        Raises:
            CheckpointError, FoldwiseError: the folder, a fold or a checkpoint is missing; says what is there.
        """
        folder = Path(folder).expanduser()
        if not folder.is_dir():
            raise FoldwiseError(f"{folder} is not a folder. Give .../TRAINER__PLANS__CONFIG, as training writes it.")
        if _FOLD.fullmatch(folder.resolve().name):
            folder = folder.resolve()
            folder, folds = folder.parent, [folder.name.removeprefix("fold_")]
        files = _checkpoint_files(folder, folds, checkpoint_file_name(checkpoint))
        return cls(folder.resolve(), tuple(files), Experiment.of_run_folder(files[0].resolve().parent))

    @property
    def plans(self) -> Plans:
        return self.experiment.plans

    @cached_property
    def configuration(self) -> Configuration:
        return self.experiment.configuration

    @property
    def dataset_json(self) -> dict[str, Any]:
        return self.experiment.dataset_json

    @property
    def file_ending(self) -> str:
        ending = self.dataset_json.get("file_ending")
        if not is_file_ending(ending):
            raise DatasetError(
                f"{self.folder / 'dataset.json'}: 'file_ending' is {shown(ending)}, expected one such as .nii.gz."
            )
        return str(ending)

    @cached_property
    def labels(self) -> Labels:
        return Labels.from_dataset_json(self.dataset_json, self.folder / "dataset.json")

    @cached_property
    def channel_names(self) -> tuple[str, ...]:
        return read_channel_names(self.dataset_json)

    @property
    def fold_names(self) -> list[str]:
        return [file.parent.name.removeprefix("fold_") for file in self.checkpoints]

    @property
    def previous_stage(self) -> str | None:
        """The configuration whose segmentations a cascade's second stage takes beside the scan, or None."""
        return self.configuration.previous_stage

    def of_previous_stage(self) -> TrainedModel:
        """The same trainer, plans and folds of the previous stage, in the folder beside this one.

        Raises:
            FoldwiseError: it is not there; says how else to go on.
        """
        previous = self.previous_stage
        assert previous is not None
        trainer, plans, _ = self.folder.name.split("__")
        folder = self.folder.with_name(f"{trainer}__{plans}__{previous}")
        checkpoint = self.checkpoints[0].name
        try:
            if not folder.is_dir():
                raise FoldwiseError(f"{folder} does not exist.")
            return TrainedModel.open(folder, self.fold_names, checkpoint)
        except FoldwiseError as error:
            raise FoldwiseError(
                f"'{self.configuration.name}' starts from the segmentations of '{previous}', whose model cannot be "
                f"used: {error} Train it, or predict with it elsewhere and give the folder with "
                "-prev_stage_predictions."
            ) from None


def checkpoint_file_name(checkpoint: str) -> str:
    """``final``, ``checkpoint_final`` and ``checkpoint_final.pth`` are one file."""
    if checkpoint.endswith(".pth"):
        return checkpoint
    return f"checkpoint_{checkpoint.removeprefix('checkpoint_')}.pth"


def find_model_folder(dataset: str, configuration: str, trainer: str | None = None, plans: str | None = None) -> Path:
    """``RESULTS/DATASET/TRAINER__PLANS__CONFIG``.

    Args:
        dataset: id, DatasetXXX_Name, or name.
        trainer: a name, or package.module:Class or file.py:Class. Without it `DEFAULT_TRAINER`, or the only one
            that was trained.
        plans: a name; without it `DEFAULT_PLANS`, or the only ones that were trained with.

    Raises:
        FoldwiseError: none or several fit; lists what is there.
    """
    folder = trained_dataset(dataset)
    wanted = (trainer.rpartition(":")[2] if trainer else None, plans, configuration)
    found = [path for path in sorted(folder.glob("*__*__*")) if path.is_dir() and len(path.name.split("__")) == 3]
    fitting = [
        path
        for path in found
        if all(want is None or part == want for part, want in zip(path.name.split("__"), wanted, strict=True))
    ]
    preferred = [
        path
        for path in fitting
        if path.name == f"{wanted[0] or DEFAULT_TRAINER}__{wanted[1] or DEFAULT_PLANS}__{configuration}"
    ]
    for candidates in (preferred, fitting):
        if len(candidates) == 1:
            return candidates[0]
    asked = f"configuration '{configuration}'" + "".join(
        f", {what} '{value}'" for what, value in (("trainer", wanted[0]), ("plans", plans)) if value
    )
    if fitting:
        raise FoldwiseError(
            f"{folder} holds several models of {asked}: {', '.join(path.name for path in fitting)}. "
            "Choose with -tr and -p, or give the folder with -m."
        )
    raise FoldwiseError(
        f"{folder} holds no model of {asked}. Trained there (TRAINER__PLANS__CONFIG): "
        f"{', '.join(path.name for path in found) or 'nothing'}. Train it, choose another, or give its folder with -m."
    )


def _checkpoint_files(folder: Path, folds: Sequence[int | str] | None, name: str) -> list[Path]:
    if folds is None:
        found = [file for file in sorted(folder.glob(f"fold_*/{name}")) if _FOLD.fullmatch(file.parent.name)]
        numbered = [file for file in found if file.parent.name != "fold_all"]
        if not found:
            raise CheckpointError(
                f"{folder} holds no fold with {name}.{_what_is_there(folder)} Train one, or name another checkpoint "
                "with -chk."
            )
        return numbered or found
    files = [folder / f"fold_{fold}" / name for fold in dict.fromkeys(str(fold) for fold in folds)]
    missing = [str(file) for file in files if not file.is_file()]
    if missing:
        raise CheckpointError(
            f"not found: {', '.join(missing)}.{_what_is_there(folder)} Train these folds, leave them out, or name "
            "another checkpoint with -chk."
        )
    return files


def _what_is_there(folder: Path) -> str:
    found = sorted(folder.glob("fold_*/*.pth"))
    listed = [f"{file.parent.name}/{file.name}" for file in found if _FOLD.fullmatch(file.parent.name)]
    return f" Found there: {', '.join(listed)}." if listed else ""
