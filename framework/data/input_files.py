"""Cases from a list of image files and DICOM series that somebody named one by one."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from framework.data.case_listing import ListingProblem, RawCase
from framework.errors import DatasetError
from framework.file_names import why_no_file_name
from framework.files import read_json

Found = tuple[dict[str, RawCase], list[ListingProblem]]

_LISTS = (".txt", ".json")
_NUMBERED = re.compile(r"(.+)_(\d{4})")
_JSON_FORM = 'expected a list of files, a list of lists (the channels of a case), or {"CASE": ["FILE", ...]}'


def is_file_list(path: Path) -> bool:
    return path.suffix.lower() in _LISTS


def channel_of_name(name: str, num_channels: int) -> tuple[str, int | None]:
    """Case and channel that the name of a file (without its ending) or folder stands for; None for no channel.

    Where the network takes one channel, only ``_0000`` is a channel number: a name may well end in a year.
    """
    match = _NUMBERED.fullmatch(name)
    if match is None or (num_channels == 1 and match[2] != "0000"):
        return name, None
    return match[1], int(match[2])


def read_file_list(path: Path, file_ending: str, num_channels: int) -> Found:
    """The cases in a text file with a path on each line, or in a JSON file.

    Paths are relative to the folder of the list. Empty lines and lines that begin with # do not count. JSON is a
    list of paths, a list of lists of paths (the channels of each case), or an object with the name and the
    path or paths of each case.

    Raises:
        DatasetError: the file has another form.
    """
    folder = path.parent
    if path.suffix.lower() == ".txt":
        try:
            lines = [line.strip() for line in path.read_text(encoding="utf-8").splitlines()]
        except UnicodeDecodeError as error:
            raise DatasetError(f"{path} is no list of files in UTF-8: {error}.") from None
        named = [line for line in lines if line and not line.startswith("#")]
        return cases_of_files([folder / Path(line).expanduser() for line in named], file_ending, num_channels)
    content = read_json(path, error_type=DatasetError)
    if isinstance(content, Mapping):
        cases: dict[str, RawCase] = {}
        problems: list[ListingProblem] = []
        for name, value in content.items():
            files = [folder / text for text in _texts(value, path)]
            if why_no_file_name(name) or name.startswith("."):
                raise DatasetError(f"{path}: '{name}' cannot be the name of a case, which becomes a file name.")
            cases[name] = RawCase(name, tuple(files))
            problems += _absent(name, files)
        return cases, problems
    if isinstance(content, list) and all(isinstance(entry, list) for entry in content) and content:
        paths = [folder / text for entry in content for text in _texts(entry, path)]
    else:
        paths = [folder / text for text in _texts(content, path)]
    return cases_of_files(paths, file_ending, num_channels)


def cases_of_files(paths: Sequence[Path], file_ending: str, num_channels: int) -> Found:
    """Group files and DICOM series by case; channels that are not listed are looked for beside those that are."""
    channels: dict[str, dict[int, Path]] = {}
    problems: list[ListingProblem] = []
    for path in dict.fromkeys(Path(path).absolute() for path in paths):
        stem = path.name if path.is_dir() else path.name.removesuffix(_ending(path, file_ending))
        case, channel = channel_of_name(stem, num_channels)
        number = channel or 0
        if number in channels.setdefault(case, {}):
            what = f"'{channels[case][number]}' and '{path}' are both channel {number:04d} of case '{case}'."
            problems.append(ListingProblem("same-case", what, "Rename one, or predict it on its own.", (case,)))
            continue
        channels[case][number] = path
        if channel is not None:
            ending = path.name.removeprefix(stem)
            for other in range(num_channels):
                beside = path.with_name(f"{case}_{other:04d}{ending}")
                if beside.exists():
                    channels[case].setdefault(other, beside)
    cases = {}
    for case, found in channels.items():
        cases[case] = RawCase(case, tuple(found[index] for index in sorted(found)))
        absent = _absent(case, cases[case].images)
        problems += absent
        # A single file may hold all channels, which is seen when it is read.
        if not absent and len(found) > 1 and sorted(found) != list(range(num_channels)):
            have = ", ".join(f"{channel:04d}" for channel in sorted(found))
            what = f"case '{case}' has the channels {have}; the network takes 0000 to {num_channels - 1:04d}."
            problems.append(ListingProblem("missing-channel", what, cases=(case,)))
    return cases, problems


def _absent(case: str, files: Sequence[Path]) -> list[ListingProblem]:
    missing = [str(file) for file in files if not file.exists()]
    if not missing:
        return []
    return [ListingProblem("missing-file", f"{', '.join(missing)} does not exist.", cases=(case,))]


def _ending(path: Path, file_ending: str) -> str:
    """The ending of an image file, which need not be that of the dataset."""
    if path.name.endswith(file_ending):
        return file_ending
    suffixes = path.suffixes
    return "".join(suffixes[-2:]) if suffixes[-1:] == [".gz"] else "".join(suffixes[-1:])


def _texts(value: Any, path: Path) -> list[str]:
    values = [value] if isinstance(value, str) else value
    if not isinstance(values, list) or not all(isinstance(entry, str) for entry in values):
        raise DatasetError(f"{path}: found {str(value)[:80]}, {_JSON_FORM}.")
    return values
