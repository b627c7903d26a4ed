"""What commands and trainers call: fingerprint, plans and preprocessed data, each only if it is missing."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

from framework.data.image_io import reader_by_name
from framework.data.memory import available_memory
from framework.data.raw_dataset import RawDataset
from framework.data.store import complete_cases
from framework.errors import DatasetError, UnknownNameError
from framework.experiment import find_plans, plans_files
from framework.files import read_json, write_json
from framework.plans import Plans
from framework.preprocessing import fingerprint as fingerprints
from framework.preprocessing.manifest import Manifest, preprocessing_settings
from framework.preprocessing.parallel import CasePool, Progress, usable_cpus
from framework.preprocessing.planner import plan_dataset
from framework.preprocessing.preprocess import check_supported, copy_if_changed, preprocess_case
from framework.preprocessing.presets import load_preset, preset_names, preset_of_plans
from framework.roots import dataset_name, preprocessed_root, raw_root

Say = Callable[[str], None]

_BYTES_PER_VOXEL = 32  # in a worker, for one channel: float32 before, between and after resampling, and masks


def prepare_dataset(
    dataset: str | int,
    configurations: Sequence[str] | None = None,
    plans: str | None = None,
    *,
    preset: str = "default",
    num_processes: int | None = None,
    say: Say = print,
    progress: Progress | None = None,
) -> tuple[str, Path]:
    """Bring a dataset to where training can start; what is there already is used as it is.

    Args:
        dataset: id, full name, or the part after the underscore.
        configurations: those to preprocess; None for all that stand on their own in the plans.
        plans: name of plans of this dataset, or of a preset that makes them; None takes the plans there are.
        preset: what to plan with where there are no plans and none are named.
        say: told in one line about each thing that is done.

    Returns:
        The full name of the dataset, and its plans file.

    Raises:
        DatasetError: the dataset does not exist; or lists every case that cannot be used.
        UnknownNameError: no such plans, preset or configuration.
    """
    name = dataset_name(dataset)
    folder = preprocessed_root() / name
    with CasePool(num_processes) as pool:
        plans_file = _existing_plans(folder, name, plans)
        if plans_file is None:
            chosen = preset if plans is None else _preset_for(plans, folder)
            plans_file = plan_dataset_folder(name, preset=chosen, pool=pool, say=say, progress=progress)
        loaded = Plans.from_file(plans_file)
        wanted = list(configurations) if configurations is not None else _own_data_configurations(loaded)
        for configuration in wanted:
            loaded.configuration(configuration)  # an unknown name is told before any work is done
        raw_folder = raw_root() / name
        if raw_folder.is_dir():
            preprocess_dataset(
                RawDataset.open(raw_folder), folder, loaded, wanted, pool=pool, say=say, progress=progress
            )
        else:
            _check_data_is_there(folder, loaded, wanted, raw_folder)
    return name, plans_file


def plan_dataset_folder(
    dataset: str | int,
    *,
    preset: str = "default",
    plans_name: str | None = None,
    clean: bool = False,
    overwrite: bool = False,
    num_processes: int | None = None,
    pool: CasePool | None = None,
    say: Say = print,
    progress: Progress | None = None,
) -> Path:
    """Write fingerprint and plans of a raw dataset into its preprocessed folder.

    Args:
        plans_name: by default the one in the preset.
        clean: extract the fingerprint even if there is one.
        overwrite: replace plans of this name that say something else. Configurations that were added to them
            by hand are kept.

    Raises:
        DatasetError: the raw dataset is missing or cannot be used; or different plans of this name exist.
    """
    name = dataset_name(dataset)
    chosen = load_preset(preset)
    raw_dataset = RawDataset.open(raw_root() / name)
    for warning in raw_dataset.warnings:
        say(warning)
    folder = preprocessed_root() / name
    path = folder / fingerprints.FILE_NAME
    if path.is_file() and not clean:
        fingerprint = read_json(path, error_type=DatasetError)
    else:
        with _timed(say, f"fingerprint of {len(raw_dataset.cases)} cases"):
            if pool is not None:
                fingerprint = fingerprints.extract_fingerprint(raw_dataset, pool, progress)
            else:
                with CasePool(num_processes) as own:
                    fingerprint = fingerprints.extract_fingerprint(raw_dataset, own, progress)
        write_json(path, fingerprint)
    planned = plan_dataset(raw_dataset, fingerprint, chosen, plans_name)
    _copy_dataset_files(raw_dataset, folder)
    plans_file = folder / f"{planned['plans_name']}.json"
    write_plans(plans_file, planned, overwrite=overwrite)
    say(f"plans '{planned['plans_name']}' (preset {preset}): {plans_file}")
    for line in describe_plans(Plans.from_file(plans_file)):
        say(line)
    return plans_file


def write_plans(path: Path, plans: dict[str, Any], overwrite: bool = False) -> None:
    """Write plans, keeping configurations of an existing file that these plans do not have.

    Raises:
        DatasetError: the file exists and says something else, and `overwrite` is not given.
    """
    planned = json.loads(json.dumps(plans))
    if path.is_file():
        existing = read_json(path, error_type=DatasetError)
        added = {
            key: value
            for key, value in existing.get("configurations", {}).items()
            if key not in planned["configurations"]
        }
        planned["configurations"] |= added
        if planned == existing:
            return
        if not overwrite:
            raise DatasetError(
                f"{path} exists and differs from what would be planned now: "
                f"{', '.join(_differences(existing, planned))}. Nothing was changed. Give the new plans a "
                "name of their own, move the old ones away, or ask to overwrite them."
            )
    Plans.from_dict(planned, path)  # what is written can be read
    write_json(path, planned)


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
) -> None:
    """Preprocess the cases that are missing or whose raw files changed, for several configurations at once.

    Nothing is deleted, and a run that was stopped goes on where it was. Every raw file is read once.

    Raises:
        DatasetError: lists every case that cannot be used, with the reason; all others were done.
    """
    reader_by_name(plans.image_reader_writer, plans.source)
    manifests: dict[str, Manifest] = {}
    targets: dict[str, list[tuple[str, Path]]] = {}
    folders: dict[str, Path] = {}
    configurations = {name: plans.configuration(name) for name in configuration_names}
    for name, configuration in configurations.items():
        check_supported(plans, configuration)
        folder = preprocessed_folder / configuration.data_identifier
        if folder in folders.values():
            continue  # a cascade reads the data of the configuration it inherits from
        folders[name] = folder
        manifests[name] = Manifest(folder, preprocessing_settings(plans, configuration, raw_dataset.labels))
        for case in raw_dataset.cases.values():
            if not manifests[name].is_current(case):
                targets.setdefault(case.name, []).append((name, folder))
    _copy_dataset_files(raw_dataset, preprocessed_folder)
    references = {
        case: preprocessed_folder / "gt_segmentations" / f"{case}{raw_dataset.file_ending}"
        for case in raw_dataset.cases
    }
    for name, case in raw_dataset.cases.items():
        if name not in targets and case.label is not None:
            copy_if_changed(case.label, references[name])
    if not targets:
        return
    for name in {name for pairs in targets.values() for name, _ in pairs}:
        manifests[name].save()

    def written(case: str, result: None) -> None:
        for name, _ in targets[case]:
            manifests[name].add(raw_dataset.cases[case])

    arguments = {
        case: (
            raw_dataset.cases[case],
            raw_dataset.labels,
            len(raw_dataset.channel_names),
            plans.image_reader_writer,
            plans,
            tuple((configurations[name], folder) for name, folder in pairs),
            references[case],
        )
        for case, pairs in targets.items()
    }
    listed = ", ".join(
        name for name in folders if any(name == target for pairs in targets.values() for target, _ in pairs)
    )
    allowed = _processes_that_fit(plans, list(folders), len(raw_dataset.channel_names), num_processes)
    try:
        with _timed(say, f"preprocessing {len(targets)} cases for {listed}"):
            if pool is not None and pool.num_processes <= allowed:
                pool.run(preprocess_case, arguments, "preprocessing", progress, written)
            else:
                with CasePool(allowed) as own:
                    own.run(preprocess_case, arguments, "preprocessing", progress, written)
    finally:
        for manifest in manifests.values():
            if manifest.cases:
                manifest.save()


def describe_plans(plans: Plans) -> Iterable[str]:
    """One line for each configuration: patch, batch, spacing and network."""
    for name in plans.configuration_names:
        configuration = plans.configuration(name)
        if configuration.architecture is None:
            continue
        patch = "x".join(str(length) for length in configuration.patch_size)
        spacing = "x".join(f"{length:.3g}" for length in configuration.spacing)
        features = configuration.architecture.arch_kwargs.get("features_per_stage", ())
        widths = "-".join(str(width) for width in features)
        batch_size = configuration.batch_size
        yield f"  {name}: patch {patch}, batch {batch_size}, spacing {spacing} mm, features {widths}"


def _existing_plans(folder: Path, name: str, plans: str | None) -> Path | None:
    files = plans_files(folder)
    if plans is None:
        return find_plans(name, None) if files else None
    if plans in files:
        return files[plans]
    # "-p default" means the plans that this preset makes, under whatever name
    if plans in preset_names():
        return files.get(load_preset(plans)["plans_name"])
    return None


def _preset_for(plans: str, folder: Path) -> str:
    if plans.endswith(".json"):
        return plans
    preset = preset_of_plans(plans)
    if preset is None:
        raise UnknownNameError("plans or preset", plans, [*plans_files(folder), *preset_names()], folder)
    return preset


def _own_data_configurations(plans: Plans) -> list[str]:
    """Configurations with data of their own: the first one for each data folder."""
    owners: dict[str, str] = {}
    for name in plans.configuration_names:
        owners.setdefault(plans.configuration(name).data_identifier, name)
    return list(owners.values())


def _check_data_is_there(folder: Path, plans: Plans, wanted: Sequence[str], raw_folder: Path) -> None:
    for name in wanted:
        data_folder = folder / plans.configuration(name).data_identifier
        if not data_folder.is_dir() or not complete_cases(data_folder):
            raise DatasetError(
                f"{data_folder} holds no preprocessed case, and the raw dataset to make them from "
                f"is not at {raw_folder}. Set FW_RAW to the folder that holds it."
            )


def _copy_dataset_files(raw_dataset: RawDataset, folder: Path) -> None:
    """dataset.json, brought up to date; and splits that come with the raw data, unless there are some."""
    target = folder / "dataset.json"
    if not target.is_file() or read_json(target, error_type=DatasetError) != raw_dataset.dataset_json:
        write_json(target, raw_dataset.dataset_json)
    source, target = raw_dataset.folder / "splits_final.json", folder / "splits_final.json"
    if not source.is_file():
        return
    splits = read_json(source, error_type=DatasetError)
    if not target.is_file():
        write_json(target, splits)
    elif read_json(target, error_type=DatasetError)[: len(splits)] != splits:
        raise DatasetError(
            f"{source} and {target} divide the cases differently. Delete the one that you do not want; runs "
            "that were trained with the other one must not be compared with new ones."
        )


def _processes_that_fit(plans: Plans, names: Sequence[str], num_channels: int, wanted: int | None) -> int:
    """As many processes as processors, but not so many that cases of usual size fill the memory."""
    if wanted is not None:
        return max(1, wanted)
    largest = 1.0
    for name in names:
        voxels = 1.0
        for length in plans.configuration(name).median_image_size_in_voxels:
            voxels *= length
        largest = max(largest, voxels)
    memory = available_memory()
    fitting = int(memory / (largest * (num_channels + 1) * _BYTES_PER_VOXEL)) if memory else 1
    return max(1, min(usable_cpus(), fitting))


def _differences(old: Any, new: Any, path: str = "", limit: int = 6) -> list[str]:
    """Paths of the first fields in which two JSON objects differ."""
    if isinstance(old, dict) and isinstance(new, dict):
        found: list[str] = []
        for key in dict.fromkeys([*old, *new]):
            if old.get(key) != new.get(key):
                found += _differences(old.get(key), new.get(key), f"{path}.{key}" if path else str(key), limit)
        return found[:limit]
    return [f"{path} ({_short(old)} there, {_short(new)} now)"]


def _short(value: Any) -> str:
    text = json.dumps(value)
    return text if len(text) <= 40 else f"{text[:37]}..."


class _timed:
    """Say what was done and how long it took, if it went well."""

    def __init__(self, say: Say, what: str) -> None:
        self.say, self.what = say, what

    def __enter__(self) -> None:
        self.start = time.monotonic()

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is None:
            self.say(f"{self.what}: {time.monotonic() - self.start:.1f} s")
