"""A folder with one DICOM series as a volume, for prediction."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from framework.data.itk_files import geometry_of, last_line
from framework.data.itk_lock import one_at_a_time
from framework.errors import FoldwiseError

_ENDINGS = (".dcm", ".ima")
_DESCRIPTION, _MODALITY = "0008|103e", "0008|0060"
_GAP_TOLERANCE = 0.25
"""Of the usual distance; positions that were rounded to 0.1 mm stay below it, a missing slice does not."""
_PARALLEL = 1e-3
"""About 2.5 degrees between the stack and the normal of its slices; more is a tilted gantry."""


def holds_dicom(folder: Path | str) -> bool:
    """Whether there are DICOM files directly in `folder`; only their first bytes are looked at."""
    return next(_dicom_files(folder), None) is not None


@one_at_a_time
def read_series(folder: Path) -> tuple[np.ndarray, dict[str, Any]]:
    """The one series in a folder: (Z, Y, X) float32 in order of position, rescaled, and ITK's geometry.

    Raises:
        FoldwiseError: there are no or several series, slices are missing, doubled, tilted or of different
            sizes, or a file cannot be read.
    """
    import SimpleITK

    reader = SimpleITK.ImageSeriesReader()
    series = reader.GetGDCMSeriesIDs(str(folder))
    if not series:
        raise FoldwiseError(f"{folder} holds no DICOM images. Give a folder with the files of one series.")
    files = {uid: reader.GetGDCMSeriesFileNames(str(folder), uid) for uid in series}
    _refuse_unreadable(folder, {Path(name).name for names in files.values() for name in names})
    try:
        if len(series) > 1:
            raise FoldwiseError(_several_series(folder, files))
        names = files[series[0]]
        headers = [_header(name) for name in names]
        if headers[0].GetNumberOfComponents() != 1:
            raise FoldwiseError(f"{folder} holds colour images, expected grey values (CT, MR, PET, X-ray).")
        if len(names) == 1:
            image = SimpleITK.ReadImage(names[0], SimpleITK.sitkFloat32)  # one slice, or all in one file
        else:
            _check_stack(folder, headers)
            reader.SetFileNames(names)
            # Slices may be scaled differently (PET); the type of the first would cut the others off.
            reader.SetOutputPixelType(SimpleITK.sitkFloat32)
            image = reader.Execute()
    except RuntimeError as error:
        raise FoldwiseError(f"{folder}: the DICOM series cannot be read: {last_line(error)}") from error
    if image.GetDimension() != 3:
        raise FoldwiseError(f"{folder}: the DICOM series has {image.GetDimension()} dimensions, expected 3.")
    return SimpleITK.GetArrayFromImage(image), geometry_of(image)


def _dicom_files(folder: Path | str) -> Iterator[str]:
    """Names of the files that are DICOM by their ending or their first bytes; an index (DICOMDIR) is none."""
    with os.scandir(folder) as entries:
        for entry in entries:
            if not entry.is_file() or entry.name.startswith(".") or entry.name.upper() == "DICOMDIR":
                continue
            if entry.name.lower().endswith(_ENDINGS):
                yield entry.name
                continue
            with open(entry.path, "rb") as file:
                if file.read(132)[128:] == b"DICM":
                    yield entry.name


def _refuse_unreadable(folder: Path, readable: set[str]) -> None:
    """FoldwiseError for damaged files, which ITK passes over: the volume would lack these slices."""
    damaged = sorted(set(_dicom_files(folder)) - readable)
    if damaged:
        raise FoldwiseError(
            f"{folder}: {len(damaged)} DICOM file(s) cannot be read, they may be truncated or damaged: "
            f"{', '.join(damaged[:8])}. Copy or export the series again."
        )


def _header(name: str) -> Any:
    import SimpleITK

    reader = SimpleITK.ImageFileReader()
    reader.SetFileName(name)
    reader.ReadImageInformation()
    return reader


def _check_stack(folder: Path, headers: Sequence[Any]) -> None:
    """FoldwiseError if the slices are no regular stack."""
    first = headers[0]
    for header in headers[1:]:
        same_grid = header.GetSize() == first.GetSize() and np.allclose(
            (*header.GetSpacing()[:2], *header.GetDirection()),
            (*first.GetSpacing()[:2], *first.GetDirection()),
            1e-3,
            1e-3,
        )
        if not same_grid:
            raise FoldwiseError(
                f"{folder}: {_name(header)} differs from {_name(first)} in size, pixel spacing or orientation "
                f"({header.GetSize()[:2]} and {first.GetSize()[:2]} pixels). Keep only the slices of one volume."
            )
    positions = np.array([header.GetOrigin() for header in headers])
    normal = np.reshape(first.GetDirection(), (3, 3))[:, 2]
    gaps = np.diff(positions @ normal)
    usual = float(np.median(np.abs(gaps)))
    doubled = np.flatnonzero(np.abs(gaps) < 1e-3 * max(usual, 1e-3))
    if len(doubled):
        raise FoldwiseError(
            f"{folder}: {len(doubled) + 1} or more slices lie at the same position, for example "
            f"{_name(headers[doubled[0]])} and {_name(headers[doubled[0] + 1])}. The series holds several volumes "
            "(phases, echoes, b-values) or copies; put each volume into a folder of its own."
        )
    odd = np.flatnonzero(np.abs(np.abs(gaps) - usual) > _GAP_TOLERANCE * usual)
    if len(odd):
        raise FoldwiseError(
            f"{folder}: slices are {abs(gaps[odd[0]]):.4g} mm apart between {_name(headers[odd[0]])} and "
            f"{_name(headers[odd[0] + 1])}, but usually {usual:.4g} mm ({len(odd)} such place(s)). Slices are "
            "missing; export the series again, or convert it to .nii.gz with a program that interpolates them."
        )
    way = positions[-1] - positions[0]
    if 1 - abs(way @ normal) / np.linalg.norm(way) > _PARALLEL:
        raise FoldwiseError(
            f"{folder}: the slices are shifted against each other (a tilted gantry), so they form no upright box. "
            "Convert the series to .nii.gz with a program that corrects the tilt, such as dcm2niix."
        )


def _several_series(folder: Path, files: dict[str, Sequence[str]]) -> str:
    lines = [f"{folder} holds {len(files)} DICOM series, expected one:"]
    for uid, names in files.items():
        try:
            header = _header(names[0])
            words = [header.GetMetaData(tag).strip() for tag in (_MODALITY, _DESCRIPTION) if header.HasMetaDataKey(tag)]
        except RuntimeError:
            words = ["no image"]  # a report or contours, for example
        lines.append(f"  {' '.join(words) or uid}: {len(names)} file(s), for example {Path(names[0]).name}")
    lines.append("Put each series that is to be segmented into a folder of its own.")
    return "\n".join(lines)


def _name(header: Any) -> str:
    return Path(header.GetFileName()).name
