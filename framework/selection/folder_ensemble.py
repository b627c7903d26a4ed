"""Whole folders of probabilities ensembled: what ``fw_ensemble`` does."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from framework.data.image_io import Properties, geometry_differences, write_segmentation
from framework.data.memory import available_memory
from framework.data.restricted_pickle import dumps, load_pickle
from framework.errors import CaseError, DatasetError
from framework.evaluation.cases import Outcome, Progress, for_each_case
from framework.evaluation.scored_labels import find_dataset_json
from framework.files import write_bytes
from framework.selection.ensembling import ensembled_label_maps, memory_needed, opened, write_ensembled_probabilities
from framework.selection.prediction_folder import PredictionFolder, check_same_dataset, named
from framework.selection.probability_files import ProbabilityFile


def ensemble_folders(
    sources: Sequence[Path | str],
    target: Path | str,
    *,
    save_probabilities: bool = False,
    num_threads: int = 1,
    progress: Progress | None = None,
) -> Outcome[Path]:
    """Write the label map that the mean of the models' probabilities means, for every case.

    Args:
        sources: one folder with ``CASE.npz`` for each model, with the same cases in all.
        target: gets ``CASE.EXT``, dataset.json and plans.json.
        save_probabilities: also write the mean, as ``CASE.npz`` with ``CASE.pkl``.
        num_threads: cases at once, if there is memory for so many.

    Returns:
        The label map of each case, and for the cases that failed the reason.

    Raises:
        DatasetError: the folders do not belong together: another dataset, or other cases; lists which are missing.
    """
    folders = _opened_folders(sources)
    target = Path(target)
    if target.resolve() in [folder.folder.resolve() for folder in folders]:
        raise DatasetError(f"{target} is one of the folders to ensemble, whose label maps would be lost. Give another.")
    check_same_dataset(folders)
    cases = _common_cases(folders)
    first = folders[0]
    described = next((folder for folder in folders if folder.plans_json is not None), first)
    described.write_descriptions(target)
    labels, ending, reader = first.labels, first.file_ending, described.reader

    def ensemble(case: str) -> Path:
        files = opened([folder.folder / f"{case}.npz" for folder in folders], labels)
        properties = _properties(case, folders, files[0].shape[1:])
        if save_probabilities:
            label_map = write_ensembled_probabilities(files, labels, target / f"{case}.npz")
            write_bytes(target / f"{case}.pkl", dumps(properties))
        else:
            [label_map] = ensembled_label_maps(files, [range(len(files))], labels)
        # Last: a label map on the disk means that the case is complete.
        path = target / f"{case}{ending}"
        write_segmentation(label_map, path, properties, reader)
        return path

    num_threads = min(num_threads, threads_that_fit([folder.folder / f"{cases[0]}.npz" for folder in folders]))
    return for_each_case(cases, ensemble, num_threads=num_threads, what="ensemble", progress=progress)


def threads_that_fit(files: Sequence[Path], num_combinations: int = 1) -> int:
    """How many cases like this one can be ensembled at once without swapping."""
    try:
        needed = memory_needed(ProbabilityFile(files[0]), len(files), num_combinations)
    except CaseError:
        return 1  # told when it is this case's turn
    return max(1, int(available_memory() / 2 / max(1, needed)))


def _opened_folders(sources: Sequence[Path | str]) -> list[PredictionFolder]:
    """The folders; those without a dataset.json get that of another."""
    if len(sources) < 2:
        raise DatasetError("an ensemble needs two folders or more: -i FOLDER_A FOLDER_B.")
    paths = [Path(source) for source in sources]
    missing = [str(path) for path in paths if not path.is_dir()]
    if missing:
        raise DatasetError(f"not found: {', '.join(missing)}. Give the folders that fw_predict wrote.")
    with_json = [path for path in paths if find_dataset_json(path, path) is not None]
    if not with_json:
        raise DatasetError(
            f"none of the folders holds a dataset.json: {', '.join(map(str, paths))}. Copy that of a model folder "
            "into the first."
        )
    return [
        PredictionFolder.open(path)
        if path in with_json
        else replace(PredictionFolder.open(with_json[0]), folder=path, plans_json=None)
        for path in paths
    ]


def _common_cases(folders: Sequence[PredictionFolder]) -> list[str]:
    """The cases, which must be the same in all folders."""
    found = [folder.probabilities() for folder in folders]
    problems = []
    for folder, own in zip(folders, found):
        without = [case for case in folder.label_maps() if case not in own]
        if not own:
            problems.append(
                f"{folder.folder} holds no probabilities (CASE.npz). Predict again with --save_probabilities."
            )
        elif without:
            problems.append(
                f"{folder.folder} has label maps without probabilities: {named(without)}. Predict these again with "
                "--save_probabilities, or take them out."
            )
    everything = sorted(set().union(*found))
    if not problems:
        for folder, own in zip(folders, found):
            missing = [case for case in everything if case not in own]
            if missing:
                problems.append(
                    f"{folder.folder} lacks {len(missing)} of {len(everything)} cases that other folders have: "
                    f"{named(missing)}."
                )
        if problems:
            problems.append("All folders must hold predictions of the same cases: predict the missing ones.")
    if problems:
        raise DatasetError("\n".join(problems))
    return everything


def _properties(case: str, folders: Sequence[PredictionFolder], shape: tuple[int, ...]) -> Properties:
    """Where the scan lies in space, from CASE.pkl or else from a label map; all that is there must agree."""
    first: tuple[Path, Properties] | None = None
    for folder in folders:
        file = folder.folder / f"{case}.pkl"
        if not file.is_file():
            continue
        properties = load_pickle(file)
        if not isinstance(properties, dict) or "spacing" not in properties:
            raise CaseError(case, f"{file} does not hold the properties of a scan. Predict the case again.")
        if first is None:
            first = file, properties
            continue
        differences = geometry_differences(shape, first[1], shape, properties)
        if differences:
            raise CaseError(
                case,
                f"{file} does not describe the grid of {first[0]}: {'; '.join(differences)}. Both must be predictions "
                "of the same scan: predict one of them again.",
            )
    if first is not None:
        return first[1]
    for folder in folders:
        if (folder.folder / f"{case}{folder.file_ending}").is_file():
            label_map, properties = folder.read(case)
            if label_map.shape == shape:
                return properties
    raise CaseError(case, f"neither {case}.pkl nor a label map says where the scan lies. Predict the case again.")
