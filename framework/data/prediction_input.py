"""The scans that are to be segmented: image files as in a raw dataset, DICOM series, or a list of either."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from framework.data.case_listing import ListingProblem, RawCase, list_scans
from framework.data.case_warnings import collected_case_warnings
from framework.data.dicom import holds_dicom
from framework.data.image_io import Properties, check_case
from framework.data.input_files import cases_of_files, channel_of_name, is_file_list, read_file_list
from framework.data.labels import Labels
from framework.errors import DatasetError

__all__ = ["InputCases", "cases_to_predict", "read_case_to_predict"]


@dataclass(frozen=True)
class InputCases:
    """What there is to predict."""

    cases: dict[str, RawCase]
    """By name, sorted; the images of a DICOM case are folders."""
    problems: tuple[ListingProblem, ...] = ()
    """What is wrong with single cases, which are left out of `cases`."""


def cases_to_predict(source: Path | str | Sequence[Path | str], file_ending: str, num_channels: int) -> InputCases:
    """The cases that `source` names.

    Args:
        source: one of
            - a folder with files CASE_0000.EXT, CASE_0001.EXT, ...;
            - a folder with one folder for each DICOM series, named CASE, or CASE_0000, CASE_0001, ... for the
              channels of a case; or with the files of a single series, whose case is named after the folder;
            - one image file, of several channels any one;
            - a list of such files and series; or a text or JSON file with one (see `read_file_list`).
        file_ending: of the training's images; looked for in folders.

    Raises:
        DatasetError: nothing is there, nothing of it can be used, or a folder mixes kinds; lists all that is wrong.
    """
    if not isinstance(source, (str, Path)):
        found = cases_of_files([Path(path) for path in source], file_ending, num_channels)
        where = "the list"
    else:
        path = Path(source).expanduser().resolve()
        where = str(path)
        if path.is_dir():
            found = _cases_in_folder(path, file_ending, num_channels)
        elif not path.is_file():
            raise DatasetError(
                f"{path} does not exist. Give a folder with CASE_0000{file_ending}, ..., one image, a folder with "
                "the files of a DICOM series, or a list of files (.txt, .json)."
            )
        elif is_file_list(path):
            found = read_file_list(path, file_ending, num_channels)
        else:
            found = cases_of_files([path], file_ending, num_channels)
    cases, problems = found
    bad = {case for problem in problems for case in problem.cases}
    good = {name: cases[name] for name in sorted(cases) if name not in bad}
    if not good or any(not problem.cases for problem in problems):
        texts = [str(problem) for problem in problems] or ["it names no scan."]
        raise DatasetError("\n".join(text if text.startswith(where) else f"{where}: {text}" for text in texts))
    return InputCases(good, tuple(problems))


def read_case_to_predict(
    case: RawCase,
    labels: Labels,
    num_channels: int,
    reader: str,
    report: Callable[[str], None],
    previous_stage: Path | None = None,
) -> tuple[list[np.ndarray], np.ndarray | None, Properties]:
    """The channels (X, Y, Z) of a case, the segmentation of the previous stage, and the properties.

    What is odd about the case but does no harm is reported.

    Args:
        previous_stage: label image (1, X, Y, Z) of a cascade's previous stage on the grid of the scan; read and
            checked too, if given.

    Raises:
        CaseError: the case cannot be used.
    """
    with collected_case_warnings() as warnings:
        image, segmentation, properties = check_case(
            case.images, previous_stage, labels, case.name, num_channels, reader
        )
    for number, channel in enumerate(image):
        if _is_constant(channel):
            which = f"channel {number} of the scan" if len(image) > 1 else "the scan"
            warnings.append(f"every voxel of {which} has the value {channel.flat[0]:g}: there is nothing to see in it.")
    for warning in warnings:
        report(f"warning: case '{case.name}': {warning}")
    return image, segmentation, properties


def _is_constant(channel: np.ndarray) -> bool:
    first = channel.flat[0]
    return all((part == first).all() for part in channel)  # a scan with content is left at its first slices


def _cases_in_folder(
    folder: Path, file_ending: str, num_channels: int
) -> tuple[dict[str, RawCase], list[ListingProblem]]:
    with os.scandir(folder) as entries:
        visible = [entry for entry in entries if not entry.name.startswith(".")]
    inner = sorted(Path(entry.path) for entry in visible if entry.is_dir())
    series = [path for path in inner if holds_dicom(path)]
    files_are_dicom = holds_dicom(folder)
    if not series and not files_are_dicom:
        return list_scans(folder, file_ending, num_channels)
    images = sorted(entry.name for entry in visible if entry.is_file() and entry.name.endswith(file_ending))
    kinds = {
        f"{len(images)} file(s) *{file_ending}": bool(images),
        f"{len(series)} folder(s) with DICOM files": bool(series),
        "DICOM files": files_are_dicom,
    }
    found = [text for text, present in kinds.items() if present]
    if len(found) > 1:
        raise DatasetError(f"{folder} holds {' and '.join(found)}. Put each kind into a folder of its own.")
    if files_are_dicom:
        if num_channels > 1:
            raise DatasetError(
                f"{folder} is one DICOM series, but the network takes {num_channels} channels. Give a folder with a "
                f"folder for each series: {', '.join(f'CASE_{channel:04d}' for channel in range(num_channels))}."
            )
        return {folder.name: RawCase(folder.name, (folder,))}, []
    without = [path.name for path in inner if path not in series]
    if without:
        raise DatasetError(
            f"{folder} holds folders without DICOM files beside those with some: {', '.join(without[:8])}. "
            "The files of a series must lie directly in its folder; move the others away."
        )
    return _series_by_case(series, num_channels)


def _series_by_case(series: Sequence[Path], num_channels: int) -> tuple[dict[str, RawCase], list[ListingProblem]]:
    channels: dict[str, dict[int, Path]] = {}
    problems = []
    for path in series:
        case, channel = channel_of_name(path.name, num_channels)
        if channel is None and num_channels > 1:
            what = f"'{path.name}' lacks the four-digit channel number: {path.name}_0000, for example."
            problems.append(ListingProblem("channel-number", what, cases=(path.name,)))
            continue
        channel = channel or 0
        if channel in channels.setdefault(case, {}):
            what = f"'{channels[case][channel].name}' and '{path.name}' are both the case '{case}'."
            problems.append(ListingProblem("same-case", what, cases=(case,)))
        channels[case][channel] = path
    for case, found in channels.items():
        if sorted(found) != list(range(num_channels)):
            have = ", ".join(f"{channel:04d}" for channel in sorted(found))
            what = f"case '{case}' has the channels {have}; the network takes 0000 to {num_channels - 1:04d}."
            problems.append(ListingProblem("missing-channel", what, cases=(case,)))
    cases = {case: RawCase(case, tuple(found[index] for index in sorted(found))) for case, found in channels.items()}
    return cases, problems
