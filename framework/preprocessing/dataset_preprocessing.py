"""From a raw dataset and its plans to folders of preprocessed cases: what is missing or changed, and nothing else."""

from __future__ import annotations

import json
import time
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any

from framework.data.image_io import files_to_copy, reader_by_name
from framework.data.raw_dataset import RawCase, RawDataset
from framework.errors import DatasetError, FoldwiseError
from framework.files import copy_if_changed
from framework.plans import Configuration, Plans
from framework.preprocessing.case_reports import counted_cases
from framework.preprocessing.dataset_files import copy_dataset_files, reference_file
from framework.preprocessing.dataset_run import dataset_run
from framework.preprocessing.json_differences import json_differences
from framework.preprocessing.manifest import Manifest, preprocessing_settings, sampled_labels
from framework.preprocessing.parallel import CasePool, Progress
from framework.preprocessing.preprocess import check_supported, preprocess_case
from framework.preprocessing.raw_record import RawRecord, raw_record, touched_but_equal
from framework.preprocessing.raw_size import values_of_largest
from framework.preprocessing.run_log import RunLog, Say

_BYTES_PER_VOXEL = 32  # in a worker, for one channel: float32 before, between and after resampling, and masks


@dataclass(frozen=True)
class DataFolder:
    """One folder of preprocessed cases, and the configuration that it is for."""

    path: Path
    configuration: Configuration
    settings: dict[str, Any]
    wanted_by: str
    """The configuration and its plans, for messages."""

    def opened(self, raw_dataset: RawDataset) -> Manifest:
        """The record of what is in the folder. DatasetError if it was made with other settings."""
        return Manifest(self.path, self.settings, sampled_labels(raw_dataset.labels), self.wanted_by)


def preprocess_dataset(
    raw_dataset: RawDataset,
    preprocessed_folder: Path,
    plans: Plans,
    configuration_names: Sequence[str],
    *,
    num_processes: int | None = None,
    pool: CasePool | None = None,
    say: Say = print,
    progress: Progress | None = None,
    verbose: bool = False,
) -> None:
    """Preprocess the cases that are missing or whose raw files changed, for several configurations at once.

    Nothing is deleted, and a run that was stopped goes on where it was. Every raw file is read once.

    Args:
        verbose: also tell the details that otherwise only the log has.

    Raises:
        DatasetError: a folder holds cases that were made with other settings; nothing was done.
        CasesError: lists every case that cannot be used, with the reason; all others were done.
    """
    folders = data_folders(preprocessed_folder, plans, configuration_names)
    log = RunLog(preprocessed_folder, say, verbose)
    if not _work_to_do(raw_dataset, folders):
        copy_dataset_files(raw_dataset, preprocessed_folder)
        _update_references(raw_dataset, preprocessed_folder, plans, raw_dataset.cases)
        return
    with dataset_run(preprocessed_folder, log, pool, num_processes) as workers:
        # Opened again: another run may have done something while this one waited.
        targets = [_Target(folder, folder.opened(raw_dataset)) for folder in folders]
        work = _Work(raw_dataset, preprocessed_folder, plans, targets, workers, log, progress)
        copy_dataset_files(raw_dataset, preprocessed_folder)
        work.describe()
        work.refresh_copied()
        todo = work.todo()
        done = [name for name in raw_dataset.cases if name not in todo]
        _update_references(raw_dataset, preprocessed_folder, plans, done)
        if todo:
            work.do(todo)


def data_folders(preprocessed_folder: Path, plans: Plans, configuration_names: Sequence[str]) -> list[DataFolder]:
    """The folders of some configurations, each once: a cascade reads the data of the one it inherits from.

    Raises:
        DatasetError: two configurations name one folder for different data.
        UnknownNameError, PlansError: a configuration does not exist, or asks for what does not exist.
    """
    reader_by_name(plans.image_reader_writer, plans.source)
    folders: dict[str, DataFolder] = {}
    for name in configuration_names:
        configuration = plans.configuration(name)
        check_supported(plans, configuration)
        identifier = configuration.data_identifier
        settings = preprocessing_settings(plans, configuration)
        other = folders.get(identifier)
        if other is None:
            wanted_by = f"configuration '{name}' of {plans.source}"
            folders[identifier] = DataFolder(preprocessed_folder / identifier, configuration, settings, wanted_by)
        elif other.settings != settings:
            raise DatasetError(
                f"{plans.source}: configurations '{other.configuration.name}' and '{name}' both have the "
                f"data_identifier '{identifier}', but ask for different data: "
                f"{', '.join(json_differences(other.settings, settings))}. Give one of them a "
                "data_identifier of its own."
            )
    return list(folders.values())


def _work_to_do(raw_dataset: RawDataset, folders: Iterable[DataFolder]) -> bool:
    """Whether anything is missing or changed. Data of another program is put on record on this occasion."""
    manifests = [folder.opened(raw_dataset) for folder in folders]
    if not all(manifest.is_current(case) for manifest in manifests for case in raw_dataset.cases.values()):
        return True
    for manifest in manifests:
        if manifest.is_new:
            with suppress(FoldwiseError):  # data that can only be read is complete all the same
                manifest.save()
    return False


@dataclass(frozen=True, eq=False)
class _Target:
    folder: DataFolder
    manifest: Manifest


@dataclass(frozen=True)
class _Work:
    """What is to be done for a dataset while nobody else prepares it."""

    raw_dataset: RawDataset
    preprocessed_folder: Path
    plans: Plans
    targets: list[_Target]
    pool: CasePool
    log: RunLog
    progress: Progress | None

    def describe(self) -> None:
        """The settings, for the log; and whether dataset.json asks for other data than before."""
        for target in self.targets:
            folder, manifest = target.folder, target.manifest
            self.log.detail(f"{folder.path}, for {folder.wanted_by}: {json.dumps(manifest.settings)}")
            if manifest.labels_changed:
                self.log.say(
                    f"dataset.json names other labels or regions than when {folder.path.name} was made: "
                    f"all its cases are made again, for {manifest.sampled_labels}"
                )

    def refresh_copied(self) -> None:
        """Find the cases whose raw files were only copied or touched, and note their new times."""
        touched = [target.manifest.touched(self.raw_dataset.cases.values()) for target in self.targets]
        refreshed: set[str] = set()
        for target, equal in zip(self.targets, touched_but_equal(touched, self.pool, self.progress)):
            for name, record in equal.items():
                target.manifest.add(name, record)
            if equal:
                target.manifest.save()
            refreshed |= set(equal)
        if refreshed:
            self.log.say(
                f"{counted_cases(len(refreshed))} were copied or touched, but hold what they held: not done again"
            )

    def todo(self) -> dict[str, list[_Target]]:
        """For each case that is missing or changed somewhere: where."""
        todo = {
            name: [target for target in self.targets if not target.manifest.is_current(case)]
            for name, case in self.raw_dataset.cases.items()
        }
        return {name: targets for name, targets in todo.items() if targets}

    def do(self, todo: Mapping[str, Sequence[_Target]]) -> None:
        """Make these cases."""
        used = [target for target in self.targets if any(target in targets for targets in todo.values())]
        for target in used:
            target.manifest.forget(name for name, targets in todo.items() if target in targets)
            target.manifest.save()

        def written(name: str, result: tuple[RawRecord, float]) -> None:
            record, seconds = result
            for target in todo[name]:
                target.manifest.add(name, record)
            self.log.detail(f"case '{name}': {seconds:.2f} s")

        arguments = {name: self._arguments(name, targets) for name, targets in todo.items()}
        listed = ", ".join(target.folder.configuration.name for target in used)
        memory = _bytes_for_largest_case(self.raw_dataset, [target.folder.configuration for target in used])
        try:
            with self.log.timed(f"preprocessing {counted_cases(len(todo))} for {listed}"):
                self.pool.run(_recorded_preprocessing, arguments, "preprocessing", self.progress, written, memory)
        finally:
            for target in used:
                target.manifest.save()

    def _arguments(self, name: str, targets: Sequence[_Target]) -> tuple[Any, ...]:
        """Of `preprocess_case`."""
        return (
            self.raw_dataset.cases[name],
            self.raw_dataset.labels,
            len(self.raw_dataset.channel_names),
            self.plans.image_reader_writer,
            self.plans,
            tuple((target.folder.configuration, target.folder.path) for target in targets),
            reference_file(self.raw_dataset, self.preprocessed_folder, name),
        )


def _recorded_preprocessing(case: RawCase, *arguments: Any) -> tuple[RawRecord, float]:
    """In a worker: preprocess one case; what it was made from, and the seconds that it took."""
    start = time.monotonic()
    record = raw_record(case)
    preprocess_case(case, *arguments)
    return record, time.monotonic() - start


def _bytes_for_largest_case(raw_dataset: RawDataset, configurations: Iterable[Configuration]) -> float:
    num_channels = len(raw_dataset.channel_names)
    before = values_of_largest(raw_dataset.cases.values()) / num_channels
    after = max(prod(configuration.median_image_size_in_voxels) for configuration in configurations)
    return max(before, after) * (num_channels + 1) * _BYTES_PER_VOXEL


def _update_references(raw_dataset: RawDataset, folder: Path, plans: Plans, names: Iterable[str]) -> None:
    for name in names:
        label = raw_dataset.cases[name].label
        if label is not None:
            for source, copy in files_to_copy(
                label, reference_file(raw_dataset, folder, name), plans.image_reader_writer
            ):
                copy_if_changed(source, copy)
