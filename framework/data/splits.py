"""Which cases a fold trains on and which it validates on: ``splits_final.json``, by nnU-Net's rule."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from framework.errors import DatasetError
from framework.files import read_json, write_json

Split = dict[str, list[str]]
"""``{"train": [...], "val": [...]}``"""

FILE_NAME = "splits_final.json"
NUM_FOLDS = 5
_SEED = 12345  # nnU-Net's; with it both tools validate on the same cases
_TRAINING_SHARE = 0.8  # of the cases, in folds beyond those of the file
_NUM_NAMED = 20


def create_splits(case_names: Iterable[str], num_folds: int = NUM_FOLDS) -> list[Split]:
    """Cross-validation over all cases: each is validated on in exactly one fold.

    The sorted cases are shuffled and cut into parts of equal size, the first ones one larger where it does
    not come out even; this gives what scikit-learn's ``KFold(5, shuffle=True, random_state=12345)`` gives.
    Fewer than five cases give as many folds as there are cases.

    Raises:
        DatasetError: there are fewer than two cases.
    """
    names = sorted(set(case_names))
    num_folds = min(num_folds, len(names))
    if num_folds < 2:
        raise DatasetError(_TOO_FEW.format(num_cases=len(names)))
    order = np.arange(len(names))
    np.random.RandomState(_SEED).shuffle(order)
    splits = []
    for validated in np.array_split(order, num_folds):
        chosen = set(validated.tolist())
        splits.append(
            {
                "train": [name for index, name in enumerate(names) if index not in chosen],
                "val": [name for index, name in enumerate(names) if index in chosen],
            }
        )
    return splits


def load_or_create_splits(preprocessed_dataset_folder: Path | str, case_names: Iterable[str]) -> list[Split]:
    """The splits of a dataset, from ``splits_final.json``, which is written first if there is none.

    Several folds may start at once: all write the same content, and all read what is there in the end.

    Args:
        preprocessed_dataset_folder: ``PREPROCESSED/DATASET``.
        case_names: all cases of the dataset.

    Returns:
        One entry for each fold; an empty list for a dataset of a single case, which cannot be split.

    Raises:
        DatasetError: an existing file names cases that do not exist, or has one in both parts of a fold;
        lists all.
    """
    names = sorted(set(case_names))
    path = Path(preprocessed_dataset_folder) / FILE_NAME
    if not path.is_file():
        if len(names) < 2:
            return []
        write_json(path, create_splits(names))
    splits = read_json(path, error_type=DatasetError)
    _check(splits, names, path)
    return splits


def fold_cases(splits: Sequence[Split], fold: int | str, case_names: Iterable[str]) -> tuple[list[str], list[str]]:
    """The cases to train and to validate on.

    Fold ``"all"`` trains and validates on every case. A fold beyond the last one is a random 80:20 split of
    its own, with the fold as seed.

    Raises:
        DatasetError: no such fold, or it leaves nothing to train or to validate on.
    """
    names = sorted(set(case_names))
    if fold == "all":
        return names, list(names)
    if not isinstance(fold, int) or fold < 0:
        known = ", ".join(str(index) for index in range(len(splits)))
        raise DatasetError(f"fold '{fold}' is not known. Pass one of {known}, or 'all' to train on every case.")
    if len(names) < 2:
        raise DatasetError(_TOO_FEW.format(num_cases=len(names)))
    if fold < len(splits):
        return list(splits[fold]["train"]), list(splits[fold]["val"])
    random = np.random.RandomState(_SEED + fold)
    chosen = random.choice(len(names), int(len(names) * _TRAINING_SHARE), replace=False).tolist()
    train = [names[index] for index in chosen]
    return train, [name for name in names if name not in set(train)]


_TOO_FEW = (
    "{num_cases} case(s) cannot be split into training and validation cases. Add cases, or train on all of "
    "them without validation cases of their own: fold 'all'."
)


def _check(splits: Any, names: list[str], path: Path) -> None:
    form = '[{"train": [names], "val": [names]}, ...], one entry for each fold'
    if not isinstance(splits, list) or not splits:
        raise DatasetError(f"{path}: expected {form}. Correct it, or delete it to get the default splits.")
    problems: list[str] = []
    known = set(names)
    for fold, split in enumerate(splits):
        if not (
            isinstance(split, dict)
            and all(isinstance(split.get(part), list) for part in ("train", "val"))
            and all(isinstance(name, str) for part in ("train", "val") for name in split[part])
        ):
            problems.append(f"fold {fold}: expected {form}.")
            continue
        for part in ("train", "val"):
            missing = [name for name in split[part] if name not in known]
            if missing:
                problems.append(f"fold {fold}: {len(missing)} {part} case(s) do not exist: {_named(missing)}.")
            if not split[part]:
                problems.append(f"fold {fold}: '{part}' is empty.")
        both = sorted(set(split["train"]) & set(split["val"]))
        if both:
            problems.append(f"fold {fold}: in both train and val: {_named(both)}.")
    if problems:
        advice = f"The dataset has {len(names)} cases. Correct the file, or delete it to get the default splits."
        raise DatasetError("\n".join([f"{path} does not fit the dataset:", *problems, advice]))


def _named(names: list[str]) -> str:
    more = f" and {len(names) - _NUM_NAMED} more" if len(names) > _NUM_NAMED else ""
    return ", ".join(names[:_NUM_NAMED]) + more
