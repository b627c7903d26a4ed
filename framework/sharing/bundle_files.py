"""Which files of trained models go into a bundle, under which names, and in which form."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from framework.errors import FoldwiseError
from framework.files import read_json
from framework.sharing.class_names import without_own_classes
from framework.sharing.machine_paths import text_without_machine_paths, without_machine_paths
from framework.sharing.pickles import check_pickle
from framework.sharing.selection import ModelFolder

_TABLES = ("summary.json", "postprocessing.json", "postprocessing.pkl")
_NOT_SHARED = (".npz", ".pkl")
"""Probabilities are large, and properties of a case tell where its images lay."""
INSTRUCTIONS = ("inference_information.json", "inference_instructions.txt", "inference_information.txt")


@dataclass(frozen=True)
class BundleFile:
    """A member of the bundle, and the file that it is made from."""

    name: str
    source: Path
    form: Literal["as it is", "json", "plans", "dataset", "text", "weights"] = "as it is"


def files_of_models(models: Sequence[ModelFolder], with_predictions: bool) -> list[BundleFile]:
    """All members but the card, sorted by name.

    Args:
        with_predictions: the label images of the cross-validation, too.

    Raises:
        FoldwiseError: plans.json or dataset.json of a model is missing.
    """
    dataset = models[0].folder.parent
    found: list[BundleFile] = []
    for model in models:
        found += _files_of_model(model, with_predictions)
    names = {model.folder.name for model in models}
    for folder in sorted((dataset / "ensembles").glob("ensemble___*___*")):
        if set(folder.name.split("___")[1:-1]) <= names:
            found += _results(folder, f"{dataset.name}/ensembles/{folder.name}", with_predictions)
    if _chosen_models(dataset) & names and _chosen_models(dataset) <= names:
        for name in INSTRUCTIONS:
            if (dataset / name).is_file():
                found.append(_file(f"{dataset.name}/{name}", dataset / name))
    return sorted(found, key=lambda file: file.name)


def content_of(file: BundleFile, root: Path) -> bytes:
    """What is written for a file that fits into memory, without paths of this machine.

    Args:
        root: the results root; paths below it are written relative to it.
    """
    if file.form == "text":
        text = file.source.read_text(encoding="utf-8", errors="replace")
        return text_without_machine_paths(text, root).encode("utf-8")
    value = read_json(file.source)
    if file.form == "plans":
        value = without_own_classes(value)
    elif file.form == "dataset":
        # The list of training files: paths, and names of patients.
        value = {key: entry for key, entry in value.items() if key != "dataset"}
    return (json.dumps(without_machine_paths(value, root), indent=4) + "\n").encode("utf-8")


def _files_of_model(model: ModelFolder, with_predictions: bool) -> list[BundleFile]:
    folder, place = model.folder, f"{model.dataset}/{model.folder.name}"
    found = []
    for name, form in (("plans.json", "plans"), ("dataset.json", "dataset"), ("dataset_fingerprint.json", "json")):
        if (folder / name).is_file():
            found.append(_file(f"{place}/{name}", folder / name, form))
        elif form != "json":
            raise FoldwiseError(f"{folder / name} does not exist; without it nobody can predict with the model.")
    for fold in model.folds:
        for name, form in (("plans.json", "plans"), ("progress.png", "as it is")):
            file = folder / f"fold_{fold}" / name
            if file.is_file():
                found.append(_file(f"{place}/fold_{fold}/{name}", file, form))
        found += _results(folder / f"fold_{fold}" / "validation", f"{place}/fold_{fold}/validation", with_predictions)
    for (fold, tag), file in model.checkpoint_files().items():
        found.append(_file(f"{place}/fold_{fold}/checkpoint_{tag}.pth", file, "weights"))
    for results in sorted(folder.glob("crossval_results_folds_*")):
        if set(results.name.removeprefix("crossval_results_folds_").split("_")) <= set(model.folds):
            found += _results(results, f"{place}/{results.name}", with_predictions)
    return found


def _results(folder: Path, place: str, with_predictions: bool) -> list[BundleFile]:
    """Scores and post-processing of a folder of predictions, and the predictions where they are wanted."""
    if not folder.is_dir():
        return []
    files = [file for file in sorted(folder.iterdir()) if file.is_file() and not file.name.startswith(".")]
    wanted = [file for file in files if file.name in _TABLES]
    if with_predictions:
        wanted += [file for file in files if file.name not in _TABLES and not file.name.endswith(_NOT_SHARED)]
    for file in wanted:
        if file.suffix == ".pkl":
            check_pickle(file, str(file))
    return [_file(f"{place}/{file.name}", file) for file in wanted]


def _file(name: str, source: Path, form: Any = None) -> BundleFile:
    if form is None:
        by_ending = {".json": "json", ".txt": "text", ".csv": "text"}
        form = {"plans.json": "plans", "dataset.json": "dataset"}.get(source.name) or by_ending.get(source.suffix)
    return BundleFile(name, source, form or "as it is")


def _chosen_models(dataset: Path) -> set[str]:
    """Folder names of the models that the dataset's model selection chose; empty where none was made."""
    file = dataset / INSTRUCTIONS[0]
    if not file.is_file():
        return set()
    keys = ("trainer", "plans_identifier", "configuration")
    chosen = read_json(file).get("best_model_or_ensemble")
    models = [entry for entry in _objects(chosen) if all(key in entry for key in keys)]
    return {"__".join(str(entry[key]) for key in keys) for entry in models}


def _objects(value: Any) -> list[dict[str, Any]]:
    if isinstance(value, dict):
        return [value] + [found for entry in value.values() for found in _objects(entry)]
    return [found for entry in value for found in _objects(entry)] if isinstance(value, list) else []
