"""`Experiment`: the small plain record that describes a run; saved with it, and enough to tell it again."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from framework.errors import DatasetError, FoldwiseError, PlansError, UnknownNameError
from framework.files import read_json, read_json_object, write_json
from framework.named_code import refuse_unnamed_code, vouch_for_all, why_not_run
from framework.plans import Configuration, Plans
from framework.resumed_overrides import check_resumed_overrides
from framework.roots import dataset_name, preprocessed_root
from framework.run_folder import RunFolder
from framework.training_settings import TrainingSettings


@dataclass(frozen=True)
class Experiment:
    """Dataset, plans, configuration and fold of one training."""

    dataset: str
    dataset_json: dict[str, Any]
    plans: Plans
    configuration_name: str
    fold: int | str
    preprocessed_folder: Path
    run_folder: RunFolder | None = None

    @property
    def configuration(self) -> Configuration:
        return self.plans.configuration(self.configuration_name)

    @property
    def settings(self) -> TrainingSettings:
        return self.configuration.training

    @property
    def data_folder(self) -> Path:
        """Preprocessed cases of this configuration."""
        return self.preprocessed_folder / self.configuration.data_identifier

    @classmethod
    def of_dataset(
        cls,
        dataset: str,
        plans_file: Path,
        configuration: str,
        fold: int | str,
        *,
        run_folder: RunFolder,
        overrides: Mapping[str, Any],
        resume: bool,
    ) -> Experiment:
        """The record for ``fw_train DATASET CONFIG FOLD``.

        A resumed run goes on under the plans that were saved with it, whatever has become of the originals.

        Raises:
            PlansError: also where the plans name code that is not installed and that the user did not name.
        """
        folder = preprocessed_root() / dataset
        saved = _saved_plans(run_folder) if resume else None
        loaded = saved or Plans.from_file(plans_file)
        vouch_for_all(overrides)
        plans = loaded.with_overrides(configuration, overrides)
        refuse_unnamed_code(plans.configuration(configuration), plans.source)
        if saved is not None:
            check_resumed_overrides(loaded, plans, configuration, overrides)
        return cls(
            dataset=dataset,
            dataset_json=_dataset_json(folder),
            plans=plans,
            configuration_name=configuration,
            fold=fold,
            preprocessed_folder=folder,
            run_folder=run_folder,
        )

    @classmethod
    def of_run_folder(cls, folder: Path | str) -> Experiment:
        """The record of a finished run, for prediction; nothing outside the run folder is needed."""
        run_folder = RunFolder(folder)
        model_folder = run_folder.model_folder
        plans_file = run_folder.plans if run_folder.plans.is_file() else model_folder / "plans.json"
        plans = Plans.from_file(plans_file)
        parts = model_folder.name.split("__")
        if len(parts) != 3 or not run_folder.folder.name.startswith("fold_"):
            raise FoldwiseError(
                f"{folder} is no run folder: expected .../TRAINER__PLANS__CONFIG/fold_X, as training writes it."
            )
        return cls(
            dataset=plans.dataset_name or model_folder.parent.name,
            dataset_json=read_json_object(model_folder / "dataset.json", error_type=DatasetError),
            plans=plans,
            configuration_name=parts[2],
            fold=checked_fold(run_folder.folder.name.removeprefix("fold_")),
            preprocessed_folder=preprocessed_root() / plans.dataset_name,
            run_folder=run_folder,
        )

    def to_record(self) -> dict[str, Any]:
        """Plain JSON values, as they go into a checkpoint; the keys are nnU-Net's ``init_args``."""
        return {
            "plans": self.plans.to_dict(),
            "configuration": self.configuration_name,
            "fold": self.fold,
            "dataset_json": self.dataset_json,
        }

    def save(self) -> None:
        """Write plans and dataset.json into the run folder, and where nnU-Net looks for them."""
        assert self.run_folder is not None
        plans = self.plans.to_dict()
        write_json(self.run_folder.plans, plans)
        write_json(self.run_folder.model_folder / "plans.json", plans)
        write_json(self.run_folder.model_folder / "dataset.json", self.dataset_json)
        fingerprint = self.preprocessed_folder / "dataset_fingerprint.json"
        if fingerprint.is_file():
            write_json(self.run_folder.model_folder / fingerprint.name, read_json(fingerprint))


def checked_fold(fold: int | str) -> int | str:
    """A fold index as an int, or ``"all"``."""
    if isinstance(fold, int) and fold >= 0:
        return fold
    text = str(fold)
    if text == "all":
        return text
    if text.isdigit():
        return int(text)
    raise FoldwiseError(f"fold '{fold}' is not known. Use 0, 1, 2, 3, 4, or all.")


def find_plans(dataset: str, plans: str | None) -> Path:
    """The plans file of a preprocessed dataset by name; without a name the only one, or nnU-Net's default."""
    folder = preprocessed_root() / dataset
    found = plans_files(folder)
    if plans is None:
        for name in ("nnUNetPlans", *found):
            if name in found:
                return found[name]
        raise DatasetError(f"{folder} holds no plans file. Run: fw_plan {dataset}")
    if plans not in found:
        raise UnknownNameError("plans", plans, found, folder)
    return found[plans]


def plans_files(folder: Path) -> dict[str, Path]:
    """Plans files in a preprocessed dataset folder, by name."""
    others = ("dataset.json", "dataset_fingerprint.json", "splits_final.json")
    if not folder.is_dir():
        return {}
    return {path.stem: path for path in sorted(folder.glob("*.json")) if path.name not in others}


def _saved_plans(run_folder: RunFolder) -> Plans | None:
    """The effective plans that a run was started with; from its newest checkpoint where ``plans.json`` is missing.

    None where nothing was started. Without them a run that is continued would silently get other numbers.
    """
    if run_folder.plans.is_file():
        try:
            return Plans.from_file(run_folder.plans)
        except PlansError as error:
            raise PlansError(
                f"{error} Its checkpoints hold the same plans: if this file is deleted, they are used instead."
            ) from error
    from framework.checkpoint import newest_checkpoint  # with torch, which planning does without

    found = newest_checkpoint(run_folder.checkpoints())
    record = (found[1].get("foldwise", {}).get("experiment") if found else None) or {}
    return Plans.from_dict(record["plans"], source=run_folder.plans) if "plans" in record else None


def trainer_in_plans(dataset: str | int, configuration: str, plans: str | None) -> str | None:
    """The trainer that existing plans name for a configuration; None where there are no plans yet, or none named.

    Raises:
        PlansError: its code is not installed, and the user did not name it.
    """
    try:
        found = Plans.from_file(find_plans(dataset_name(dataset), plans))
    except DatasetError:
        return None
    except UnknownNameError:
        return None
    trainer = found.configuration(configuration).trainer if configuration in found.configuration_names else None
    if trainer is not None and ":" in trainer and (reason := why_not_run(trainer)) is not None:
        raise PlansError(f"{found.source}: trainer {reason}")
    return trainer


def _dataset_json(folder: Path) -> dict[str, Any]:
    """What is known of the data; a trainer that is not about images may need none of it."""
    path = folder / "dataset.json"
    return read_json_object(path, error_type=DatasetError) if path.is_file() else {}
