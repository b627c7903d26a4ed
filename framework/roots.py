"""Where datasets live: the three roots, and dataset names from ids."""

from __future__ import annotations

import os
import re
from pathlib import Path

from framework.errors import DatasetError, did_you_mean

_VARIABLES = {
    "raw": ("FW_RAW", "nnUNet_raw"),
    "preprocessed": ("FW_PREPROCESSED", "nnUNet_preprocessed"),
    "results": ("FW_RESULTS", "nnUNet_results"),
}


def raw_root() -> Path:
    """Folder of raw datasets: ``FW_RAW``, else ``nnUNet_raw``, else ``./fw_data/raw``."""
    return _root("raw")


def preprocessed_root() -> Path:
    """Preprocessed datasets: ``FW_PREPROCESSED``, else ``nnUNet_preprocessed``, else ``./fw_data/preprocessed``."""
    return _root("preprocessed")


def results_root() -> Path:
    """Folder of results: ``FW_RESULTS``, else ``nnUNet_results``, else ``./fw_data/results``."""
    return _root("results")


def _root(kind: str) -> Path:
    for variable in _VARIABLES[kind]:
        value = os.environ.get(variable)
        if value:
            folder = Path(value).expanduser()
            if kind == "raw" and not folder.is_dir():
                raise DatasetError(
                    f"{variable}={value} is not a folder. Set {variable} to the folder "
                    "that holds your DatasetXXX_Name folders."
                )
            return folder
    return Path("fw_data") / kind


def known_datasets() -> list[str]:
    """Names of all datasets found in the raw and the preprocessed root, sorted."""
    names: set[str] = set()
    for root in (raw_root(), preprocessed_root()):
        if root.is_dir():
            names.update(entry.name for entry in root.iterdir() if entry.is_dir() and _NAME.fullmatch(entry.name))
    return sorted(names)


def dataset_name(dataset: str | int) -> str:
    """The full name ``DatasetXXX_Name`` for an id (``4``, ``"004"``), a full name, or the part after the underscore.

    Raises:
        DatasetError: no dataset or more than one fits.
    """
    wanted, known = str(dataset), known_datasets()
    if wanted in known:
        return wanted
    if wanted.isdigit():
        fitting = [name for name in known if int(name[7:10]) == int(wanted)]
    else:
        fitting = [name for name in known if name.split("_", 1)[1] == wanted]
    if len(fitting) == 1:
        return fitting[0]
    places = f"{raw_root()} (FW_RAW) and {preprocessed_root()} (FW_PREPROCESSED)"
    if fitting:
        raise DatasetError(
            f"dataset '{dataset}' fits more than one folder in {places}: {', '.join(fitting)}. Use the full name."
        )
    listed = ", ".join(known) or "none"
    hint = did_you_mean(wanted, [*known, *(name.split("_", 1)[1] for name in known)])
    raise DatasetError(
        f"dataset '{dataset}' was not found in {places}.{hint} Found there: {listed}. "
        "Set FW_RAW to the folder that holds your DatasetXXX_Name folder."
    )


def trained_dataset(dataset: str | int) -> Path:
    """``RESULTS/DATASET``, named as for `dataset_name`; on a machine that only predicts the results are enough.

    Raises:
        DatasetError: nothing was trained for it, or more than one dataset fits.
    """
    root, wanted = results_root(), str(dataset)
    entries = sorted(root.iterdir()) if root.is_dir() else []
    names = [entry.name for entry in entries if entry.is_dir() and _NAME.fullmatch(entry.name)]
    fitting = [
        name
        for name in names
        if wanted in (name, name.split("_", 1)[1]) or (wanted.isdigit() and int(wanted) == int(name[7:10]))
    ]
    name = fitting[0] if len(fitting) == 1 else dataset_name(dataset)
    if not (root / name).is_dir():
        raise DatasetError(
            f"{root / name} does not exist: nothing was trained for {name}. With results elsewhere, set FW_RESULTS."
        )
    return root / name


_NAME = re.compile(r"Dataset\d{3}_.+")
