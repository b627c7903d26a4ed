"""Which labels and regions are scored, what they are called, and where that was found."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from framework.data.labels import LabelKey, Labels
from framework.data.value_counts import count_values
from framework.errors import CaseError, DatasetError, FoldwiseError, UnknownNameError
from framework.evaluation.metrics_table import label_text
from framework.files import read_json_object


@dataclass(frozen=True)
class ScoredLabels:
    """What an evaluation scores.

    Attributes:
        names: of each label or region, in the order of tables.
        ignore_label: voxels where the reference has this value count nowhere; None for none.
        allowed_values: that label images may hold; None if any value may occur.
        source: where this was found, in words.
        file_ending: of label images, where dataset.json says so.
        reader: name of the image reader, where dataset.json says so.
    """

    names: Mapping[LabelKey, str]
    ignore_label: int | None = None
    allowed_values: frozenset[int] | None = None
    source: str = ""
    file_ending: str | None = None
    reader: str | None = None

    @property
    def keys(self) -> tuple[LabelKey, ...]:
        return tuple(self.names)

    def check_values(self, labels: np.ndarray, path: Path, case: str) -> None:
        """CaseError if a label image holds a value that dataset.json does not name."""
        if self.allowed_values is None:
            return
        unknown = {value: number for value, number in count_values(labels).items() if value not in self.allowed_values}
        if unknown:
            found = ", ".join(f"{value} ({number} voxels)" for value, number in list(unknown.items())[:8])
            known = ", ".join(str(value) for value in sorted(self.allowed_values))
            raise CaseError(
                case,
                f"{path} has label values that are not in {self.source}: {found}; known are {known}. "
                "Was it made for another dataset? To score only some labels, name them with -l.",
            )


def labels_of_dataset(path: Path) -> ScoredLabels:
    """The foreground labels, or the regions, of a dataset.json."""
    dataset_json = read_json_object(path, error_type=DatasetError)
    labels = Labels.from_dataset_json(dataset_json, path)
    ending, reader = dataset_json.get("file_ending"), dataset_json.get("overwrite_image_reader_writer")
    return ScoredLabels(
        names=dict(zip(labels.foreground_keys, labels.foreground_names)),
        ignore_label=labels.ignore_label,
        allowed_values=labels.allowed_values,
        source=str(path),
        file_ending=ending if isinstance(ending, str) else None,
        reader=reader if isinstance(reader, str) and reader != "None" else None,
    )


def given_labels(values: Sequence[int], ignore_label: int | None = None) -> ScoredLabels:
    """Labels named by the user; whatever else the images hold is background."""
    if ignore_label in values:
        raise FoldwiseError(
            f"label {ignore_label} is both to be scored (-l) and to be ignored (-il); drop one of them."
        )
    names: dict[LabelKey, str] = dict.fromkeys(values, "")
    return ScoredLabels(names, ignore_label, source="-l")


def find_dataset_json(reference: Path, prediction: Path) -> Path | None:
    """dataset.json with the predictions or up to two folders above (MODEL/fold_0/validation), or by the references."""
    for folder in (prediction, *list(prediction.resolve().parents)[:2], reference, reference.resolve().parent):
        if (folder / "dataset.json").is_file():
            return folder / "dataset.json"
    return None


def key_named(text: str, labels: ScoredLabels) -> LabelKey:
    """The label or region that a user means: by its name, its number, or ``1+2``.

    Raises:
        UnknownNameError: there is none; lists those there are.
    """
    known: dict[str, LabelKey] = {label_text(key): key for key in labels.keys}
    known |= {name: key for key, name in labels.names.items() if name}
    if text not in known:
        raise UnknownNameError("label", text, known, labels.source)
    return known[text]
