"""What was unpacked from a stranger's zip, checked and brought into a safe form before it takes its place."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from framework.data.labels import Labels
from framework.data.raw_dataset import read_channel_names
from framework.errors import CheckpointError, FoldwiseError, PlansError
from framework.file_names import is_file_ending
from framework.files import write_json, write_text
from framework.plans import Plans
from framework.sharing.bundle_files import INSTRUCTIONS
from framework.sharing.bundle_layout import json_value
from framework.sharing.class_names import problems_in_plans, why_not_usable
from framework.sharing.member_names import printable
from framework.sharing.pickles import check_pickle
from framework.sharing.selection import parts_of
from framework.sharing.weights_only import (
    problems_of,
    read_strangers_checkpoint,
    required_class,
    weights_only,
    write_weights,
)


def checked_content(folder: Path, *, trainer: str | None = None) -> dict[str, dict[str, str | None]]:
    """Check every file of an unpacked dataset folder; checkpoints are written anew, with weights only.

    Args:
        folder: ``DatasetXXX_Name`` as unpacked.
        trainer: location of the class that the user names for networks that need one.

    Returns:
        By model folder, which classes build its network: ``nnunet_trainer`` and ``required_class`` of the card.

    Raises:
        FoldwiseError: names the file, below `folder`, and what is wrong with it.
    """
    built_by: dict[str, dict[str, str | None]] = {}
    for file in sorted(folder.rglob("*")):
        name = f"{folder.name}/{file.relative_to(folder).as_posix()}"
        if file.suffix == ".json":
            value = json_value(file.read_bytes(), name)
            if file.name == "plans.json":
                _check_plans(value, name, file.relative_to(folder).parts[0])
            elif file.name == "dataset.json":
                _check_dataset(value, name)
        elif file.suffix == ".pkl":
            check_pickle(file, name)
        elif file.suffix == ".pth":
            cut = _safe_checkpoint(file, name, trainer)
            classes = {"nnunet_trainer": cut["trainer_name"], "required_class": required_class(cut)}
            built_by[file.relative_to(folder).parts[0]] = classes
    return built_by


def rename_dataset(folder: Path, old: str, new: str) -> None:
    """Give the plans and the instructions in a dataset folder its new name."""
    for file in folder.rglob("plans.json"):
        plans = json_value(file.read_bytes(), file.name)
        if plans.get("dataset_name") == old:
            write_json(file, plans | {"dataset_name": new})
    for name in INSTRUCTIONS:
        if (folder / name).is_file():
            text = (folder / name).read_text(encoding="utf-8", errors="replace")
            write_text(folder / name, re.sub(rf"(?<!\w){re.escape(old)}(?!\w)", new, text))


def _check_plans(value: Any, name: str, model: str) -> None:
    parts = parts_of(model)
    try:
        plans = Plans(value, source=name)
        if parts is not None:
            plans.configuration(parts[2])
        problems = problems_in_plans(plans.to_dict())
    except FoldwiseError as error:
        raise PlansError(printable(error)) from None
    except (TypeError, KeyError, AttributeError, IndexError, ValueError, RecursionError) as error:
        # Plans of the old form are converted before they are checked.
        raise PlansError(f"{name} is no plans file that can be used ({type(error).__name__}).") from None
    if problems:
        raise PlansError(printable("\n".join(f"{name}: {problem}" for problem in problems)))


def _check_dataset(value: Any, name: str) -> None:
    if not isinstance(value, Mapping):
        raise FoldwiseError(f"{name}: expected an object {{...}}.")
    try:
        Labels.from_dataset_json(value, name)
        read_channel_names(value)
    except FoldwiseError as error:
        raise FoldwiseError(f"{name}: {printable(error)}") from None
    ending = value.get("file_ending")
    if not is_file_ending(ending):
        raise FoldwiseError(f"{name}: 'file_ending' is {printable(repr(ending), 100)}, expected one such as .nii.gz.")


def _safe_checkpoint(file: Path, name: str, trainer: str | None) -> dict[str, Any]:
    """Replace a checkpoint by one that holds its weights only, and return that.

    Raises:
        CheckpointError: it cannot be used, or names a class that is not installed.
    """
    _, model, fold, _ = name.split("/")
    parts = parts_of(model)
    assert parts is not None
    configuration = parts[2]
    state = read_strangers_checkpoint(file, name)
    problems = problems_of(state, configuration)
    if problems:
        raise CheckpointError(printable(f"{name}: {'; '.join(problems)}."))
    cut = weights_only(state, configuration, fold.removeprefix("fold_"))
    needed = required_class(cut)
    if needed is not None and trainer is not None:
        cut["foldwise"] = {"trainer": trainer}
    elif needed is not None and (reason := why_not_usable(needed)) is not None:
        raise CheckpointError(
            f"{name}: its network is built by a trainer class: {printable(reason, 300)}. Install the package, or, if "
            "you have the file and trust it, name the class: --trainer FILE.py:Class"
        )
    del state
    temporary = file.with_suffix(".new")
    with open(temporary, "wb") as target:
        write_weights(cut, target)
    temporary.replace(file)
    return cut
