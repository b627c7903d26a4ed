"""Small scans made up from a seed, with plans, that take every turn that preprocessing knows."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from framework.data.labels import Labels
from framework.plans import Plans
from framework.preprocessing.preprocess import preprocess_array
from framework.preprocessing.resampling import resample

ZSCORE, CT, NONE, RESCALE, RGB = (
    "ZScoreNormalization",
    "CTNormalization",
    "NoNormalization",
    "RescaleTo01Normalization",
    "RGBTo01Normalization",
)
_SAMPLES = 60
CT_PROPERTIES = {"mean": 62.5, "std": 41.25, "percentile_00_5": -310.0, "percentile_99_5": 268.0}


@dataclass(frozen=True)
class PreprocessingCase:
    """A scan and how it is to be preprocessed. Spacings in mm; `target` in the order of the plans."""

    shape: tuple[int, int, int]
    spacing: tuple[float, float, float]
    target: tuple[float, ...]
    schemes: tuple[str, ...] = (ZSCORE,)
    masked: tuple[bool, ...] = (False,)
    forward: tuple[int, int, int] = (0, 1, 2)
    num_labels: int = 3
    """Background included."""
    labels: dict[str, Any] | None = None
    """As in dataset.json, if not plain labels."""
    content: str = "rim"
    """``rim`` (zeros around), ``full``, ``holes`` (zeros inside too), ``nothing`` or ``constant``."""
    segmentation_order: int = 1
    separate_z: bool | None = None
    """``force_separate_z`` of the plans."""
    seed: int = 0

    def arrays(self) -> tuple[np.ndarray, np.ndarray]:
        """Image (C, X, Y, Z) float32 and labels (1, X, Y, Z) int16."""
        random = np.random.RandomState(self.seed)
        image = np.stack([_values(scheme, self.shape, random) for scheme in self.schemes])
        field_of_labels = _waves(self.shape, random)
        edges = np.quantile(field_of_labels, np.linspace(0.4, 1, self.num_labels)[:-1])
        labels = np.digitize(field_of_labels, edges).astype(np.int16)
        if self.content == "constant":
            image[:] = 7
        elif self.content != "full":
            image *= _inside(self.shape, self.content)
        return image.astype(np.float32), labels[None]

    @property
    def dataset_json(self) -> dict[str, Any]:
        """What preprocessing reads of it."""
        plain = {"background": 0, **{f"part {value}": value for value in range(1, self.num_labels)}}
        return {
            "channel_names": {str(channel): "any" for channel in range(len(self.schemes))},
            "labels": self.labels or plain,
            "file_ending": ".nii.gz",
            **({"regions_class_order": list(range(1, self.num_labels))} if self.labels else {}),
        }

    @property
    def plans(self) -> dict[str, Any]:
        """Plans with this configuration, called ``some``."""
        linear = {"order": 1, "order_z": 0, "force_separate_z": self.separate_z}
        name = "resample_data_or_seg_to_shape"
        return {
            "dataset_name": "Dataset999_Random",
            "plans_name": "some",
            "image_reader_writer": "SimpleITKIO",
            "label_manager": "LabelManager",
            "transpose_forward": list(self.forward),
            "transpose_backward": [self.forward.index(axis) for axis in range(3)],
            "foreground_intensity_properties_per_channel": {
                str(channel): CT_PROPERTIES for channel in range(len(self.schemes))
            },
            "configurations": {
                "some": {
                    "data_identifier": "some",
                    "architecture": {"network_class_name": "none", "arch_kwargs": {}, "_kw_requires_import": []},
                    "patch_size": [16] * len(self.target),
                    "spacing": list(self.target),
                    "normalization_schemes": list(self.schemes),
                    "use_mask_for_norm": list(self.masked),
                    "resampling_fn_data": name,
                    "resampling_fn_seg": name,
                    "resampling_fn_probabilities": name,
                    "resampling_fn_data_kwargs": {"is_seg": False, **linear, "order": 3},
                    "resampling_fn_seg_kwargs": {"is_seg": True, **linear, "order": self.segmentation_order},
                    "resampling_fn_probabilities_kwargs": {"is_seg": False, **linear},
                }
            },
        }


CASES = {
    "finer": PreprocessingCase((20, 24, 22), (1.5, 1.2, 1.4), (1.0, 0.9, 0.8)),
    "coarser": PreprocessingCase((40, 36, 38), (0.5, 0.6, 0.5), (1.3, 1.1, 1.2), num_labels=6),
    "ct": PreprocessingCase((24, 30, 28), (2.0, 0.9, 0.9), (1.5, 0.8, 0.8), (CT,), content="full", num_labels=12),
    "thick slices": PreprocessingCase((10, 40, 36), (5.0, 1.0, 1.0), (2.5, 0.8, 0.8)),
    "thick slices made thicker": PreprocessingCase((14, 40, 36), (5.0, 1.0, 1.1), (9.0, 1.3, 1.2)),
    "thick slices only in the target": PreprocessingCase((30, 28, 26), (1.0, 1.0, 1.1), (4.5, 0.9, 0.9)),
    "thick slices last in the file": PreprocessingCase(
        (32, 30, 12), (0.9, 0.9, 6.0), (5.0, 1.2, 1.1), forward=(2, 0, 1)
    ),
    "thick slices that are not first": PreprocessingCase((32, 9, 30), (0.9, 6.0, 0.8), (1.0, 5.0, 1.0)),
    "thick slices, in 3D by request": PreprocessingCase(
        (10, 28, 26), (5.0, 1.0, 1.0), (2.5, 0.8, 0.8), separate_z=False
    ),
    "slices one by one by request": PreprocessingCase((16, 28, 26), (1.5, 1.0, 1.0), (1.0, 0.8, 0.8), separate_z=True),
    "coarse in two axes": PreprocessingCase((12, 14, 50), (4.0, 4.0, 1.0), (3.0, 3.0, 1.0)),
    "within the mask": PreprocessingCase((26, 24, 28), (1.2, 1.0, 1.0), (1.0, 1.0, 0.9), (ZSCORE,) * 2, (True,) * 2),
    "holes within the mask": PreprocessingCase(
        (26, 24, 28), (1.2, 1.0, 1.0), (1.0, 1.2, 1.3), masked=(True,), content="holes"
    ),
    "four channels": PreprocessingCase(
        (20, 26, 24), (1.0, 1.3, 1.1), (1.2, 1.0, 1.0), (CT, ZSCORE, ZSCORE, RESCALE), (False, True, False, False)
    ),
    "raw values": PreprocessingCase((20, 26, 24), (1.0, 1.3, 1.1), (1.2, 1.0, 1.0), (NONE, RESCALE), (False,) * 2),
    "photograph": PreprocessingCase(
        (1, 70, 64), (999.0, 1.0, 1.0), (0.8, 1.2), (RGB,) * 3, (False,) * 3, content="full"
    ),
    "slices of a volume": PreprocessingCase((12, 40, 36), (3.0, 0.7, 0.8), (0.9, 0.9)),
    "regions": PreprocessingCase(
        (22, 24, 20),
        (1.0, 1.0, 1.2),
        (0.8, 0.9, 1.0),
        labels={"background": 0, "whole": [1, 2], "core": [2], "ignore": 3},
        num_labels=3,
    ),
    "many labels": PreprocessingCase((22, 24, 20), (1.0, 1.1, 1.2), (0.8, 0.9, 1.3), num_labels=200),
    "labels by nearest voxel": PreprocessingCase((22, 24, 20), (1.0, 1.1, 1.2), (0.8, 0.9, 1.6), segmentation_order=0),
    "single slices": PreprocessingCase((1, 9, 8), (2.0, 1.0, 1.0), (1.0, 0.7, 0.6), content="full"),
    "nothing": PreprocessingCase((12, 14, 13), (1.0, 1.0, 1.0), (0.8, 0.9, 1.2), content="nothing"),
    "constant": PreprocessingCase((12, 14, 13), (1.0, 1.0, 1.0), (0.8, 0.9, 1.2), content="constant"),
    "as it is": PreprocessingCase((12, 14, 13), (1.0, 1.0, 1.0), (1.0, 1.0, 1.0), masked=(True,)),
}

LARGE_CASES = {
    "large": PreprocessingCase(
        (110, 300, 320), (1.5, 0.8, 0.8), (1.2, 0.9, 0.9), (CT, ZSCORE), (False, True), num_labels=8, content="holes"
    ),
    "large, thick slices": PreprocessingCase((60, 400, 380), (5.0, 0.8, 0.8), (3.0, 0.7, 0.7), forward=(0, 2, 1)),
}
"""As large as real scans, for full comparisons only."""


@dataclass(frozen=True)
class Preprocessed:
    """What comes out."""

    image: np.ndarray
    """(C, X, Y, Z)"""
    labels: np.ndarray
    """(1, X, Y, Z)"""
    locations: np.ndarray
    """(N, 4), the ``class_locations`` of all labels in turn."""
    back: np.ndarray
    """(C, X, Y, Z), the image brought back to the shape before resampling in the way of probabilities."""


def preprocess(
    image: np.ndarray, labels: np.ndarray, spacing: Sequence[float], plans: dict[str, Any], dataset_json: dict[str, Any]
) -> Preprocessed:
    """By Foldwise, with the configuration ``some``."""
    loaded = Plans.from_dict(plans)
    configuration = loaded.configuration("some")
    names = Labels.from_dataset_json(dataset_json)
    data, target, properties = preprocess_array(image, labels, {"spacing": list(spacing)}, loaded, configuration, names)
    assert target is not None
    current = [spacing[axis] for axis in loaded.transpose_forward]
    planned = [*current[: 3 - len(configuration.spacing)], *configuration.spacing]
    back = resample(
        data,
        properties["shape_after_cropping_and_before_resampling"],
        planned,
        current,
        **configuration.resampling_fn_probabilities_kwargs,
    )
    locations = [np.reshape(rows, (-1, 4)) for rows in properties["class_locations"].values()]
    return Preprocessed(data, target, np.concatenate(locations), back)


def sampled(result: Preprocessed) -> dict[str, Any]:
    """A few values at places that follow from the shapes alone, and how often each label occurs."""

    def values(array: np.ndarray) -> list[float]:
        places = np.random.RandomState(0).randint(0, array.size, _SAMPLES)
        return [float(f"{value:.6g}") for value in array.ravel()[places]]

    numbers, counts = np.unique(result.labels, return_counts=True)
    return {
        "shape": list(result.image.shape),
        "image": values(result.image),
        "back": values(result.back),
        "labels": [int(value) for value in values(result.labels)],
        "num_locations": len(result.locations),
        "sum_of_locations": int(result.locations.sum()),
        "label_counts": dict(zip(map(str, numbers.tolist()), counts.tolist())),
    }


def _waves(shape: tuple[int, int, int], random: np.random.RandomState) -> np.ndarray:
    """A smooth field around 0: a few plane waves."""
    grid = np.stack(np.meshgrid(*(np.arange(length) for length in shape), indexing="ij"), -1)
    waves = [np.sin(grid @ random.uniform(-0.45, 0.45, 3) + random.uniform(0, 6)) for _ in range(6)]
    return np.sum(waves, 0)


def _values(scheme: str, shape: tuple[int, int, int], random: np.random.RandomState) -> np.ndarray:
    """An image with noise and intensities that the scheme expects."""
    values = _waves(shape, random) + random.normal(0, 0.3, shape)
    if scheme == RGB:
        return np.clip(128 + 40 * values, 0, 255).astype(np.uint8).astype(np.float64)
    if scheme == CT:
        return np.round(150 * values)
    return 300 + 50 * values


def _inside(shape: tuple[int, int, int], content: str) -> np.ndarray:
    """True in an ellipsoid off the centre; with enclosed holes and an open one, if asked for."""
    grid = np.stack(np.meshgrid(*(np.linspace(-1.1, 1, length) for length in shape), indexing="ij"), -1)
    if content == "nothing":
        return np.zeros(shape, bool)
    inside = (grid**2).sum(-1) < 0.95
    if content == "holes":
        inside &= (grid**2).sum(-1) > 0.1
        inside &= ~((np.abs(grid[..., 0]) < 0.15) & (grid[..., 1] > 0.5))
    return np.asarray(inside)
