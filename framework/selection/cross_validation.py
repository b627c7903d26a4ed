"""The predictions of a cross-validation: gathered from the folds, checked against the splits, and scored."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from framework.data.splits import FILE_NAME, Split, fold_cases
from framework.errors import DatasetError
from framework.evaluation.cases import Progress, for_each_case
from framework.evaluation.overlap import score_case
from framework.evaluation.summary import read_summary, summarise, write_summary
from framework.files import read_json
from framework.roots import preprocessed_root, raw_root
from framework.run_folder import RunFolder
from framework.selection.models import Model
from framework.selection.prediction_folder import PredictionFolder, named, read_pair


@dataclass(frozen=True)
class CrossValidation:
    """The validation predictions of all folds of one model."""

    model: Model
    folder: PredictionFolder
    """The model folder, for labels, file ending and reader."""
    folds: dict[str, int]
    """The fold of each case."""

    def label_map(self, case: str) -> Path:
        return self._validation(case) / f"{case}{self.folder.file_ending}"

    def probabilities(self, case: str) -> Path:
        return self._validation(case) / f"{case}.npz"

    def without_probabilities(self) -> dict[int, list[str]]:
        """The cases of each fold that have no probabilities."""
        missing: dict[int, list[str]] = {}
        for case, fold in self.folds.items():
            if not self.probabilities(case).is_file():
                missing.setdefault(fold, []).append(case)
        return missing

    def known_metrics(self) -> dict[str, Any]:
        """The metrics of cases that the folds' summary.json still describes."""
        known: dict[str, Any] = {}
        for fold in sorted(set(self.folds.values())):
            path = RunFolder(self.model.folder / f"fold_{fold}").validation_summary
            if not path.is_file():
                continue
            written = path.stat().st_mtime_ns
            for entry in read_summary(path)["metric_per_case"]:
                case = Path(entry["prediction_file"]).name.removesuffix(self.folder.file_ending)
                metrics = entry["metrics"]
                if (
                    self.folds.get(case) == fold
                    and set(metrics) == set(self.folder.labels.foreground_keys)
                    and self.label_map(case).stat().st_mtime_ns <= written
                ):
                    known[case] = {key: metrics[key] for key in self.folder.labels.foreground_keys}
        return known

    def _validation(self, case: str) -> Path:
        return RunFolder(self.model.folder / f"fold_{self.folds[case]}").validation


def read_splits(dataset: str) -> list[Split]:
    """The splits that the folds of a dataset were trained with.

    Raises:
        DatasetError: there is no such file.
    """
    path = preprocessed_root() / dataset / FILE_NAME
    if not path.is_file():
        raise DatasetError(
            f"{path} does not exist, so nothing says which cases each fold validates on. Set FW_PREPROCESSED to the "
            "folder that the models were trained from, or copy the file there."
        )
    splits = read_json(path, error_type=DatasetError)
    if not (
        isinstance(splits, list)
        and splits
        and all(
            isinstance(split, dict) and all(_are_names(split.get(part)) for part in ("train", "val"))
            for split in splits
        )
    ):
        raise DatasetError(f'{path}: expected [{{"train": [names], "val": [names]}}, ...], one entry for each fold.')
    return splits


def _are_names(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(name, str) for name in value)


def folds_of_cases(splits: Sequence[Split], folds: Sequence[int]) -> dict[str, int]:
    """The fold that each case is validated in, by case.

    Raises:
        DatasetError: a case is validated in several of the folds, or there is no such fold.
    """
    names = {case for split in splits for part in ("train", "val") for case in split[part]}
    found: dict[str, int] = {}
    twice: list[str] = []
    for fold in folds:
        for case in fold_cases(splits, fold, names)[1]:
            if case in found:
                twice.append(f"{case} (folds {found[case]} and {fold})")
            found[case] = fold
    if twice:
        raise DatasetError(
            f"{len(twice)} case(s) are validated in more than one fold: {named(twice)}. Each case must count once: "
            "choose folds that do not overlap with -f."
        )
    return dict(sorted(found.items()))


def gather(model: Model, folds: Mapping[str, int]) -> CrossValidation:
    """The cross-validation of a model, if it is complete.

    Raises:
        DatasetError: a fold or a case is missing, or a prediction is there that does not belong to its fold, or the
            model belongs to another dataset; lists all, with the commands that help.
    """
    folder = PredictionFolder.open(model.folder)
    stated = (folder.plans_json or {}).get("dataset_name", model.dataset)
    if stated != model.dataset:
        raise DatasetError(
            f"{model.folder} lies in the results of {model.dataset}, but its plans.json is of {stated}. Move it there."
        )
    problems = []
    for fold in sorted(set(folds.values())):
        validation = RunFolder(model.folder / f"fold_{fold}").validation
        if not validation.is_dir():
            trained = RunFolder(validation.parent).final_checkpoint.is_file()
            state = "has not been validated" if trained else "is missing"
            command = model.train_command(fold, "--val") if trained else model.train_command(fold)
            problems.append(f"fold {fold} {state} ({validation} does not exist). Run: {command}")
            continue
        expected = {case for case, its_fold in folds.items() if its_fold == fold}
        found = set(PredictionFolder(validation, folder.dataset_json, None, folder.labels).label_maps())
        missing, others = sorted(expected - found), sorted(found - expected)
        if missing:
            problems.append(
                f"fold {fold} lacks the prediction of {len(missing)} of its {len(expected)} cases: {named(missing)}. "
                f"Run: {model.train_command(fold, '--val')}"
            )
        if others:
            texts = [f"{case} ({_belongs(case, folds)})" for case in others]
            problems.append(
                f"fold {fold} has predictions of cases that it does not validate on: {named(texts)}. Was it trained "
                f"with other splits? Take them out of {validation}, or train the fold again."
            )
    if problems:
        raise DatasetError("\n  ".join([f"{model.name}:", *problems]))
    return CrossValidation(model, folder, dict(folds))


def references_of(dataset: str, cases: Sequence[str], file_ending: str) -> dict[str, Path]:
    """The label image of each case: the copy beside the preprocessed data, or the raw one.

    Raises:
        DatasetError: some are in neither place.
    """
    places = (preprocessed_root() / dataset / "gt_segmentations", raw_root() / dataset / "labelsTr")
    found, missing = {}, []
    for case in cases:
        existing = [place / f"{case}{file_ending}" for place in places if (place / f"{case}{file_ending}").is_file()]
        if existing:
            found[case] = existing[0]
        else:
            missing.append(case)
    if missing:
        raise DatasetError(
            f"the label images of {len(missing)} case(s) are neither in {places[0]} nor in {places[1]}: "
            f"{named(missing)}. Set FW_RAW and FW_PREPROCESSED to the folders of your datasets."
        )
    return found


def accumulate(
    validation: CrossValidation,
    target: Path,
    references: Mapping[str, Path],
    *,
    num_threads: int = 1,
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Bring the predictions of all folds together in one folder, with their summary.json.

    Scores are taken from the folds' own summary.json where that is newer than the prediction.

    Returns:
        The summary, as `summarise` gives it.

    Raises:
        FoldwiseError: a case cannot be used; lists all.
    """
    folder, known = validation.folder, validation.known_metrics()

    def bring(case: str) -> dict[str, Any]:
        prediction, reference = validation.label_map(case), references[case]
        metrics = known.get(case)
        if metrics is None:
            pair = read_pair(folder, case, prediction, reference)
            metrics = score_case(*pair, folder.labels.foreground_keys, folder.labels.ignore_label)
        folder.copy_label_map(prediction, target / prediction.name)
        return {
            "metrics": metrics,
            "prediction_file": str(target / prediction.name),
            "reference_file": str(reference),
        }

    what = f"gather {validation.model.configuration}"
    folder.write_descriptions(target)
    outcome = for_each_case(validation.folds, bring, num_threads=num_threads, what=what, progress=progress)
    summary = summarise(list(outcome.or_error(f"{validation.model.name}: scoring").values()))
    remove_other_label_maps(target, folder, validation.folds)
    write_summary(summary, target / "summary.json")
    return summary


def remove_other_label_maps(target: Path, folder: PredictionFolder, cases: Mapping[str, int]) -> None:
    """Take copies out of `target` that an earlier run left and that are no part of this cross-validation."""
    for case, path in PredictionFolder(target, folder.dataset_json, None, folder.labels).label_maps().items():
        if case not in cases:
            path.unlink()


def _belongs(case: str, folds: Mapping[str, int]) -> str:
    return f"of fold {folds[case]}" if case in folds else "of none of these folds"
