"""Post-processing of whole folders: deciding on it from a cross-validation, and applying it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from framework.data.image_io import write_segmentation
from framework.errors import DatasetError
from framework.evaluation.cases import Outcome, Progress, for_each_case
from framework.evaluation.summary import summarise, write_summary
from framework.selection.postprocessing import Determined, KeepLargest, ScoredCase, apply_steps, determine_steps
from framework.selection.postprocessing_files import write_postprocessing
from framework.selection.prediction_folder import PredictionFolder, named, read_pair

POSTPROCESSED = "postprocessed"
"""Folder of the post-processed predictions, in that of a cross-validation."""


def postprocess_folder(
    source: PredictionFolder,
    target: Path,
    steps: Sequence[KeepLargest],
    *,
    cases: Sequence[str] | None = None,
    num_threads: int = 1,
    progress: Progress | None = None,
) -> Outcome[bool]:
    """Apply `steps` to the label maps of a folder.

    Args:
        target: another folder, which also gets dataset.json and plans.json.
        cases: which; by default all.

    Returns:
        For each case whether anything was removed, or why it failed.
    """
    maps = source.label_maps()
    chosen = list(maps) if cases is None else list(cases)
    if not chosen:
        raise DatasetError(f"{source.folder} holds no files that end in {source.file_ending}: nothing to post-process.")
    if target.resolve() == source.folder.resolve():
        raise DatasetError(f"{target} is the folder of the predictions, which would be lost. Give another with -o.")
    source.write_descriptions(target)

    def postprocess(case: str) -> bool:
        path = target / maps[case].name
        label_map, properties = source.read(case)
        changed = apply_steps(label_map, steps)
        if changed is label_map:
            source.copy_label_map(maps[case], path)
            return False
        write_segmentation(changed, path, properties, source.reader)
        return True

    return for_each_case(chosen, postprocess, num_threads=num_threads, what="post-process", progress=progress)


def determine_for_folder(
    folder: PredictionFolder,
    references: Mapping[str, Path],
    *,
    keep_postprocessed: bool = True,
    num_threads: int = 1,
    progress: Progress | None = None,
) -> Determined:
    """Decide on the post-processing for the predictions of a cross-validation, and write the files.

    Args:
        folder: holds the predictions; gets postprocessing.json and postprocessing.pkl.
        references: the label image of each case.
        keep_postprocessed: write the post-processed predictions, with their summary.json, into ``postprocessed``.

    Raises:
        FoldwiseError: a case cannot be used; lists all.
    """
    keys, ignore, maps = folder.labels.foreground_keys, folder.labels.ignore_label, folder.label_maps()

    def reduced(case: str) -> ScoredCase:
        return ScoredCase(*read_pair(folder, case, maps[case], references[case]), keys, ignore)

    what = "decide on post-processing"
    outcome = for_each_case(references, reduced, num_threads=num_threads, what=what, progress=progress)
    determined = determine_steps(outcome.or_error("reading predictions and references"), folder.labels)
    if keep_postprocessed:
        target = folder.folder / POSTPROCESSED
        written = postprocess_folder(
            folder, target, determined.steps, cases=list(references), num_threads=num_threads, progress=progress
        )
        written.or_error("post-processing")
        entries = [
            {
                "metrics": metrics,
                "prediction_file": str(target / maps[case].name),
                "reference_file": str(references[case]),
            }
            for case, metrics in determined.after.items()
        ]
        write_summary(summarise(entries), target / "summary.json")
    write_postprocessing(folder.folder, determined)
    return determined


def references_for(folder: PredictionFolder, reference_folder: Path | str) -> dict[str, Path]:
    """The reference of every prediction, of the same file name.

    Raises:
        DatasetError: there are no predictions, or some have no reference; lists them.
    """
    reference_folder, maps = Path(reference_folder), folder.label_maps()
    if not maps:
        raise DatasetError(f"{folder.folder} holds no files that end in {folder.file_ending}.")
    found = {case: reference_folder / path.name for case, path in maps.items()}
    missing = [path.name for path in found.values() if not path.is_file()]
    if missing:
        raise DatasetError(
            f"{len(missing)} of {len(maps)} predictions in {folder.folder} have no reference of the same name in "
            f"{reference_folder}: {named(missing)}."
        )
    return found
