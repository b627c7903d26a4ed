"""A raw dataset on disk: ``dataset.json``, ``imagesTr/CASE_XXXX.EXT``, ``labelsTr/CASE.EXT``.

Only file names are looked at here; what is inside the files is checked by `framework.data.image_io`.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from framework.data.labels import Labels
from framework.errors import DatasetError
from framework.files import read_json

_NUM_NAMED = 8
"""How many cases a message names before it only counts the rest."""


@dataclass(frozen=True)
class RawCase:
    """The files of one patient scan."""

    name: str
    images: tuple[Path, ...]
    """One file for each channel, in channel order; or a single file that holds all channels."""
    label: Path | None = None


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

    @classmethod
    def open(cls, folder: Path | str) -> RawDataset:
        """Read dataset.json and list the cases.

        Raises:
            DatasetError: lists every mistake in dataset.json and in the listing.
        """
        folder = Path(folder).resolve()
        if not folder.is_dir():
            raise DatasetError(
                f"{folder} does not exist. A raw dataset is a folder with dataset.json, imagesTr and labelsTr."
            )
        source = folder / "dataset.json"
        dataset_json = read_json(source, error_type=DatasetError)
        if not isinstance(dataset_json, dict):
            raise DatasetError(f"{source}: expected an object {{...}}, found {type(dataset_json).__name__}.")

        problems: list[str] = []
        labels: Labels | None = None
        try:
            labels = Labels.from_dataset_json(dataset_json, source)
        except DatasetError as error:
            problems.append(str(error))
        own_problems: list[str] = []
        channel_names = read_channel_names(dataset_json, own_problems)
        file_ending = _read_file_ending(dataset_json, own_problems)
        problems += [f"{source}: {problem}" for problem in own_problems]
        if labels is None or problems:
            raise DatasetError("\n".join(problems))

        if "dataset" in dataset_json:
            cases = _listed_cases(folder, dataset_json["dataset"], problems)
        else:
            cases = _found_cases(folder, file_ending, len(channel_names), problems)
        problems += _name_collisions(cases)
        if problems:
            raise DatasetError("\n".join(f"{folder.name}: {problem}" for problem in problems))
        return cls(
            folder,
            dataset_json,
            labels,
            channel_names,
            file_ending,
            cases,
            tuple(_warnings(dataset_json, cases, source)),
        )


def cases_in_folder(folder: Path | str, file_ending: str, num_channels: int) -> dict[str, RawCase]:
    """The scans in a folder of ``CASE_XXXX.EXT`` files, without labels, such as the input of a prediction.

    Raises:
        DatasetError: lists every file name and every case that does not fit.
    """
    problems: list[str] = []
    cases = _scans(Path(folder), file_ending, num_channels, problems)
    if problems:
        named = [problem if problem.startswith(str(folder)) else f"{folder}: {problem}" for problem in problems]
        raise DatasetError("\n".join(named))
    return cases


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


def _read_file_ending(dataset_json: Mapping[str, Any], problems: list[str]) -> str:
    ending = dataset_json.get("file_ending")
    if isinstance(ending, str) and ending.startswith(".") and len(ending) > 1:
        return ending
    state = "missing" if ending is None else repr(ending)
    problems.append(
        f"'file_ending' is {state}, expected the ending of all images and label images, such as \".nii.gz\"."
    )
    return ""


def _file_names(folder: Path) -> list[str]:
    # Hidden files are never scans: .DS_Store, the "._" twins that macOS makes, our own temporary files.
    with os.scandir(folder) as entries:
        return sorted(entry.name for entry in entries if not entry.name.startswith("."))


def _found_cases(folder: Path, file_ending: str, num_channels: int, problems: list[str]) -> dict[str, RawCase]:
    images_folder, labels_folder = folder / "imagesTr", folder / "labelsTr"
    for needed in (images_folder, labels_folder):
        if not needed.is_dir():
            problems.append(f"the folder {needed} does not exist.")
    if problems:
        return {}
    scans = _scans(images_folder, file_ending, num_channels, problems)
    label_files = {
        name.removesuffix(file_ending): labels_folder / name
        for name in _file_names(labels_folder)
        if name.endswith(file_ending)
    }
    unlabelled = [name for name in scans if name not in label_files]
    if unlabelled:
        problems.append(
            f"{len(unlabelled)} scan(s) in imagesTr have no label image in labelsTr: {_named(unlabelled)}. "
            f"Expected labelsTr/{unlabelled[0]}{file_ending}. Add the label images or move the scans to "
            "imagesTs."
        )
    if not problems or scans:
        without_scan = [name for name in label_files if name not in scans]
        if without_scan:
            problems.append(
                f"{len(without_scan)} label image(s) in labelsTr have no scan in imagesTr: "
                f"{_named(without_scan)}. Expected imagesTr/{without_scan[0]}_0000{file_ending}. Add the "
                "scans or remove the label images."
            )
    return {name: RawCase(name, case.images, label_files.get(name)) for name, case in scans.items()}


def _scans(folder: Path, file_ending: str, num_channels: int, problems: list[str]) -> dict[str, RawCase]:
    if not folder.is_dir():
        problems.append(f"the folder {folder} does not exist.")
        return {}
    pattern = re.compile(r"(.+)_(\d{4})" + re.escape(file_ending))
    names = _file_names(folder)
    channels: dict[str, dict[int, Path]] = {}
    odd: list[str] = []
    for name in names:
        match = pattern.fullmatch(name)
        if match:
            channels.setdefault(match[1], {})[int(match[2])] = folder / name
        elif name.endswith(file_ending):
            odd.append(name)
    if odd:
        example = odd[0].removesuffix(file_ending)
        problems.append(
            f"{len(odd)} file name(s) in {folder.name} lack the four-digit channel number: {_named(odd)}. "
            f"Rename {odd[0]} to {example}_0000{file_ending} (channel 0)."
        )
    if not channels and not odd:
        other = _named(names) if names else "nothing at all"
        problems.append(
            f"{folder} holds no file CASE_0000{file_ending}. Found there: {other}. Check 'file_ending' in dataset.json."
        )
    expected = set(range(num_channels))
    # One file that holds all channels (RGB photographs, 4D NIfTI) is fine if every case is stored that way;
    # how many channels are in it is seen when it is read.
    if num_channels > 1 and all(set(files) == {0} for files in channels.values()):
        expected = {0}
    for name, files in channels.items():
        missing, surplus = sorted(expected - set(files)), sorted(set(files) - expected)
        if missing:
            listed = ", ".join(f"{name}_{index:04d}{file_ending}" for index in missing)
            problems.append(f"case '{name}' lacks {listed}: dataset.json names {num_channels} channels.")
        if surplus:
            listed = ", ".join(files[index].name for index in surplus)
            problems.append(f"case '{name}' has {listed}, but dataset.json names only {num_channels} channel(s).")
    return {
        name: RawCase(name, tuple(files[index] for index in sorted(files))) for name, files in sorted(channels.items())
    }


def _listed_cases(folder: Path, listing: Any, problems: list[str]) -> dict[str, RawCase]:
    form = 'expected {"CASE": {"images": ["imagesTr/CASE_0000.nii.gz"], "label": "labelsTr/CASE.nii.gz"}}'
    if not isinstance(listing, Mapping) or not listing:
        problems.append(f"'dataset' in dataset.json is {type(listing).__name__} or empty, {form}.")
        return {}
    cases: dict[str, RawCase] = {}
    missing: list[str] = []
    for name, entry in listing.items():
        images = entry.get("images") if isinstance(entry, Mapping) else None
        label = entry.get("label") if isinstance(entry, Mapping) else None
        if not (
            isinstance(images, list) and images and all(isinstance(i, str) for i in images) and isinstance(label, str)
        ):
            problems.append(f"'dataset' entry '{name}' is {entry!r}, {form}.")
            continue
        paths = [_expanded(folder, text) for text in (*images, label)]
        missing += [str(path) for path in paths if not path.is_file()]
        cases[name] = RawCase(name, tuple(paths[:-1]), paths[-1])
    if missing:
        variable = " A variable in a path is not set." if any("$" in path for path in missing) else ""
        problems.append(
            f"{len(missing)} file(s) named under 'dataset' in dataset.json do not exist: {_named(missing)}.{variable}"
        )
    return cases


def _expanded(folder: Path, text: str) -> Path:
    # joining with an absolute path gives that path
    return Path(os.path.abspath(folder / os.path.expandvars(text)))


def _name_collisions(cases: Mapping[str, RawCase]) -> list[str]:
    clashing = [name for name in cases if f"{name}_seg" in cases]
    return [
        f"cases '{name}' and '{name}_seg' cannot live in one dataset: the preprocessed segmentation of the "
        f"first is called {name}_seg as well. Rename the second."
        for name in clashing
    ]


def _warnings(dataset_json: Mapping[str, Any], cases: Mapping[str, RawCase], source: Path) -> list[str]:
    stated = dataset_json.get("numTraining")
    if stated is None:
        return [f"{source}: 'numTraining' is missing; {len(cases)} training cases were found."]
    if stated != len(cases):
        return [f"{source}: 'numTraining' is {stated}, but {len(cases)} training cases were found; the files count."]
    return []


def _named(names: list[str]) -> str:
    more = f" and {len(names) - _NUM_NAMED} more" if len(names) > _NUM_NAMED else ""
    return ", ".join(names[:_NUM_NAMED]) + more
