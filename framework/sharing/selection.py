"""Which trained models are shared: folders ``RESULTS/DATASET/TRAINER__PLANS__CONFIGURATION`` and their folds."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from framework.errors import CheckpointError, FoldwiseError, UnknownNameError
from framework.plans import Plans

DATASET_NAME = re.compile(r"Dataset\d{3}_[^/\\]+")
_FOLD = re.compile(r"fold_(\d+|all)")
_KEPT = re.compile(r"_before_\d+$")


@dataclass(frozen=True)
class ModelFolder:
    """A model folder, and the folds and checkpoints of it that are meant."""

    folder: Path
    folds: tuple[str, ...]
    checkpoints: tuple[str, ...]

    @property
    def trainer(self) -> str:
        return self.folder.name.split("__")[0]

    @property
    def plans(self) -> str:
        return self.folder.name.split("__")[1]

    @property
    def configuration(self) -> str:
        return self.folder.name.split("__")[2]

    @property
    def dataset(self) -> str:
        return self.folder.parent.name

    def checkpoint_files(self) -> dict[tuple[str, str], Path]:
        """Files by (fold, checkpoint)."""
        return {
            (fold, tag): self.folder / f"fold_{fold}" / f"checkpoint_{tag}.pth"
            for fold in self.folds
            for tag in self.checkpoints
        }


def parts_of(folder_name: str) -> tuple[str, str, str] | None:
    """Trainer, plans and configuration of a model folder's name; None if it is no such name."""
    parts = folder_name.split("__")
    return (parts[0], parts[1], parts[2]) if len(parts) == 3 and all(parts) and not _KEPT.search(parts[2]) else None


def model_folder(folder: Path) -> Path:
    """The model folder that a user named by itself or by one of its folds.

    Raises:
        FoldwiseError: it is none.
    """
    folder = folder.absolute()
    folder = folder.parent if _FOLD.fullmatch(folder.name) else folder
    if not folder.is_dir() or parts_of(folder.name) is None or not DATASET_NAME.fullmatch(folder.parent.name):
        raise FoldwiseError(
            f"{folder} is no model folder. Give .../DatasetXXX_Name/TRAINER__PLANS__CONFIGURATION, as training writes "
            "it."
        )
    return folder


def model_folders(
    dataset: Path, configurations: Sequence[str] | None, trainer: str | None, plans: str | None, strict: bool = True
) -> list[Path]:
    """The model folders of a dataset's results that fit what was asked for; what is None may be anything.

    Raises:
        FoldwiseError: none fits, a configuration is missing (unless not `strict`), or models of several trainers or
            plans fit.
    """
    found = {entry: parts for entry in sorted(dataset.iterdir()) if entry.is_dir() and (parts := parts_of(entry.name))}
    if not found:
        raise FoldwiseError(f"{dataset} holds no trained model. Train one: fw_train {dataset.name} 3d_fullres 0")
    for kind, wanted, position in (("trainer", trainer, 0), ("plans", plans, 1)):
        known = sorted({parts[position] for parts in found.values()})
        if wanted is not None and wanted not in known:
            raise UnknownNameError(kind, wanted, known, dataset)
        found = {entry: parts for entry, parts in found.items() if wanted in (None, parts[position])}
    known = sorted({parts[2] for parts in found.values()})
    for name in configurations or ():
        if name not in known and strict:
            raise UnknownNameError("configuration", name, known, f"{dataset}: trained")
    found = {entry: parts for entry, parts in found.items() if configurations is None or parts[2] in configurations}
    pairs = sorted({parts[:2] for parts in found.values()})
    if len(pairs) > 1:
        listed = "; ".join(f"-tr {each[0]} -p {each[1]}" for each in pairs)
        raise FoldwiseError(f"{dataset} holds models of several trainers or plans. Choose with one of: {listed}.")
    if not found:
        raise FoldwiseError(f"{dataset} holds none of the configurations {', '.join(configurations or ())}.")
    return list(found)


def with_previous_stages(folders: Sequence[Path]) -> list[Path]:
    """The folders, each after the model of the previous stage that it needs.

    Raises:
        FoldwiseError: the previous stage of a cascade is not trained.
    """
    ordered: list[Path] = []
    for folder in folders:
        parts = parts_of(folder.name)
        assert parts is not None
        trainer, plans, configuration = parts
        previous = Plans.from_file(folder / "plans.json").configuration(configuration).previous_stage
        if previous is not None:
            needed = folder.with_name(f"{trainer}__{plans}__{previous}")
            if not needed.is_dir():
                raise FoldwiseError(
                    f"{folder.name} is the second stage of a cascade and is of no use without {needed.name}, which is "
                    f"not in {folder.parent}. Train it: fw_train {folder.parent.name} {previous} 0 -tr {trainer} "
                    f"-p {plans}"
                )
            ordered += with_previous_stages([needed])
        ordered.append(folder)
    return list(dict.fromkeys(ordered))


def chosen_model(
    folder: Path,
    folds: Sequence[str] | None,
    checkpoints: Sequence[str] = ("final",),
    strict: bool = True,
    report: Callable[[str], None] = print,
) -> ModelFolder:
    """The folds of a model folder that hold the checkpoints; all that do where none are named.

    Raises:
        CheckpointError: a fold that was asked for lacks a checkpoint (unless not `strict`), or no fold has one.
    """
    tags = tuple(tag.removeprefix("checkpoint_").removesuffix(".pth") for tag in checkpoints)
    present = [found[1] for entry in folder.iterdir() if (found := _FOLD.fullmatch(entry.name))]
    wanted = list(dict.fromkeys(folds or sorted(present, key=lambda fold: (not fold.isdigit(), fold.zfill(9)))))
    complete = []
    for fold in wanted:
        missing = [tag for tag in tags if not (folder / f"fold_{fold}" / f"checkpoint_{tag}.pth").is_file()]
        if not missing:
            complete.append(fold)
            continue
        text = f"{folder}: fold {fold} has no {', '.join(f'checkpoint_{tag}.pth' for tag in missing)}"
        if folds is not None and strict:
            raise CheckpointError(f"{text}. Train it to its end, leave it out with -f, or pass --not_strict.")
        report(f"warning: {text}; it is left out.")
    if not complete:
        raise CheckpointError(
            f"{folder} holds no fold with {', '.join(f'checkpoint_{tag}.pth' for tag in tags)}. Train one, or name "
            "another checkpoint with -chk: final, best, latest."
        )
    return ModelFolder(folder, tuple(complete), tags)
