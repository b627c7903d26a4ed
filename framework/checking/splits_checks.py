"""Checks of ``splits_final.json``, beside the raw data and beside the preprocessed data."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from framework.checking.findings import Finding, Severity, finding_if_any
from framework.data.splits import FILE_NAME
from framework.errors import DatasetError
from framework.files import read_json

_FORM = '[{"train": [names], "val": [names]}, ...], one entry for each fold'
_ADVICE = "Correct the file, or delete it to get the default splits."


def check_splits(folders: Sequence[Path], case_names: Sequence[str]) -> list[Finding]:
    """Everything wrong with the splits in these folders, if there are any.

    Args:
        case_names: all training cases.
    """
    return [
        finding
        for folder in folders
        if (folder / FILE_NAME).is_file()
        for finding in _check_file(folder / FILE_NAME, case_names)
    ]


def _check_file(path: Path, case_names: Sequence[str]) -> list[Finding]:
    try:
        splits = read_json(path, error_type=DatasetError)
    except DatasetError as error:
        return [Finding("splits-unreadable", Severity.ERROR, str(error), _ADVICE)]
    if not isinstance(splits, list) or not splits or not all(_is_split(split) for split in splits):
        message = f"{path}: expected {_FORM}."
        return [Finding("splits-unreadable", Severity.ERROR, message, _ADVICE)]
    known = set(case_names)
    unknown: dict[str, list[str]] = {}
    in_both: dict[str, list[str]] = {}
    empty = []
    for fold, split in enumerate(splits):
        for part in "train", "val":
            for name in dict.fromkeys(split[part]):
                if name not in known:
                    unknown.setdefault(name, []).append(f"fold {fold} {part}")
            if not split[part]:
                empty.append(f"'{part}' of fold {fold}")
        for name in sorted(set(split["train"]) & set(split["val"])):
            in_both.setdefault(name, []).append(f"fold {fold}")
    used = {name for split in splits for part in ("train", "val") for name in split[part]}
    unused = [name for name in case_names if name not in used]
    times = Counter(name for split in splits for name in set(split["val"]))
    uneven = {name: f"{times[name]} times" for name in case_names if name in used and times[name] != 1}
    return [
        *finding_if_any(
            {name: ", ".join(places) for name, places in unknown.items()},
            "splits-unknown-case",
            Severity.ERROR,
            f"{path} names cases that do not exist.",
            _ADVICE,
        ),
        *finding_if_any(
            {name: ", ".join(places) for name, places in in_both.items()},
            "splits-overlap",
            Severity.ERROR,
            f"{path} has cases both in 'train' and in 'val' of a fold.",
            "Keep them in one part, else the validation measures what was learned by heart.",
        ),
        *(
            [Finding("splits-empty-part", Severity.ERROR, f"{path}: {', '.join(empty)} is empty.", _ADVICE)]
            if empty
            else []
        ),
        *finding_if_any(
            dict.fromkeys(unused, "in no fold"),
            "splits-unused-case",
            Severity.WARNING,
            f"{path} leaves out cases, so they are neither trained on nor validated on.",
            "Add them to the file, or delete it to get the default splits.",
        ),
        *finding_if_any(
            uneven if len(splits) > 1 else {},
            "splits-uneven",
            Severity.NOTE,
            f"{path}: not every case is validated on in exactly one fold.",
            "Scores over all folds then leave out or repeat cases. Right if the splits were made so on purpose.",
        ),
    ]


def _is_split(split: Any) -> bool:
    return isinstance(split, dict) and all(
        isinstance(split.get(part), list) and all(isinstance(name, str) for name in split[part])
        for part in ("train", "val")
    )
