"""What each preprocessed case was made from and with, so that only what is missing or changed is done again.

For every data folder there is ``PREPROCESSED/DATASET/foldwise/DATA_IDENTIFIER.json`` with the settings and,
for each case, its raw files. (Not in the data folder itself: nnU-Net refuses to read a folder with a file of
another kind in it.) Data that nnU-Net wrote has no such record and is trusted as it is.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from framework.data.case_files import complete_cases
from framework.data.labels import Labels
from framework.data.raw_dataset import RawCase
from framework.errors import DatasetError
from framework.files import read_json, write_json
from framework.plans import Configuration, Plans
from framework.preprocessing.case_reports import counted_cases
from framework.preprocessing.class_sampling import keys_to_sample
from framework.preprocessing.json_differences import json_differences
from framework.preprocessing.raw_record import RawRecord, is_untouched
from framework.preprocessing.run_log import library_versions

_VERSION = 2
_SECONDS_BETWEEN_WRITES = 5.0
_NOT_OURS = "written by another program"


class Manifest:
    """The record of one data folder.

    Two kinds of change are told apart. What the plans say is fixed for a folder: data that was made with other
    settings is somebody's, and is refused. What the raw dataset says (its files, the labels in dataset.json)
    is the same for all plans: there the newest counts, and cases are made again.
    """

    def __init__(
        self, data_folder: Path, settings: Mapping[str, Any], sampled_labels: list[Any] | None, wanted_by: str = ""
    ) -> None:
        """
        Args:
            data_folder: ``PREPROCESSED/DATASET/DATA_IDENTIFIER``; it need not exist.
            settings: as `preprocessing_settings` returns them.
            sampled_labels: as `sampled_labels` returns them; None if they are not known.
            wanted_by: which configuration of which plans has these settings, for messages.

        Raises:
            DatasetError: the folder holds cases that were made with other settings; or by another program, for
                other labels.
        """
        self.data_folder = data_folder
        self.path = data_folder.parent / "foldwise" / f"{data_folder.name}.json"
        self.settings = _plain(settings)
        self.sampled_labels = _plain(sampled_labels)
        self.cases: dict[str, Any] = {}
        """For each complete case its `RawRecord`, or that another program wrote it."""
        self.labels_changed = False
        """Whether there are cases that were made for other labels; they count as missing."""
        self._last_write = 0.0

        complete = complete_cases(data_folder) if data_folder.is_dir() else []
        self.is_new = not self.path.is_file()
        if self.is_new:
            self.cases = dict.fromkeys(complete, _NOT_OURS)
        elif complete:
            self._take_over(read_json(self.path, error_type=DatasetError), complete, wanted_by)

    def _take_over(self, saved: Mapping[str, Any], complete: Iterable[str], wanted_by: str) -> None:
        complete = set(complete)
        saved_settings = saved.get("settings", {})
        known = {key: value for key, value in self.settings.items() if key in saved_settings}
        changed = json_differences({key: saved_settings[key] for key in known}, known, limit=len(known) * 8)
        if changed:
            raise DatasetError(_refusal(self.data_folder, len(complete), changed, wanted_by))
        cases = {case: record for case, record in saved.get("cases", {}).items() if case in complete}
        saved_labels = saved.get("sampled_labels")
        if None not in (saved_labels, self.sampled_labels) and saved_labels != self.sampled_labels:
            if _NOT_OURS in cases.values():
                raise DatasetError(
                    f"{self.data_folder} holds cases that another program made for the labels {saved_labels}; "
                    f"dataset.json now has {self.sampled_labels}. Move or delete that folder yourself and run "
                    "again, so that all cases are made for the new labels."
                )
            self.labels_changed, cases = True, {}
        self.cases = cases

    def is_current(self, case: RawCase) -> bool:
        """Whether a case is there, made with these settings from files that have not been touched since."""
        record = self.cases.get(case.name)
        return record == _NOT_OURS or (record is not None and is_untouched(case, record))

    def touched(self, cases: Iterable[RawCase]) -> dict[str, tuple[RawCase, RawRecord]]:
        """Cases that are there, but whose raw files have another size or time than those they were made from."""
        return {case.name: (case, self.cases[case.name]) for case in cases if self._is_touched(case)}

    def _is_touched(self, case: RawCase) -> bool:
        return case.name in self.cases and not self.is_current(case)

    def forget(self, cases: Iterable[str]) -> None:
        """Note that these cases are about to be made (again), before anything of them is written."""
        for case in cases:
            self.cases.pop(case, None)

    def add(self, case: str, record: RawRecord) -> None:
        """Note that a case has been written. Saved now and then; a case that is lost by a crash is done again."""
        self.cases[case] = record
        if time.monotonic() - self._last_write > _SECONDS_BETWEEN_WRITES:
            self.save()

    def save(self) -> None:
        """Write the record."""
        content = {
            "version": _VERSION,
            "made_with": library_versions(),
            "settings": self.settings,
            "sampled_labels": self.sampled_labels,
            "cases": dict(sorted(self.cases.items())),
        }
        write_json(self.path, content, indent=1)
        self._last_write = time.monotonic()


def preprocessing_settings(plans: Plans, configuration: Configuration) -> dict[str, Any]:
    """What of the plans the content of a preprocessed case depends on, under the names that it has there."""
    settings: dict[str, Any] = {
        "image_reader_writer": plans.image_reader_writer,
        "transpose_forward": plans.transpose_forward,
        "preprocessor_name": configuration.preprocessor_name,
        "spacing": configuration.spacing,
        "normalization_schemes": configuration.normalization_schemes,
        "use_mask_for_norm": configuration.use_mask_for_norm,
        "resampling_fn_data": configuration.resampling_fn_data,
        "resampling_fn_data_kwargs": configuration.resampling_fn_data_kwargs,
        "resampling_fn_seg": configuration.resampling_fn_seg,
        "resampling_fn_seg_kwargs": configuration.resampling_fn_seg_kwargs,
    }
    if "CTNormalization" in configuration.normalization_schemes:
        settings["foreground_intensity_properties_per_channel"] = plans.foreground_intensity_properties
    return settings


def sampled_labels(labels: Labels) -> list[Any]:
    """What of dataset.json the content of a preprocessed case depends on: whose voxels are listed with it."""
    return [list(key) if isinstance(key, tuple) else key for key in keys_to_sample(labels)]


def _refusal(data_folder: Path, num_cases: int, changed: Iterable[str], wanted_by: str) -> str:
    lines = [
        f"{data_folder} holds {counted_cases(num_cases)} preprocessed with other settings than "
        f"{wanted_by or 'the plans'} now asks for:",
        *(f"  {difference}" for difference in changed),
        "Nothing was changed, since other plans or trained models may rely on these files. Give the configuration a "
        f"new data_identifier in the plans (it is '{data_folder.name}' now), or undo the change, or move or delete "
        "the folder yourself; then run the same command again.",
    ]
    return "\n".join(lines)


def _plain(value: Any) -> Any:
    """As it will be read back from JSON: tuples become lists."""
    return json.loads(json.dumps(value))
