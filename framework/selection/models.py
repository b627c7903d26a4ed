"""The trained configurations of a dataset, as they lie in its results folder."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from framework.errors import FoldwiseError, UnknownNameError
from framework.file_names import USUAL_CONFIGURATIONS
from framework.files import read_json
from framework.plans import Plans
from framework.roots import results_root


@dataclass(frozen=True)
class Model:
    """One ``TRAINER__PLANS__CONFIG`` of a dataset."""

    dataset: str
    trainer: str
    plans: str
    configuration: str
    folder: Path

    @property
    def name(self) -> str:
        return f"{self.trainer}__{self.plans}__{self.configuration}"

    def train_command(self, fold: int | str, *options: str) -> str:
        parts = ["fw_train", self.dataset, self.configuration, str(fold), "-tr", self.trainer, "-p", self.plans]
        return " ".join([*parts, *options])

    def previous_stage(self) -> Model | None:
        """The model whose predictions this one needs as input, or None; it may not be there."""
        file = self.folder / "plans.json"
        if not file.is_file():
            raise FoldwiseError(f"{file} does not exist. A model folder is complete only with its plans: train again.")
        previous = Plans(read_json(file), file).configuration(self.configuration).previous_stage
        if previous is None:
            return None
        folder = self.folder.with_name(f"{self.trainer}__{self.plans}__{previous}")
        return Model(self.dataset, self.trainer, self.plans, previous, folder)


def find_models(
    dataset: str,
    trainers: Sequence[str] | None = None,
    plans: Sequence[str] | None = None,
    configurations: Sequence[str] | None = None,
) -> list[Model]:
    """The models of a dataset, by default all; in the order of the configurations.

    Raises:
        FoldwiseError: there are none.
        UnknownNameError: a trainer, plans or configuration was asked for that no model has.
    """
    folder = results_root() / dataset
    everything = _models_in(folder, dataset)
    if not everything:
        raise FoldwiseError(
            f"{folder} holds no trained configuration (TRAINER__PLANS__CONFIG). Train first, for example: "
            f"fw_train {dataset} 3d_fullres 0; or set FW_RESULTS to the folder of your results."
        )
    for kind, wanted, known in (
        ("trainer", trainers, [model.trainer for model in everything]),
        ("plans", plans, [model.plans for model in everything]),
        ("configuration", configurations, [model.configuration for model in everything]),
    ):
        for name in wanted or ():
            if name not in known:
                raise UnknownNameError(f"trained {kind}", name, dict.fromkeys(known), folder)
    chosen = [
        model
        for model in everything
        if (not trainers or model.trainer in trainers)
        and (not plans or model.plans in plans)
        and (not configurations or model.configuration in configurations)
    ]
    if not chosen:
        listed = ", ".join(model.name for model in everything)
        raise FoldwiseError(f"{folder}: no model has all that was asked for together. Trained are: {listed}.")
    if configurations:
        chosen.sort(key=lambda model: list(configurations).index(model.configuration))
    return chosen


def _models_in(folder: Path, dataset: str) -> list[Model]:
    if not folder.is_dir():
        return []
    found = []
    for path in folder.iterdir():
        parts = path.name.split("__")
        if path.is_dir() and len(parts) == 3 and all(parts):
            trainer, plans, configuration = parts
            found.append(Model(dataset, trainer, plans, configuration, path))

    def order(model: Model) -> tuple[str, int, str, str]:
        order = USUAL_CONFIGURATIONS
        usual = order.index(model.configuration) if model.configuration in order else len(order)
        return model.trainer, usual, model.configuration, model.plans

    return sorted(found, key=order)
