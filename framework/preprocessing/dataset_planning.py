"""From a raw dataset to a plans file in its preprocessed folder. Plans that are there are never changed unasked."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from framework.data.raw_dataset import RawDataset
from framework.errors import DatasetError
from framework.files import read_json, write_json
from framework.plans import Plans
from framework.preprocessing.dataset_files import copy_dataset_files
from framework.preprocessing.dataset_run import dataset_run
from framework.preprocessing.fingerprint_file import current_fingerprint
from framework.preprocessing.json_differences import json_differences
from framework.preprocessing.parallel import CasePool, Progress
from framework.preprocessing.planner import plan_dataset
from framework.preprocessing.presets import load_preset, with_rules
from framework.preprocessing.run_log import RunLog, Say
from framework.roots import dataset_name, preprocessed_root, raw_root


def plan_dataset_folder(
    dataset: str | int,
    *,
    preset: str = "default",
    plans_name: str | None = None,
    rules: Mapping[str, Any] | None = None,
    clean: bool = False,
    overwrite: bool = False,
    num_processes: int | None = None,
    pool: CasePool | None = None,
    say: Say = print,
    progress: Progress | None = None,
    verbose: bool = False,
) -> Path:
    """Write fingerprint and plans of a raw dataset into its preprocessed folder.

    Args:
        plans_name: by default the one in the preset.
        rules: fields of the preset's ``planner`` block that are to be different, such as
            ``{"target_spacing": [1, 1, 1]}``.
        clean: extract the fingerprint even if there is one that is made from the raw data as they are.
        overwrite: replace plans of this name that say something else. Configurations that were added to them
            by hand are kept.
        verbose: also tell the details that otherwise only the log has.

    Raises:
        DatasetError: the raw dataset is missing or cannot be used; or different plans of this name exist,
            although the raw data did not change.
    """
    name = dataset_name(dataset)
    chosen = with_rules(load_preset(preset), rules or {})
    raw_dataset = RawDataset.open(raw_root() / name)
    folder = preprocessed_root() / name
    log = RunLog(folder, say, verbose)
    for warning in raw_dataset.warnings:
        log.say(warning)
    with dataset_run(folder, log, pool, num_processes) as workers:
        fingerprint = current_fingerprint(raw_dataset, folder, workers, log, progress, clean)
        planned = plan_dataset(raw_dataset, fingerprint.values, chosen, plans_name)
        copy_dataset_files(raw_dataset, folder)
        plans_file = folder / f"{planned['plans_name']}.json"
        differences = _differences_from_existing(plans_file, planned)
        if fingerprint.raw_data_changed and differences and not overwrite:
            log.say(
                f"{plans_file} was planned before the raw data changed and is kept as it is. Planned now, it would "
                f"differ: {', '.join(differences)}. To use new plans, give them a name of their own, or "
                "overwrite these (fw_plan --overwrite)."
            )
            return plans_file
        log.detail(f"preset {preset}{f', with {json.dumps(dict(rules))}' if rules else ''}")
        write_plans(plans_file, planned, overwrite=overwrite)
        log.say(f"plans '{planned['plans_name']}' (preset {preset}): {plans_file}")
        for line in describe_plans(Plans.from_file(plans_file)):
            log.say(line)
    return plans_file


def write_plans(path: Path, plans: dict[str, Any], overwrite: bool = False) -> None:
    """Write plans, keeping configurations of an existing file that these plans do not have.

    Raises:
        DatasetError: the file exists and says something else, and `overwrite` is not given.
    """
    planned = json.loads(json.dumps(plans))
    if path.is_file():
        existing = read_json(path, error_type=DatasetError)
        planned = _with_added_configurations(planned, existing)
        if planned == existing:
            return
        if not overwrite:
            raise DatasetError(
                f"{path} exists and differs from what would be planned now: "
                f"{', '.join(json_differences(existing, planned))}. Nothing was changed. Give the new plans a "
                "name of their own, move the old ones away, or overwrite them (fw_plan --overwrite)."
            )
    Plans.from_dict(planned, path)  # what is written can be read
    write_json(path, planned)


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


def _differences_from_existing(plans_file: Path, planned: dict[str, Any]) -> list[str]:
    """In which fields plans of this name that are there differ from what is planned now; none if there are none."""
    if not plans_file.is_file():
        return []
    existing = read_json(plans_file, error_type=DatasetError)
    return json_differences(existing, _with_added_configurations(json.loads(json.dumps(planned)), existing))


def _with_added_configurations(planned: dict[str, Any], existing: Mapping[str, Any]) -> dict[str, Any]:
    """The plans with the configurations that only the existing ones have."""
    configurations = planned["configurations"]
    added = {key: value for key, value in existing.get("configurations", {}).items() if key not in configurations}
    return {**planned, "configurations": {**configurations, **added}}
