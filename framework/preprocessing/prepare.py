"""What commands and trainers call: fingerprint, plans and preprocessed data, each only if it is missing."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from framework.data.case_files import complete_cases
from framework.data.raw_dataset import RawDataset
from framework.errors import DatasetError, UnknownNameError
from framework.experiment import find_plans, plans_files
from framework.plans import Plans
from framework.preprocessing.dataset_planning import describe_plans, plan_dataset_folder, write_plans
from framework.preprocessing.dataset_preprocessing import data_folders, preprocess_dataset
from framework.preprocessing.manifest import Manifest
from framework.preprocessing.parallel import CasePool, Progress
from framework.preprocessing.presets import load_preset, preset_names, preset_of_plans
from framework.preprocessing.run_log import Say
from framework.roots import dataset_name, preprocessed_root, raw_root

__all__ = ["describe_plans", "plan_dataset_folder", "prepare_dataset", "preprocess_dataset", "write_plans"]


_NOT_ALWAYS_PLANNED = ("3d_lowres", "3d_fullres", "3d_cascade_fullres")


def prepare_dataset(
    dataset: str | int,
    configurations: Sequence[str] | None = None,
    plans: str | None = None,
    *,
    preset: str = "default",
    num_processes: int | None = None,
    say: Say = print,
    progress: Progress | None = None,
    verbose: bool = False,
) -> tuple[str, Path]:
    """Bring a dataset to where training can start; what is there already is used as it is.

    Args:
        dataset: id, full name, or the part after the underscore.
        configurations: those to preprocess; None for all that stand on their own in the plans.
        plans: name of plans of this dataset, or of a preset that makes them; None takes the plans there are.
        preset: what to plan with where there are no plans and none are named.
        say: told in one line about each thing that is done.
        verbose: tell also the details that otherwise only ``foldwise/preprocessing.log`` has.

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
            pool.import_meanwhile("blosc2", "scipy.ndimage")
            plans_file = plan_dataset_folder(
                name, preset=chosen, pool=pool, say=say, progress=progress, verbose=verbose
            )
        loaded = Plans.from_file(plans_file)
        wanted = list(configurations) if configurations is not None else _own_data_configurations(loaded)
        wanted = _without_those_not_planned(wanted, loaded, say)
        for configuration in wanted:
            loaded.configuration(configuration)  # an unknown name is told before any work is done
        raw_folder = raw_root() / name
        if raw_folder.is_dir():
            raw_dataset = RawDataset.open(raw_folder)
            preprocess_dataset(
                raw_dataset, folder, loaded, wanted, pool=pool, say=say, progress=progress, verbose=verbose
            )
        else:
            _check_data_is_there(folder, loaded, wanted, raw_folder)
    return name, plans_file


def _without_those_not_planned(wanted: list[str], plans: Plans, say: Say) -> list[str]:
    """Drop configurations that the planner makes for some datasets only, if there are others to do.

    A list such as ``2d 3d_fullres 3d_lowres`` is passed for any dataset.
    """
    missing = [name for name in wanted if name in _NOT_ALWAYS_PLANNED and name not in plans.configuration_names]
    if len(missing) == len(wanted):
        return wanted
    for name in missing:
        say(f"{name} is not in {plans.source}, and is passed over")
    return [name for name in wanted if name not in missing]


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
    for data in data_folders(folder, plans, wanted):
        if not data.path.is_dir() or not complete_cases(data.path):
            raise DatasetError(
                f"{data.path} holds no preprocessed case, and the raw dataset to make them from "
                f"is not at {raw_folder}. Set FW_RAW to the folder that holds it."
            )
        Manifest(data.path, data.settings, None, data.wanted_by)  # refuses data that other settings made
