"""Which predicted label image belongs to which reference."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from framework.data.readers import READERS
from framework.errors import DatasetError

_NUM_NAMED = 5


@dataclass(frozen=True)
class CasePairs:
    """Files to compare.

    Attributes:
        files: (reference, prediction) of each case, in the order of file names.
        file_ending: of all of them.
        without_prediction: cases that have a reference only.
        without_reference: cases that were predicted, but have no reference.
    """

    files: dict[str, tuple[Path, Path]]
    file_ending: str
    without_prediction: tuple[str, ...] = ()
    without_reference: tuple[str, ...] = ()


def pair_files(reference: Path, prediction: Path, file_ending: str | None = None, chill: bool = False) -> CasePairs:
    """Pair two folders by file names, or simply two files.

    Args:
        file_ending: of the label images; by default the one that the references have.
        chill: references without prediction are left out instead of being an error.

    Raises:
        DatasetError: a folder is missing or empty, they have no case in common, or predictions are missing.
    """
    for path in (reference, prediction):
        if not path.exists():
            raise DatasetError(f"{path} does not exist.")
    if reference.is_file() and prediction.is_file():
        ending = _known_ending(prediction.name) or "".join(prediction.suffixes)
        return CasePairs({prediction.name.removesuffix(ending): (reference, prediction)}, ending)
    if reference.is_file() or prediction.is_file():
        one, other = (reference, prediction) if reference.is_file() else (prediction, reference)
        raise DatasetError(f"{one} is a file and {other} a folder. Give two folders, or two files.")
    ending = file_ending or _ending_of(reference)
    references, predictions = _cases(reference, ending), _cases(prediction, ending)
    for folder, cases in ((reference, references), (prediction, predictions)):
        if not cases:
            raise DatasetError(f"{folder} holds no files that end in {ending}, so there is nothing to evaluate.")
    common = [case for case in predictions if case in references]
    if not common:
        raise DatasetError(
            f"{prediction} and {reference} have no case in common. Predicted: {_named(list(predictions))}; "
            f"references: {_named(list(references))}. A prediction needs the file name of its reference."
        )
    missing = [case for case in references if case not in predictions]
    if missing and not chill:
        raise DatasetError(
            f"{len(missing)} of {len(references)} references in {reference} have no prediction in {prediction}: "
            f"{_named(missing)}. Predict them too, or add --chill to evaluate the {len(common)} that are there."
        )
    return CasePairs(
        {case: (references[case], predictions[case]) for case in common},
        ending,
        tuple(missing),
        tuple(case for case in predictions if case not in references),
    )


def _cases(folder: Path, ending: str) -> dict[str, Path]:
    names = sorted(path.name for path in folder.iterdir() if path.is_file() and not path.name.startswith("."))
    return {name.removesuffix(ending): folder / name for name in names if name.endswith(ending)}


def _ending_of(folder: Path) -> str:
    # The references decide: beside predictions there may be pictures too.
    found = {ending for path in folder.iterdir() if path.is_file() and (ending := _known_ending(path.name))}
    if len(found) > 1:
        raise DatasetError(
            f"{folder} holds files of several kinds: {', '.join(sorted(found))}. "
            "Name the dataset.json that gives the file ending of the label images (-djfile)."
        )
    if not found:
        raise DatasetError(f"{folder} holds no label images, so there is nothing to evaluate.")
    return found.pop()


def _known_ending(name: str) -> str | None:
    known = {ending for reader in READERS.values() for ending in reader.file_endings} | {
        ".nii",
        ".mhd",
        ".nhdr",
        ".tiff",
    }
    fitting = [ending for ending in known if name.lower().endswith(ending) and not name.startswith(".")]
    return name[-len(max(fitting, key=len)) :] if fitting else None


def _named(cases: Sequence[str]) -> str:
    more = f" and {len(cases) - _NUM_NAMED} more" if len(cases) > _NUM_NAMED else ""
    return ", ".join(cases[:_NUM_NAMED]) + more
