"""Which preprocessed cases are up to date, so that only what is missing or changed is done again.

For every data folder that Foldwise fills there is ``PREPROCESSED/DATASET/foldwise/DATA_IDENTIFIER.json`` with
the settings and, for each case, size and age of the raw files it was made from. (Not in the data folder
itself: nnU-Net refuses to read a folder with a file of another kind in it.) Data that nnU-Net wrote has no
such record and is trusted as it is.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from framework.data.labels import Labels
from framework.data.raw_dataset import RawCase
from framework.data.store import complete_cases
from framework.errors import DatasetError
from framework.files import read_json, write_json
from framework.plans import Configuration, Plans
from framework.preprocessing.class_sampling import keys_to_sample

_VERSION = 1
_SECONDS_BETWEEN_WRITES = 5.0
_NOT_OURS = "written by another program"


class Manifest:
    """The record of one data folder."""

    def __init__(self, data_folder: Path, settings: Mapping[str, Any]) -> None:
        """
        Args:
            data_folder: ``PREPROCESSED/DATASET/DATA_IDENTIFIER``; it need not exist.
            settings: everything that the content of a case depends on, see `preprocessing_settings`.

        Raises:
            DatasetError: the folder holds cases that were made with other settings by another program.
        """
        self.path = data_folder.parent / "foldwise" / f"{data_folder.name}.json"
        self.settings = dict(settings)
        self._last_write = 0.0
        complete = set(complete_cases(data_folder)) if data_folder.is_dir() else set()
        known: dict[str, Any] = {}
        if self.path.is_file():
            saved = read_json(self.path, error_type=DatasetError)
            known = {case: files for case, files in saved.get("cases", {}).items() if case in complete}
            changed = [key for key, value in self.settings.items() if saved.get("settings", {}).get(key) != value]
            if changed and _NOT_OURS in known.values():
                raise DatasetError(
                    f"{data_folder} holds cases that another program made, with a different "
                    f"{', '.join(changed)} than the plans have now. Give this configuration a "
                    "data_identifier of its own in the plans, or move the folder away."
                )
            if changed:
                known = {}
        else:
            known = dict.fromkeys(sorted(complete), _NOT_OURS)
        self.cases = known

    def is_current(self, case: RawCase) -> bool:
        """Whether a case is there, made with these settings from these raw files."""
        return self.cases.get(case.name) in (_NOT_OURS, _raw_files(case))

    def add(self, case: RawCase) -> None:
        """Note that a case has been written."""
        self.cases[case.name] = _raw_files(case)
        if time.monotonic() - self._last_write > _SECONDS_BETWEEN_WRITES:
            self.save()

    def save(self) -> None:
        """Write the record."""
        content = {"version": _VERSION, "settings": self.settings, "cases": dict(sorted(self.cases.items()))}
        write_json(self.path, content, indent=1)
        self._last_write = time.monotonic()


def preprocessing_settings(plans: Plans, configuration: Configuration, labels: Labels) -> dict[str, Any]:
    """What the content of a preprocessed case depends on, as JSON values."""
    settings: dict[str, Any] = {
        "transpose_forward": list(plans.transpose_forward),
        "spacing": list(configuration.spacing),
        "normalization_schemes": list(configuration.normalization_schemes),
        "use_mask_for_norm": list(configuration.use_mask_for_norm),
        "resampling_fn_data": configuration.resampling_fn_data,
        "resampling_fn_data_kwargs": configuration.resampling_fn_data_kwargs,
        "resampling_fn_seg": configuration.resampling_fn_seg,
        "resampling_fn_seg_kwargs": configuration.resampling_fn_seg_kwargs,
        "sampled_labels": [list(key) if isinstance(key, tuple) else key for key in keys_to_sample(labels)],
    }
    if "CTNormalization" in configuration.normalization_schemes:
        settings["foreground_intensity_properties"] = plans.foreground_intensity_properties
    return settings


def _raw_files(case: RawCase) -> list[list[Any]]:
    files = []
    for path in (*case.images, *([case.label] if case.label else [])):
        found = path.stat()
        files.append([path.name, found.st_size, found.st_mtime_ns])
    return files
