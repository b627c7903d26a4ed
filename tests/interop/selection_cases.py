"""A small cross-validation made up from a seed, in nnU-Net's layout: references, predictions, probabilities, scores."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from framework.data.image_io import write_segmentation
from framework.data.labels import Labels
from framework.data.restricted_pickle import dumps
from framework.data.splits import create_splits
from framework.evaluation.summary import write_summary
from framework.files import write_bytes, write_json
from tests.builders import summary_of_folders

TRAINER, PLANS = "nnUNetTrainer", "nnUNetPlans"
GEOMETRY: dict[str, Any] = {
    "spacing": [2.0, 1.0, 0.5],
    "sitk_stuff": {
        "spacing": (0.5, 1.0, 2.0),
        "origin": (1.0, -2.0, 3.0),
        "direction": (1.0, 0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0, 1.0),
    },
}


@dataclass(frozen=True)
class Model:
    """How well a configuration predicts."""

    noise: float
    """Standard deviation of smooth noise on the logits; the signal is about 1."""
    islands: int
    """Wrong blobs a case, away from the structure."""
    island_labels: tuple[int, ...] = (1,)


@dataclass(frozen=True)
class CrossValidation:
    """A dataset and how its configurations did."""

    labels: dict[str, Any]
    models: dict[str, Model]
    regions_class_order: tuple[int, ...] | None = None
    num_cases: int = 10
    shape: tuple[int, int, int] = (14, 20, 24)
    twins: bool = False
    """Whether each reference has a second, smaller structure elsewhere, which must not be removed."""
    seed: int = 0
    name: str = "Dataset321_MadeUp"
    previous_stages: dict[str, str] = field(default_factory=dict)

    @property
    def dataset_json(self) -> dict[str, Any]:
        order = {"regions_class_order": list(self.regions_class_order)} if self.regions_class_order else {}
        return {
            "channel_names": {"0": "MR"},
            "labels": self.labels,
            **order,
            "numTraining": self.num_cases,
            "file_ending": ".nii.gz",
        }

    @property
    def plans_json(self) -> dict[str, Any]:
        network = {"network_class_name": "none", "arch_kwargs": {}, "_kw_requires_import": []}
        return {
            "dataset_name": self.name,
            "plans_name": PLANS,
            "image_reader_writer": "SimpleITKIO",
            "label_manager": "LabelManager",
            "transpose_forward": [0, 1, 2],
            "transpose_backward": [0, 1, 2],
            "configurations": {
                name: {
                    "data_identifier": f"{PLANS}_{name}",
                    "architecture": network,
                    "patch_size": [16, 16] if name == "2d" else [16, 16, 16],
                    "spacing": [1.0, 0.5] if name == "2d" else [2.0, 1.0, 0.5],
                    **({"previous_stage": self.previous_stages[name]} if name in self.previous_stages else {}),
                }
                for name in {**self.models, **dict.fromkeys(self.previous_stages.values())}
            },
        }

    @property
    def case_names(self) -> list[str]:
        return [f"case_{number:02d}" for number in range(self.num_cases)]

    def write(self, root: Path, *, probabilities: bool = True) -> None:
        """Write ``raw``, ``preprocessed`` and ``results`` below `root`."""
        labels = Labels.from_dataset_json(self.dataset_json)
        splits = create_splits(self.case_names)
        preprocessed = root / "preprocessed" / self.name
        for folder in (root / "raw" / self.name, preprocessed):
            write_json(folder / "dataset.json", self.dataset_json)
        write_json(preprocessed / f"{PLANS}.json", self.plans_json)
        write_json(preprocessed / "splits_final.json", splits)
        folds = {case: fold for fold, split in enumerate(splits) for case in split["val"]}
        for name in self.models:
            folder = self.model_folder(root, name)
            write_json(folder / "dataset.json", self.dataset_json)
            write_json(folder / "plans.json", self.plans_json)
        for number, case in enumerate(self.case_names):
            random = np.random.RandomState(1000 * self.seed + number)
            truth = _structure(self.shape, len(labels.all_labels), random)
            if self.twins:
                truth[1:4, 1:6, -6:-1] = 1
            reference = truth.copy()
            if labels.ignore_label is not None:
                reference[:, :, : self.shape[2] // 5] = labels.ignore_label
            for folder in (root / "raw" / self.name / "labelsTr", preprocessed / "gt_segmentations"):
                write_segmentation(reference, folder / f"{case}.nii.gz", GEOMETRY)
            for name, model in self.models.items():
                target = self.model_folder(root, name) / f"fold_{folds[case]}" / "validation"
                heads = _probabilities(truth, model, labels, random)
                segmentation = labels.segmentation_from_probabilities(heads)
                write_segmentation(segmentation, target / f"{case}.nii.gz", GEOMETRY)
                if probabilities:
                    np.savez_compressed(target / f"{case}.npz", probabilities=heads)
                    write_bytes(target / f"{case}.pkl", dumps(GEOMETRY))
        for name in self.models:
            for fold in range(len(splits)):
                folder = self.model_folder(root, name) / f"fold_{fold}" / "validation"
                summary = summary_of_folders(
                    preprocessed / "gt_segmentations",
                    folder,
                    labels.foreground_keys,
                    ignore_label=labels.ignore_label,
                )
                write_summary(summary, folder / "summary.json")

    def model_folder(self, root: Path, configuration: str) -> Path:
        return root / "results" / self.name / f"{TRAINER}__{PLANS}__{configuration}"


def _structure(shape: tuple[int, int, int], num_labels: int, random: np.random.RandomState) -> np.ndarray:
    """Nested ellipsoids, one for each foreground label, around a random centre; background 0."""
    centre = [size / 2 + random.uniform(-1.5, 1.5) for size in shape]
    radius = [size * 0.36 for size in shape]
    axes = np.ogrid[tuple(slice(size) for size in shape)]
    distance = sum(((axis - middle) / length) ** 2 for axis, middle, length in zip(axes, centre, radius))
    limits = np.linspace(0, 1, num_labels)[1:] ** 1.2
    return (num_labels - 1 - np.digitize(np.sqrt(distance), limits)).astype(np.int16)


def _probabilities(truth: np.ndarray, model: Model, labels: Labels, random: np.random.RandomState) -> np.ndarray:
    """(K, X, Y, Z) float32: the truth with islands and smooth noise."""
    from scipy.ndimage import gaussian_filter

    wrong = truth.copy()
    for _ in range(model.islands):
        corner = [random.randint(0, max(1, size // 5)) + random.choice([0, size - size // 4]) for size in truth.shape]
        place = tuple(slice(low, low + random.randint(1, 4)) for low in corner)
        wrong[place] = model.island_labels[random.randint(len(model.island_labels))]
    keys = labels.foreground_keys if labels.has_regions else labels.all_labels
    logits = np.stack([np.isin(wrong, key) * 2.0 - 1 for key in keys])
    noise = random.standard_normal(logits.shape)
    noise = gaussian_filter(noise, (0, 0.8, 0.8, 0.8))
    logits = 3 * (logits + model.noise * noise / noise.std())
    if labels.has_regions:
        return (1 / (1 + np.exp(-logits))).astype(np.float32)
    exponentials = np.exp(logits - logits.max(0))
    return (exponentials / exponentials.sum(0)).astype(np.float32)


PLAIN = CrossValidation(
    {"background": 0, "outer": 1, "middle": 2, "inner": 3},
    {"2d": Model(0.6, 1), "3d_fullres": Model(0.55, 3)},
)
REGIONS = CrossValidation(
    {"background": 0, "whole": [1, 2, 3], "core": [2, 3], "inner": 3},
    {"2d": Model(0.55, 2, (2, 3)), "3d_fullres": Model(0.3, 4, (1, 3))},
    regions_class_order=(1, 2, 3),
    seed=1,
)
IGNORE = CrossValidation(
    {"background": 0, "outer": 1, "inner": 2, "ignore": 3},
    {"2d": Model(0.5, 0), "3d_fullres": Model(0.8, 4, (1, 2))},
    seed=2,
)
CASCADE = CrossValidation(
    {"background": 0, "outer": 1, "inner": 2},
    {"3d_lowres": Model(1.1, 2), "3d_cascade_fullres": Model(0.3, 2)},
    seed=3,
    previous_stages={"3d_cascade_fullres": "3d_lowres"},
)
TWINS = CrossValidation(
    {"background": 0, "outer": 1, "middle": 2, "inner": 3},
    {"2d": Model(0.5, 4, (2, 3)), "3d_fullres": Model(0.55, 3, (1, 3))},
    twins=True,
    seed=4,
)
OVERLAPPING = CrossValidation(
    {"background": 0, "one": [1, 2], "other": [2, 3], "both": 2, "ignore": 4},
    {"2d": Model(0.5, 3, (1, 2, 3)), "3d_fullres": Model(0.55, 3, (3,)), "3d_lowres": Model(0.6, 1, (2,))},
    regions_class_order=(1, 3, 2),
    twins=True,
    seed=5,
)
ONE_LABEL = CrossValidation(
    {"background": 0, "organ": 1}, {"2d": Model(0.7, 3), "3d_fullres": Model(0.8, 3)}, num_cases=6, seed=6
)
CROSS_VALIDATIONS = {
    "plain": PLAIN,
    "regions": REGIONS,
    "ignore": IGNORE,
    "cascade": CASCADE,
    "twins": TWINS,
    "overlapping": OVERLAPPING,
    "one label": ONE_LABEL,
}
