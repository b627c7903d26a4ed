"""A folder of predictions: label maps, perhaps probabilities, and the dataset that they belong to."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from framework.data.case_listing import file_names
from framework.data.image_io import (
    READERS,
    Properties,
    check_label_values,
    files_to_copy,
    geometry_differences,
    read_segmentation,
    reader_name_for,
)
from framework.data.labels import Labels
from framework.errors import CaseError, DatasetError, FoldwiseError
from framework.evaluation.scored_labels import find_dataset_json
from framework.files import copy_if_changed, read_json_object, write_json

NUM_NAMED = 8
"""How many cases a message names before it only counts the rest."""


@dataclass(frozen=True)
class PredictionFolder:
    """Label maps ``CASE.EXT``, probabilities ``CASE.npz``, and the dataset.json and plans that they came from."""

    folder: Path
    dataset_json: dict[str, Any]
    plans_json: dict[str, Any] | None
    labels: Labels

    @classmethod
    def open(
        cls, folder: Path | str, dataset_json: Path | str | None = None, plans_json: Path | str | None = None
    ) -> PredictionFolder:
        """Read dataset.json and plans.json: in the folder, around it (MODEL/fold_0/validation), or as they are given.

        Raises:
            DatasetError: there is no such folder, or no dataset.json that can be used.
        """
        folder = Path(folder)
        if not folder.is_dir():
            raise DatasetError(f"{folder} is not a folder. Give the folder that holds the predictions.")
        file = Path(dataset_json) if dataset_json is not None else find_dataset_json(folder, folder)
        if file is None or not file.is_file():
            place = file or folder / "dataset.json"
            raise DatasetError(
                f"{place} does not exist, so nothing says what the labels in {folder} mean. Pass the dataset.json of "
                "the model folder with -dataset_json."
            )
        content = read_json_object(file, error_type=DatasetError)
        plans = Path(plans_json) if plans_json is not None else file.with_name("plans.json")
        has_plans = plans_json is not None or plans.is_file()
        return cls(
            folder,
            content,
            read_json_object(plans, error_type=DatasetError) if has_plans else None,
            Labels.from_dataset_json(content, file),
        )

    @property
    def file_ending(self) -> str:
        return str(self.dataset_json.get("file_ending", ".nii.gz"))

    @property
    def reader(self) -> str:
        """Name of the reader of label maps."""
        named = (self.plans_json or {}).get("image_reader_writer")
        return str(named) if named in READERS else reader_name_for(self.file_ending, self.dataset_json)

    def label_maps(self) -> dict[str, Path]:
        """By case, sorted."""
        return self._files(self.file_ending)

    def probabilities(self) -> dict[str, Path]:
        """By case, sorted."""
        return self._files(".npz")

    def read(self, case: str, file: Path | None = None) -> tuple[np.ndarray, Properties]:
        """A label map (X, Y, Z) of this folder, or another one of the same dataset, and its properties.

        Raises:
            FoldwiseError: the file cannot be read, or has labels that dataset.json does not name.
        """
        path = file or self.folder / f"{case}{self.file_ending}"
        label_map, properties = read_segmentation(path, self.reader)
        check_label_values(label_map, self.labels, path)
        return label_map[0], properties

    def write_descriptions(self, target: Path) -> None:
        """dataset.json and plans.json, so that the folder `target`, made where it is missing, can be used by itself.

        Raises:
            FoldwiseError: nothing can be written there.
        """
        try:
            target.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise FoldwiseError(
                f"{target} could not be written: it cannot be made a folder ({error.strerror}). Give another place."
            ) from error
        write_json(target / "dataset.json", self.dataset_json)
        if self.plans_json is not None:
            write_json(target / "plans.json", self.plans_json)

    def copy_label_map(self, source: Path, target: Path) -> None:
        """A label map as it is, with what belongs to it."""
        for file, copy in reversed(files_to_copy(source, target, self.reader)):
            copy_if_changed(file, copy)

    def _files(self, ending: str) -> dict[str, Path]:
        names = [name for name in file_names(self.folder) if name.endswith(ending)]
        return {name.removesuffix(ending): self.folder / name for name in names}


def read_pair(folder: PredictionFolder, case: str, prediction: Path, reference: Path) -> tuple[np.ndarray, np.ndarray]:
    """Prediction and reference, each (X, Y, Z).

    Raises:
        CaseError: they do not lie on one grid.
    """
    predicted, properties = folder.read(case, prediction)
    wanted, own = folder.read(case, reference)
    if predicted.shape != wanted.shape:
        differences = geometry_differences(wanted.shape, own, predicted.shape, properties)
        raise CaseError(
            case,
            f"{prediction} does not lie on the grid of {reference}: {'; '.join(differences)}. "
            "Predict on the images that the references were drawn on.",
        )
    return predicted, wanted


def check_same_dataset(folders: Sequence[PredictionFolder]) -> None:
    """DatasetError if the label maps of the folders do not mean the same."""
    for other in folders[1:]:
        for what, one, two in (
            ("labels", folders[0].labels.names, other.labels.names),
            ("regions_class_order", folders[0].labels.regions_class_order, other.labels.regions_class_order),
            ("file_ending", folders[0].file_ending, other.file_ending),
        ):
            # Regions are heads in the order of the file, so the order counts.
            if one != two or (isinstance(one, Mapping) and isinstance(two, Mapping) and list(one) != list(two)):
                raise DatasetError(
                    f"{folders[0].folder} and {other.folder} belong to different datasets: {what} is {one} in the "
                    f"dataset.json of the first and {two} in that of the second. Give predictions of one dataset."
                )


def named(names: Sequence[str]) -> str:
    """The first few names, and how many more there are."""
    more = f" and {len(names) - NUM_NAMED} more" if len(names) > NUM_NAMED else ""
    return ", ".join(names[:NUM_NAMED]) + more
