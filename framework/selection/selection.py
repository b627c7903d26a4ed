"""The choice between configurations and their ensembles: what ``fw_select`` does."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np

from framework.data.image_io import write_segmentation
from framework.errors import CaseError, DatasetError, FoldwiseError
from framework.evaluation.cases import Progress, for_each_case
from framework.evaluation.overlap import score_case
from framework.evaluation.summary import read_summary, summarise, write_summary
from framework.roots import results_root
from framework.selection.cross_validation import (
    CrossValidation,
    accumulate,
    folds_of_cases,
    gather,
    read_splits,
    references_of,
    remove_other_label_maps,
)
from framework.selection.ensembling import ensembled_label_maps, opened
from framework.selection.folder_ensemble import threads_that_fit
from framework.selection.folder_postprocessing import determine_for_folder
from framework.selection.models import Model, find_models
from framework.selection.postprocessing import Determined
from framework.selection.prediction_folder import PredictionFolder, check_same_dataset


@dataclass(frozen=True)
class Candidate:
    """A model, or an ensemble of two, with its scores."""

    name: str
    models: tuple[Model, ...]
    folder: Path
    """Predictions of all cases of the cross-validation, with summary.json."""
    summary: dict[str, Any]

    @property
    def foreground_mean(self) -> float:
        return float(self.summary["foreground_mean"]["Dice"])


@dataclass(frozen=True)
class Selection:
    """What was compared, what won, and its post-processing."""

    dataset: str
    folds: tuple[int, ...]
    ensembling: bool
    candidates: tuple[Candidate, ...]
    """In the order of their discovery: single models, then ensembles."""
    best: Candidate
    determined: Determined
    labels: Mapping[Any, str]
    """Names of the labels or regions."""
    notes: tuple[str, ...] = field(default=())
    """What was left out, and what would bring it in."""

    @property
    def models(self) -> list[Model]:
        return [candidate.models[0] for candidate in self.candidates if len(candidate.models) == 1]


def select(
    dataset: str,
    *,
    trainers: Sequence[str] | None = None,
    plans: Sequence[str] | None = None,
    configurations: Sequence[str] | None = None,
    folds: Sequence[int] = (0, 1, 2, 3, 4),
    ensembling: bool = True,
    overwrite: bool = True,
    num_threads: int = 1,
    progress: Progress | None = None,
) -> Selection:
    """Compare the models of a dataset by their cross-validation, decide on post-processing for the best.

    Writes ``crossval_results_folds_...`` in each model folder and ``ensembles/`` beside them. The files that tell how
    to predict are written by `framework.selection.instructions`.

    Args:
        dataset: the full name.
        trainers, plans, configurations: which models; by default all whose cross-validation is complete.
        overwrite: ensemble again what an earlier run ensembled.

    Raises:
        FoldwiseError: there is nothing to compare, or what was asked for is incomplete.
    """
    fold_of = folds_of_cases(read_splits(dataset), folds)
    models = find_models(dataset, trainers, plans, configurations)
    validations, notes = _complete(models, fold_of, required=bool(configurations))
    check_same_dataset([validation.folder for validation in validations])
    labels = validations[0].folder.labels
    references = references_of(dataset, list(fold_of), validations[0].folder.file_ending)
    run = _Run(validations, references, tuple(folds), num_threads, progress)
    candidates = run.single_models()
    if ensembling and len(validations) > 1:
        with_probabilities, missing = _with_probabilities(validations)
        notes += missing
        candidates += run.ensembles(with_probabilities, overwrite)
    best = best_candidate(candidates)
    folder = PredictionFolder.open(best.folder)
    determined = determine_for_folder(folder, references, num_threads=num_threads, progress=progress)
    names = dict(zip(labels.foreground_keys, labels.foreground_names))
    return Selection(dataset, tuple(folds), ensembling, tuple(candidates), best, determined, names, tuple(notes))


def best_candidate(candidates: Sequence[Candidate]) -> Candidate:
    """The one with the highest mean Dice over all labels; the first of equals, so a single model before an ensemble.

    A label that is in no reference and that some candidate never predicts has no Dice there; it is left out for all.
    """
    means = [{key: metrics["Dice"] for key, metrics in each.summary["mean"].items()} for each in candidates]
    undefined = {key for mean in means for key, dice in mean.items() if math.isnan(dice)}
    if not undefined:
        return max(candidates, key=lambda candidate: candidate.foreground_mean)
    scores = [[dice for key, dice in mean.items() if key not in undefined] for mean in means]
    if not scores[0]:
        raise FoldwiseError("No label is in any reference or prediction, so there is nothing to compare by.")
    return candidates[int(np.argmax([np.mean(values) for values in scores]))]


def _complete(
    models: Sequence[Model], fold_of: Mapping[str, int], required: bool
) -> tuple[list[CrossValidation], list[str]]:
    """The cross-validations that are complete, and what is wrong with the others; an error if they are `required`."""
    validations, problems = [], []
    for model in models:
        try:
            validations.append(gather(model, fold_of))
        except DatasetError as error:
            problems.append(str(error))
    if problems and (required or not validations):
        advice = "Run these commands, or choose other folds with -f or other configurations with -c."
        raise DatasetError("\n".join(["the cross-validation is not complete.", *problems, advice]))
    return validations, [f"left out: {problem}" for problem in problems]


def _with_probabilities(validations: Sequence[CrossValidation]) -> tuple[list[CrossValidation], list[str]]:
    """Those that can be ensembled, and for the others what would make them so."""
    fitting, notes = [], []
    for validation in validations:
        missing = validation.without_probabilities()
        if not missing:
            fitting.append(validation)
            continue
        number = sum(len(cases) for cases in missing.values())
        commands = [f"  {validation.model.train_command(fold, '--val', '--npz')}" for fold in missing]
        notes.append(
            "\n".join([
                f"{validation.model.name} is in no ensemble: {number} of {len(validation.folds)} validation cases have "
                "no probabilities. To make them, run:", *commands,
            ])
        )  # fmt: skip
    return fitting, notes


@dataclass(frozen=True)
class _Run:
    validations: list[CrossValidation]
    references: dict[str, Path]
    folds: tuple[int, ...]
    num_threads: int
    progress: Progress | None

    def single_models(self) -> list[Candidate]:
        found = []
        name = f"crossval_results_folds_{self._folds_text}"
        for validation in self.validations:
            target = validation.model.folder / name
            summary = accumulate(
                validation, target, self.references, num_threads=self.num_threads, progress=self.progress
            )
            found.append(Candidate(validation.model.name, (validation.model,), target, summary))
        return found

    def ensembles(self, validations: Sequence[CrossValidation], overwrite: bool) -> list[Candidate]:
        """All pairs. The probabilities of a case are read once for all of them."""
        pairs = list(combinations(range(len(validations)), 2))
        if not pairs:
            return []
        names = [f"ensemble___{validations[a].model.name}___{validations[b].model.name}" for a, b in pairs]
        names = [f"{name}___{self._folds_text}" for name in names]
        targets = [results_root() / validations[0].model.dataset / "ensembles" / name for name in names]
        folder = validations[0].folder
        for (first, _), target in zip(pairs, targets):
            validations[first].folder.write_descriptions(target)
        kept = [{} if overwrite else _kept(target, folder) for target in targets]

        def ensemble(case: str) -> list[dict[str, Any]]:
            wanted = [index for index in range(len(pairs)) if case not in kept[index]]
            metrics = {index: kept[index][case] for index in range(len(pairs)) if case in kept[index]}
            if wanted:
                reference, properties = folder.read(case, self.references[case])
                files = opened([validation.probabilities(case) for validation in validations], folder.labels)
                if files[0].shape[1:] != reference.shape:
                    again = validations[0].model.train_command(validations[0].folds[case], "--val", "--npz")
                    raise CaseError(
                        case,
                        f"{files[0].path} has shape {files[0].shape[1:]}, but the label image {self.references[case]} "
                        f"has {reference.shape}. Predict it again: {again}",
                    )
                maps = ensembled_label_maps(files, [pairs[index] for index in wanted], folder.labels)
                for index, label_map in zip(wanted, maps):
                    keys, ignore = folder.labels.foreground_keys, folder.labels.ignore_label
                    metrics[index] = score_case(label_map, reference, keys, ignore)
                    path = targets[index] / f"{case}{folder.file_ending}"
                    write_segmentation(label_map, path, properties, folder.reader)
            return [
                {
                    "metrics": metrics[index],
                    "prediction_file": str(target / f"{case}{folder.file_ending}"),
                    "reference_file": str(self.references[case]),
                }
                for index, target in enumerate(targets)
            ]

        examples = [validation.probabilities(next(iter(self.references))) for validation in validations]
        outcome = for_each_case(
            self.references,
            ensemble,
            num_threads=min(self.num_threads, threads_that_fit(examples, len(pairs))),
            what="ensemble",
            progress=self.progress,
        )
        entries = outcome.or_error("ensembling").values()
        found = []
        for index, ((a, b), name, target) in enumerate(zip(pairs, names, targets)):
            summary = summarise([entry[index] for entry in entries])
            remove_other_label_maps(target, folder, validations[0].folds)
            write_summary(summary, target / "summary.json")
            found.append(Candidate(name, (validations[a].model, validations[b].model), target, summary))
        return found

    @property
    def _folds_text(self) -> str:
        return "_".join(str(fold) for fold in self.folds)


def _kept(target: Path, folder: PredictionFolder) -> dict[str, Any]:
    """Metrics of the cases that an earlier run ensembled and scored."""
    path = target / "summary.json"
    if not path.is_file():
        return {}
    present = replace(folder, folder=target).label_maps()
    found = {}
    for entry in read_summary(path)["metric_per_case"]:
        case = Path(entry["prediction_file"]).name.removesuffix(folder.file_ending)
        if case in present and set(entry["metrics"]) == set(folder.labels.foreground_keys):
            found[case] = {key: entry["metrics"][key] for key in folder.labels.foreground_keys}
    return found
