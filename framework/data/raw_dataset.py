"""A raw dataset on disk: ``dataset.json``, ``imagesTr/CASE_XXXX.EXT``, ``labelsTr/CASE.EXT``.

Only file names are looked at here; what is inside the files is checked by `framework.data.image_io`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from framework.data.case_listing import (
    ListingProblem,
    RawCase,
    cases_in_folder,
    found_cases,
    list_scans,
    listed_cases,
)
from framework.data.image_io import reader_name_for
from framework.data.labels import Labels
from framework.errors import DatasetError
from framework.file_names import is_file_ending
from framework.files import read_json
from framework.validation import shown

__all__ = [
    "ListingProblem",
    "RawCase",
    "RawDataset",
    "RawListing",
    "cases_in_folder",
    "list_raw_dataset",
    "list_scans",
    "read_channel_names",
]


@dataclass(frozen=True)
class RawListing:
    """What a raw dataset folder holds, as far as it can be told, with everything that is wrong with it."""

    folder: Path
    dataset_json: dict[str, Any]
    """Empty if it cannot be read."""
    labels: Labels | None
    channel_names: tuple[str, ...]
    """Empty if dataset.json does not tell them."""
    file_ending: str
    """Empty if dataset.json does not tell it."""
    cases: dict[str, RawCase]
    """With the files that were found: a channel or the label may be missing."""
    problems: tuple[ListingProblem, ...]
    warnings: tuple[ListingProblem, ...]


@dataclass(frozen=True)
class RawDataset:
    """A raw dataset whose listing is complete and free of contradictions."""

    folder: Path
    dataset_json: dict[str, Any]
    labels: Labels
    channel_names: tuple[str, ...]
    file_ending: str
    cases: dict[str, RawCase]
    """Training cases by name: sorted, or in the order of the ``dataset`` list where dataset.json has one."""
    warnings: tuple[str, ...] = field(default=())
    """What looks wrong but does no harm, for the command to print."""

    @property
    def name(self) -> str:
        """The name of the folder, ``DatasetXXX_Name``."""
        return self.folder.name

    @property
    def reader_name(self) -> str:
        """The image reader that dataset.json asks for, or else the first one that reads such files.

        Raises:
            FoldwiseError: there is none; with the reason.
        """
        example = next((case.images[0] for case in self.cases.values()), None)
        return reader_name_for(self.file_ending, self.dataset_json, example)

    @classmethod
    def open(cls, folder: Path | str) -> RawDataset:
        """Read dataset.json and list the cases.

        Raises:
            DatasetError: lists every mistake in dataset.json and in the listing.
        """
        listing = list_raw_dataset(folder)
        if listing.problems or listing.labels is None:
            raise DatasetError("\n".join(str(problem) for problem in listing.problems))
        return cls(
            listing.folder,
            listing.dataset_json,
            listing.labels,
            listing.channel_names,
            listing.file_ending,
            listing.cases,
            tuple(str(warning) for warning in listing.warnings),
        )


def list_raw_dataset(folder: Path | str, file_ending: str | None = None) -> RawListing:
    """List the cases of a raw dataset, complete or not.

    Args:
        file_ending: look for images with this ending, whatever dataset.json says.

    Raises:
        DatasetError: the folder does not exist.
    """
    folder = Path(folder).resolve()
    if not folder.is_dir():
        raise DatasetError(
            f"{folder} does not exist. A raw dataset is a folder with dataset.json, imagesTr and labelsTr."
        )
    source = folder / "dataset.json"
    problems: list[ListingProblem] = []
    dataset_json = _read_dataset_json(source, problems)
    labels: Labels | None = None
    channel_names: tuple[str, ...] = ()
    stated_ending = ""
    if dataset_json:
        try:
            labels = Labels.from_dataset_json(dataset_json, source)
        except DatasetError as error:
            problems += [ListingProblem(_label_code(line), line) for line in str(error).splitlines()]
        found: list[str] = []
        channel_names = read_channel_names(dataset_json, found)
        problems += [ListingProblem("channel-names", f"{source}: {problem}") for problem in found]
        stated_ending = _read_file_ending(dataset_json, source, problems)

    own: list[ListingProblem] = []
    ending = file_ending or stated_ending
    if "dataset" in dataset_json:
        cases = listed_cases(folder, dataset_json["dataset"], own)
    elif ending:
        cases = found_cases(folder, ending, len(channel_names) or None, own)
    else:
        cases = {}  # which files are images is not known
    own += _name_collisions(cases)
    problems += [replace(problem, what=f"{folder.name}: {problem.what}") for problem in own]
    warnings = _warnings(dataset_json, cases, source) if dataset_json else []
    return RawListing(
        folder, dataset_json, labels, channel_names, stated_ending, cases, tuple(problems), tuple(warnings)
    )


def read_channel_names(dataset_json: Mapping[str, Any], problems: list[str] | None = None) -> tuple[str, ...]:
    """Names of the input channels in order, from ``channel_names`` or the older ``modality``.

    Mistakes are appended to `problems`; where none is given they raise DatasetError.
    """
    found: list[str] = []
    key = "channel_names" if "channel_names" in dataset_json else "modality"
    block = dataset_json.get(key)
    names: tuple[str, ...] = ()
    if not isinstance(block, Mapping) or not block:
        state = "missing" if block is None else repr(block)
        found.append(f'\'channel_names\' is {state}, expected one name for each channel, such as {{"0": "CT"}}.')
    else:
        expected = [str(index) for index in range(len(block))]
        if sorted(str(index) for index in block) != sorted(expected):
            given = ", ".join(str(index) for index in block)
            found.append(f"'{key}' has the keys {given}; expected {', '.join(expected)}.")
        else:
            by_index = {str(index): str(name) for index, name in block.items()}
            names = tuple(by_index[index] for index in expected)
    if problems is not None:
        problems += found
    elif found:
        raise DatasetError("dataset.json: " + " ".join(found))
    return names


def _read_dataset_json(source: Path, problems: list[ListingProblem]) -> dict[str, Any]:
    try:
        content = read_json(source, error_type=DatasetError)
    except DatasetError as error:
        problems.append(ListingProblem("dataset-json-unreadable", str(error)))
        return {}
    if isinstance(content, dict) and content:
        return content
    found = "an empty object" if content == {} else type(content).__name__
    problems.append(ListingProblem("dataset-json-unreadable", f"{source}: expected an object {{...}}, found {found}."))
    return {}


_LABEL_CODES = {
    "must be consecutive": "labels-not-consecutive",
    "must be one above every other": "ignore-label-not-last",
    "regions_class_order": "regions-class-order",
    "'background'": "background-label",
}
"""Kinds of mistakes by words of the message; the rules and the messages are those of `Labels`."""


def _label_code(message: str) -> str:
    return next((code for words, code in _LABEL_CODES.items() if words in message), "labels")


def _read_file_ending(dataset_json: Mapping[str, Any], source: Path, problems: list[ListingProblem]) -> str:
    ending = dataset_json.get("file_ending")
    if is_file_ending(ending):
        return str(ending)
    state = "missing" if ending is None else shown(ending)
    expected = 'expected the ending of all images and label images, such as ".nii.gz"'
    problems.append(ListingProblem("file-ending", f"{source}: 'file_ending' is {state}, {expected}."))
    return ""


def _name_collisions(cases: Mapping[str, RawCase]) -> list[ListingProblem]:
    clashing = [name for name in cases if f"{name}_seg" in cases]
    return [
        ListingProblem(
            "name-collision",
            f"cases '{name}' and '{name}_seg' cannot live in one dataset: the preprocessed segmentation of the "
            f"first is called {name}_seg as well.",
            "Rename the second.",
            (name, f"{name}_seg"),
        )
        for name in clashing
    ]


def _warnings(dataset_json: Mapping[str, Any], cases: Mapping[str, RawCase], source: Path) -> list[ListingProblem]:
    stated = dataset_json.get("numTraining")
    if stated is None:
        what = f"{source}: 'numTraining' is missing; {len(cases)} training cases were found."
    elif stated != len(cases):
        what = f"{source}: 'numTraining' is {stated}, but {len(cases)} training cases were found; the files count."
    else:
        return []
    return [ListingProblem("num-training", what)]
