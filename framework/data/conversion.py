"""Datasets of older layouts as raw datasets of today's: Medical Segmentation Decathlon, and nnU-Net version 1.

Both have ``dataset.json`` with ``modality``, ``labels`` (value to name) and ``training``. The Decathlon stores all
channels of a case in one file, ``imagesTr/CASE.nii.gz``; nnU-Net v1 in one file each, ``imagesTr/CASE_0000.nii.gz``.
"""

from __future__ import annotations

import re
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from framework.data import nifti
from framework.data.raw_dataset import cases_in_folder, read_channel_names
from framework.errors import CaseError, DatasetError, FoldwiseError
from framework.files import read_json

FILE_ENDING = ".nii.gz"
DECATHLON, NNUNET_V1 = "the Medical Segmentation Decathlon", "nnU-Net version 1"

_CHANNEL = re.compile(r"_\d{4}$")
_OLD_KEYS = ("modality", "labels", "training", "test", "tensorImageSize", "numTraining", "numTest")
_FOLDERS = ("imagesTr", "labelsTr", "imagesTs", "labelsTs", "imagesVal", "labelsVal")


@dataclass(frozen=True)
class OldDataset:
    """A dataset of an older layout whose listing is complete."""

    folder: Path
    layout: str
    dataset_json: dict[str, Any]
    """As today's layout wants it."""
    files: dict[str, tuple[Path, str, int]]
    """By path below the folder: file, folder to write into, and number of channels to split it into (0: copy)."""

    @property
    def default_name(self) -> str:
        """``DatasetXXX_Name`` for a folder ``TaskXXX_Name``.

        Raises:
            DatasetError: the folder has another name.
        """
        match = re.fullmatch(r"Task(\d{1,3})_(.+)", self.folder.name)
        if match is None:
            raise DatasetError(
                f"the folder {self.folder.name} is not called TaskXX_Name, so the new name is unknown. "
                "Give it as well: fw_convert INPUT DatasetXXX_Name."
            )
        return f"Dataset{int(match[1]):03d}_{match[2]}"


def open_old_dataset(folder: Path | str) -> OldDataset:
    """Recognise the layout of a dataset and list what has to be done with its files.

    Raises:
        DatasetError: it is of neither layout, or incomplete; lists what is missing.
    """
    folder = Path(folder).resolve()
    source = folder / "dataset.json"
    if not folder.is_dir():
        raise DatasetError(f"{folder} is not a folder. Give the folder TaskXX_Name that holds dataset.json.")
    old = read_json(source, error_type=DatasetError)
    if not isinstance(old, dict):
        raise DatasetError(f"{source}: expected an object {{...}}, found {type(old).__name__}.")
    if "channel_names" in old or "file_ending" in old:
        raise DatasetError(
            f"{folder} has today's layout already (its dataset.json has channel_names and file_ending). Move it to "
            "the folder of raw datasets (FW_RAW)."
        )
    num_channels = len(read_channel_names(old))
    images, labels = _nifti_files(folder / "imagesTr"), _nifti_files(folder / "labelsTr")
    if not images:
        raise DatasetError(f"{folder / 'imagesTr'} holds no *{FILE_ENDING} file, so there is nothing to convert.")
    layout = _layout(images, labels, num_channels, folder)
    listed = {name: _nifti_files(folder / name) for name in _FOLDERS if (folder / name).is_dir()}
    files = {
        f"{name}/{file.name}": (file, name, num_channels if layout == DECATHLON and name.startswith("images") else 0)
        for name, contents in listed.items()
        for file in contents.values()
    }
    return OldDataset(folder, layout, _new_dataset_json(old, source, len(labels)), files)


def convert_file(source: Path, target: Path, num_channels: int) -> None:
    """Bring one file to its new place.

    Args:
        target: the folder for it.
        num_channels: of a scan that holds all channels, which is split; 0 for a file that is copied.

    Raises:
        CaseError: the scan does not hold that many channels, or is damaged.
    """
    case = source.name.removesuffix(FILE_ENDING)
    try:
        if not num_channels:
            shutil.copyfile(source, target / source.name)
            return
        header = nifti.refuse_truncated(source)
        if header is None:
            raise FoldwiseError(f"{source} is no NIfTI file.")
        found = header.num_volumes
        if found != num_channels:
            raise FoldwiseError(f"{source} holds {found} channel(s), but dataset.json names {num_channels}.")
        if len(header.shape) <= 3:
            shutil.copyfile(source, target / f"{case}_0000{FILE_ENDING}")
            return
        for channel, content in enumerate(nifti.split_volumes(source, header)):
            (target / f"{case}_{channel:04d}{FILE_ENDING}").write_bytes(content)
    except CaseError:
        raise
    except FoldwiseError as error:
        raise CaseError(case, str(error)) from error


def _nifti_files(folder: Path) -> dict[str, Path]:
    """Files by case or image name, sorted; without hidden ones, such as the "._" twins that macOS makes."""
    if not folder.is_dir():
        raise DatasetError(f"the folder {folder} does not exist.")
    names = sorted(path.name for path in folder.iterdir() if path.is_file())
    return {
        name.removesuffix(FILE_ENDING): folder / name
        for name in names
        if name.endswith(FILE_ENDING) and not name.startswith((".", "_"))
    }


def _layout(images: Mapping[str, Path], labels: Mapping[str, Path], num_channels: int, folder: Path) -> str:
    """Which layout it is; DatasetError if cases lack their label image or the reverse."""
    by_channel = {_CHANNEL.sub("", name) for name in images}
    # A Decathlon scan has the name of its label image; with channel numbers only version 1 explains the names.
    layout = DECATHLON if len(labels.keys() & images.keys()) >= len(labels.keys() & by_channel) else NNUNET_V1
    if layout == NNUNET_V1:
        cases_in_folder(folder / "imagesTr", FILE_ENDING, num_channels)
    cases = set(images) if layout == DECATHLON else by_channel
    problems = [
        f"{folder.name}: {len(names)} {what}: {', '.join(sorted(names)[:8])}{' ...' if len(names) > 8 else ''}."
        for names, what in (
            (cases - labels.keys(), "scan(s) in imagesTr have no label image in labelsTr"),
            (labels.keys() - cases, "label image(s) in labelsTr have no scan in imagesTr"),
        )
        if names
    ]
    if problems:
        raise DatasetError("\n".join([*problems, f"This was read as the layout of {layout}."]))
    return layout


def _new_dataset_json(old: Mapping[str, Any], source: Path, num_training: int) -> dict[str, Any]:
    labels = old.get("labels")
    form = 'expected value and name of each label, such as {"0": "background", "1": "liver"}'
    if not isinstance(labels, Mapping) or not labels:
        raise DatasetError(f"{source}: 'labels' is {labels!r}, {form}.")
    if not all(str(value).isdigit() and isinstance(name, str) for value, name in labels.items()):
        raise DatasetError(f"{source}: 'labels' is {dict(labels)}, {form}.")
    values = {int(value): name for value, name in labels.items()}
    # Whatever 0 is called in the old file, today's layout calls it background.
    names = {0: "background"} | {value: values[value] for value in sorted(values) if value}
    if len(set(names.values())) != len(names):
        raise DatasetError(
            f"{source}: two labels have the same name: {', '.join(f'{v}={n}' for v, n in names.items())}. Rename one."
        )
    return {
        "channel_names": {str(index): name for index, name in enumerate(read_channel_names(old))},
        "labels": {name: value for value, name in names.items()},
        "numTraining": num_training,
        "file_ending": FILE_ENDING,
        **{key: value for key, value in old.items() if key not in _OLD_KEYS},
    }
