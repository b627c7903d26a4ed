"""Where predictions go, and what is written there beside them."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from framework.data.case_listing import RawCase
from framework.errors import FoldwiseError
from framework.files import TEMPORARY_NAME, read_json, refuse_unwritable_folder, write_json

ARGUMENTS_FILE = "predict_from_raw_data_args.json"
"""nnU-Net's name for the arguments of a prediction; ours stand under the key ``foldwise`` in it."""


@dataclass(frozen=True)
class PredictionTarget:
    """A folder that receives CASE.EXT for every case, or one file for the only case.

    Attributes:
        folder: where everything is written.
        file_ending: of label images.
        name_of_single: name of the label image without its ending, if one file was asked for.
    """

    folder: Path
    file_ending: str
    name_of_single: str | None = None

    @classmethod
    def at(cls, path: Path | str, file_ending: str) -> PredictionTarget:
        """`path` is a file if it ends as label images do, else a folder."""
        path = Path(path).expanduser().absolute()
        if path.name.endswith(file_ending) and path.name != file_ending and not path.is_dir():
            return cls(path.parent, file_ending, path.name.removesuffix(file_ending))
        if path.is_file():
            raise FoldwiseError(
                f"{path} is a file. Give a folder, or for a single case a file name that ends in {file_ending}."
            )
        return cls(path, file_ending)

    def output(self, case: str) -> Path:
        """Path of what is written for a case, without the ending."""
        return self.folder / (self.name_of_single or case)

    def label_file(self, case: str) -> Path:
        output = self.output(case)
        return output.with_name(output.name + self.file_ending)

    def picture_file(self, case: str) -> Path:
        """In a folder of its own: where label images are PNG files too, it would replace them."""
        return self.folder / "pictures" / f"{self.output(case).name}.png"

    def check(self, cases: Mapping[str, RawCase], source: Any) -> None:
        """Make the folder, and make sure that nothing that is read would be replaced.

        Raises:
            FoldwiseError: it is the input folder, cannot be written, or has one file name for several cases.
        """
        if isinstance(source, (str, Path)) and Path(source).is_dir() and _same(Path(source), self.folder):
            raise FoldwiseError(
                f"{self.folder} is the folder of the images. Give another one for the predictions, so that neither is "
                "ever taken for the other."
            )
        if self.name_of_single is not None and len(cases) > 1:
            raise FoldwiseError(
                f"{self.folder / self.name_of_single}{self.file_ending} is one file, but there are {len(cases)} cases "
                f"({', '.join(list(cases)[:3])}, ...). Give a folder."
            )
        images = {image.resolve() for case in cases.values() for image in case.images}
        for case in cases:
            if self.label_file(case).resolve() in images:
                raise FoldwiseError(
                    f"the prediction of '{case}' would replace the image {self.label_file(case)}. Give another folder."
                )
        refuse_unwritable_folder(self.folder, "Give another output folder.")

    def write_records(
        self, dataset_json: Mapping[str, Any], plans: Mapping[str, Any], arguments: Mapping[str, Any]
    ) -> None:
        """Write what nnU-Net's ensembling and post-processing look for beside predictions; not for a single file."""
        if self.name_of_single is not None:
            return
        write_json(self.folder / "dataset.json", dataset_json)
        write_json(self.folder / "plans.json", plans)
        write_json(self.folder / ARGUMENTS_FILE, arguments)

    def remove_leftovers(self, cases: Iterable[str]) -> None:
        """Remove the unfinished files that a killed run has left of these cases; others may be at work on theirs."""
        endings = (self.file_ending, ".npz", ".pkl")
        ours = {self.output(case).name + ending for case in cases for ending in endings}
        with os.scandir(self.folder) as entries:
            for entry in entries:
                match = TEMPORARY_NAME.fullmatch(entry.name)
                if match and match[1] + match[2] in ours:
                    Path(entry.path).unlink(missing_ok=True)

    def check_same_model(self, model: Mapping[str, Any]) -> None:
        """FoldwiseError if the folder holds predictions that another model, or this one otherwise used, has made."""
        path = self.folder / ARGUMENTS_FILE
        if self.name_of_single is not None or not path.is_file():
            return
        earlier = read_json(path)
        before = earlier.get("foldwise", {}).get("model") if isinstance(earlier, dict) else None
        if not isinstance(before, dict):
            return  # nnU-Net's, which does not say
        differing = [
            f"{key} {before.get(key)!r}, now {value!r}" for key, value in model.items() if before.get(key) != value
        ]
        if differing:
            raise FoldwiseError(
                f"{self.folder} holds predictions that were made otherwise: {'; '.join(differing)}. Give another "
                "output folder, or predict anew without --continue_prediction."
            )


def _same(one: Path, other: Path) -> bool:
    return one.expanduser().resolve() == other.resolve()
