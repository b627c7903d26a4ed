"""The scans in a folder that is to be segmented: image files as in a raw dataset, or DICOM series."""

from __future__ import annotations

import os
import re
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from framework.data.dicom import holds_dicom
from framework.data.image_io import Properties, check_case
from framework.data.labels import Labels
from framework.data.raw_dataset import RawCase, cases_in_folder
from framework.errors import CaseWarning, DatasetError

_CHANNEL_FOLDER = re.compile(r"(.+)_(\d{4})")


def cases_to_predict(folder: Path | str, file_ending: str, num_channels: int) -> dict[str, RawCase]:
    """The cases in a folder, by name; the images of a DICOM case are folders.

    Three kinds of folder are known: files CASE_0000.EXT, CASE_0001.EXT, ...; one folder for each DICOM series,
    named CASE, or CASE_0000, CASE_0001, ... for the channels of a case; or the files of a single series, whose
    case is named after the folder.

    Raises:
        DatasetError: the folder is a mixture of these, or names or channels do not fit; lists all that do not.
    """
    folder = Path(folder).resolve()
    with os.scandir(folder) as entries:
        visible = [entry for entry in entries if not entry.name.startswith(".")]
    inner = sorted(Path(entry.path) for entry in visible if entry.is_dir())
    series = [path for path in inner if holds_dicom(path)]
    files_are_dicom = holds_dicom(folder)
    if not series and not files_are_dicom:
        return cases_in_folder(folder, file_ending, num_channels)
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
        return {folder.name: RawCase(folder.name, (folder,))}
    without = [path.name for path in inner if path not in series]
    if without:
        raise DatasetError(
            f"{folder} holds folders without DICOM files beside those with some: {', '.join(without[:8])}. "
            "The files of a series must lie directly in its folder; move the others away."
        )
    return _series_by_case(folder, series, num_channels)


def read_case_to_predict(
    case: RawCase, labels: Labels, num_channels: int, reader: str, report: Callable[[str], None]
) -> tuple[list[np.ndarray], Properties]:
    """The channels (X, Y, Z) and the properties of a case; what is odd about it but does no harm is reported.

    Raises:
        CaseError: the case cannot be used.
    """
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", CaseWarning)
        image, _, properties = check_case(case.images, None, labels, case.name, num_channels, reader)
    for warning in caught:
        report(f"warning: case '{case.name}': {warning.message}")
    return image, properties


def _series_by_case(folder: Path, series: Sequence[Path], num_channels: int) -> dict[str, RawCase]:
    channels: dict[str, dict[int, Path]] = {}
    problems = []
    for path in series:
        match = _CHANNEL_FOLDER.fullmatch(path.name)
        if num_channels == 1:
            # A name may well end in four digits, such as a year; only 0000 is a channel number here.
            case, channel = path.name.removesuffix("_0000"), 0
        elif match:
            case, channel = match[1], int(match[2])
        else:
            problems.append(f"'{path.name}' lacks the four-digit channel number: {path.name}_0000, for example.")
            continue
        if channel in channels.setdefault(case, {}):
            problems.append(f"'{channels[case][channel].name}' and '{path.name}' are both the case '{case}'.")
        channels[case][channel] = path
    for case, found in channels.items():
        if sorted(found) != list(range(num_channels)):
            have = ", ".join(f"{channel:04d}" for channel in sorted(found))
            problems.append(f"case '{case}' has the channels {have}; the network takes 0000 to {num_channels - 1:04d}.")
    if problems:
        raise DatasetError("\n".join(f"{folder}: {problem}" for problem in problems))
    return {case: RawCase(case, tuple(found[index] for index in sorted(found))) for case, found in channels.items()}
