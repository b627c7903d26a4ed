"""Which scans and label images are there: the names of files in a raw dataset, or in a folder to predict.

Nothing is read but names. What is wrong is collected, so that all of it can be told together.
"""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from framework.errors import DatasetError
from framework.file_names import why_no_file_name
from framework.validation import shown

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
class ListingProblem:
    """One mistake in dataset.json or in the listing."""

    code: str
    """A short stable name of the kind of mistake, such as ``missing-channel``."""
    what: str
    """What is wrong, the value found, and where."""
    advice: str = ""
    cases: tuple[str, ...] = ()

    def __str__(self) -> str:
        return f"{self.what} {self.advice}".strip()


def cases_in_folder(folder: Path | str, file_ending: str, num_channels: int) -> dict[str, RawCase]:
    """The scans in a folder of ``CASE_XXXX.EXT`` files, without labels, such as the input of a prediction.

    Raises:
        DatasetError: lists every file name and every case that does not fit.
    """
    cases, problems = list_scans(folder, file_ending, num_channels)
    if problems:
        texts = [str(problem) for problem in problems]
        raise DatasetError("\n".join(text if text.startswith(str(folder)) else f"{folder}: {text}" for text in texts))
    return cases


def list_scans(
    folder: Path | str, file_ending: str, num_channels: int | None = None
) -> tuple[dict[str, RawCase], list[ListingProblem]]:
    """As `cases_in_folder`, complete or not; without `num_channels`, most cases tell it."""
    problems: list[ListingProblem] = []
    return _scans(Path(folder), file_ending, num_channels, problems), problems


def file_names(folder: Path | str) -> list[str]:
    """Names of all files in a folder, sorted, without hidden ones; none if there is no such folder."""
    if not Path(folder).is_dir():
        return []
    # Hidden files are never scans: .DS_Store, the "._" twins that macOS makes, our own temporary files.
    with os.scandir(folder) as entries:
        return sorted(entry.name for entry in entries if not entry.name.startswith("."))


def found_cases(
    folder: Path, file_ending: str, num_channels: int | None, problems: list[ListingProblem]
) -> dict[str, RawCase]:
    """The scans in imagesTr with their label images in labelsTr; mistakes are appended to `problems`."""
    images_folder, labels_folder = folder / "imagesTr", folder / "labelsTr"
    for needed in (images_folder, labels_folder):
        if not needed.is_dir():
            problems.append(ListingProblem("missing-folder", f"the folder {needed} does not exist."))
    if not images_folder.is_dir():
        return {}
    scans = _scans(images_folder, file_ending, num_channels, problems)
    if not labels_folder.is_dir():
        return scans
    label_files = {
        name.removesuffix(file_ending): labels_folder / name
        for name in file_names(labels_folder)
        if name.endswith(file_ending)
    }
    unlabelled = [name for name in scans if name not in label_files]
    if unlabelled:
        problems.append(
            ListingProblem(
                "missing-label",
                f"{len(unlabelled)} scan(s) in imagesTr have no label image in labelsTr: {_named(unlabelled)}.",
                f"Expected labelsTr/{unlabelled[0]}{file_ending}. Add the label images or move the scans to imagesTs.",
                tuple(unlabelled),
            )
        )
    without_scan = [name for name in label_files if name not in scans]
    if without_scan and (scans or not problems):
        problems.append(
            ListingProblem(
                "missing-scan",
                f"{len(without_scan)} label image(s) in labelsTr have no scan in imagesTr: {_named(without_scan)}.",
                f"Expected imagesTr/{without_scan[0]}_0000{file_ending}. Add the scans or remove the label images.",
                tuple(without_scan),
            )
        )
    return {name: RawCase(name, case.images, label_files.get(name)) for name, case in scans.items()}


def _scans(
    folder: Path, file_ending: str, num_channels: int | None, problems: list[ListingProblem]
) -> dict[str, RawCase]:
    if not folder.is_dir():
        problems.append(ListingProblem("missing-folder", f"the folder {folder} does not exist."))
        return {}
    pattern = re.compile(r"(.+)_(\d{4})" + re.escape(file_ending))
    names = file_names(folder)
    channels: dict[str, dict[int, Path]] = {}
    odd: list[str] = []
    for name in names:
        match = pattern.fullmatch(name)
        if match:
            channels.setdefault(match[1], {})[int(match[2])] = folder / name
        elif name.endswith(file_ending):
            odd.append(name)
    if odd:
        problems.append(_odd_names(folder, odd, file_ending))
    if not channels and not odd:
        other = _named(names) if names else "nothing at all"
        problems.append(
            ListingProblem(
                "no-images",
                f"{folder} holds no file CASE_0000{file_ending}. Found there: {other}.",
                "Check 'file_ending' in dataset.json.",
            )
        )
    # One file that holds all channels (RGB photographs, 4D NIfTI) is fine if every case is stored that way;
    # how many channels are in it is seen when it is read.
    in_one_file = all(set(files) == {0} for files in channels.values())
    if num_channels is None and channels:
        num_channels = Counter(len(files) for files in channels.values()).most_common(1)[0][0]
        known = f"most cases have {num_channels} channel(s)"
    else:
        known = f"dataset.json names {num_channels} channel(s)"
    expected = {0} if in_one_file else set(range(num_channels or 0))
    for name, files in channels.items():
        missing, surplus = sorted(expected - set(files)), sorted(set(files) - expected)
        if missing:
            listed = ", ".join(f"{name}_{index:04d}{file_ending}" for index in missing)
            what = f"case '{name}' lacks {listed}: {known}."
            problems.append(ListingProblem("missing-channel", what, cases=(name,)))
        if surplus:
            listed = ", ".join(files[index].name for index in surplus)
            what = f"case '{name}' has {listed}, but {known}."
            problems.append(ListingProblem("extra-channel", what, cases=(name,)))
    return {
        name: RawCase(name, tuple(files[index] for index in sorted(files))) for name, files in sorted(channels.items())
    }


def _odd_names(folder: Path, odd: list[str], file_ending: str) -> ListingProblem:
    stem = odd[0].removesuffix(file_ending)
    # a number with too many or too few digits is taken for the channel
    numbered = re.fullmatch(r"(.+)_(\d{1,3}|\d{5})", stem)
    case, channel = (numbered[1], int(numbered[2])) if numbered else (stem, 0)
    return ListingProblem(
        "channel-number",
        f"{len(odd)} file name(s) in {folder.name} lack the four-digit channel number: {_named(odd)}.",
        f"Rename {odd[0]} to {case}_{channel:04d}{file_ending} (channel {channel}).",
        tuple(name.removesuffix(file_ending) for name in odd),
    )


def listed_cases(folder: Path, listing: Any, problems: list[ListingProblem]) -> dict[str, RawCase]:
    """The cases under ``dataset`` in dataset.json, which says where their files are."""
    form = 'expected {"CASE": {"images": ["imagesTr/CASE_0000.nii.gz"], "label": "labelsTr/CASE.nii.gz"}}'
    if not isinstance(listing, Mapping) or not listing:
        what = f"'dataset' in dataset.json is {type(listing).__name__} or empty, {form}."
        problems.append(ListingProblem("dataset-list", what))
        return {}
    cases: dict[str, RawCase] = {}
    missing: list[str] = []
    lacking: list[str] = []
    for name, entry in listing.items():
        if reason := why_no_file_name(name):
            problems.append(ListingProblem("dataset-list", f"'dataset' has a case {shown(name)}, which {reason}."))
            continue
        images = entry.get("images") if isinstance(entry, Mapping) else None
        label = entry.get("label") if isinstance(entry, Mapping) else None
        if not (
            isinstance(images, list) and images and all(isinstance(i, str) for i in images) and isinstance(label, str)
        ):
            what = f"'dataset' entry '{name}' is {shown(entry)}, {form}."
            problems.append(ListingProblem("dataset-list", what, cases=(name,)))
            continue
        paths = [_expanded(folder, text) for text in (*images, label)]
        absent = [str(path) for path in paths if not os.path.exists(path)]  # also where no file could be so named
        missing += absent
        lacking += [name] if absent else []
        cases[name] = RawCase(name, tuple(paths[:-1]), paths[-1])
    if missing:
        what = f"{len(missing)} file(s) named under 'dataset' in dataset.json do not exist: {_named(missing)}."
        variable = "A variable in a path is not set." if any("$" in path for path in missing) else ""
        problems.append(ListingProblem("missing-file", what, variable, tuple(lacking)))
    return cases


def _expanded(folder: Path, text: str) -> Path:
    # joining with an absolute path gives that path
    return Path(os.path.abspath(folder / os.path.expandvars(text)))


def _named(names: list[str]) -> str:
    more = f" and {len(names) - _NUM_NAMED} more" if len(names) > _NUM_NAMED else ""
    return ", ".join(f"{name:.300}" for name in names[:_NUM_NAMED]) + more
