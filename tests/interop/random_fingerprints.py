"""Datasets at random, as far as a planner sees them: from ordinary ones to such as hardly exist."""

from __future__ import annotations

import hashlib
import json
import random
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from framework.data.raw_dataset import RawDataset
from framework.preprocessing.planner import plan_dataset
from framework.preprocessing.presets import load_preset, with_rules
from tests.interop.nnunet_planner import DATASET

KINDS = ("ordinary", "anisotropic", "large", "slices", "mixed", "tiny", "extreme", "degenerate")
CHANNELS = ("CT", "ct", "MRI", "T2", "zscore", "noNorm", "rescale_to_0_1", "rgb_to_0_1")
PRESETS = {
    "default": "ExperimentPlanner",
    "resenc_m": "nnUNetPlannerResEncM",
    "resenc_l": "nnUNetPlannerResEncL",
    "resenc_xl": "nnUNetPlannerResEncXL",
}
"""Our presets, and the planners of nnU-Net that they stand for."""


@dataclass(frozen=True)
class Request:
    """One plan to be made."""

    preset: str
    memory_gb: float | None = None
    target_spacing: list[float] | None = None

    @property
    def rules(self) -> dict[str, Any]:
        """What it changes in the preset's ``planner`` block."""
        options = asdict(self)
        return {key: value for key, value in options.items() if key != "preset" and value is not None}

    def __str__(self) -> str:
        return " ".join([self.preset, *(f"{key}={value}" for key, value in self.rules.items())])


@dataclass(frozen=True)
class RandomDataset:
    """Fingerprint and dataset.json, and the plans that are asked for."""

    kind: str
    fingerprint: dict[str, Any]
    dataset_json: dict[str, Any]
    requests: list[Request] = field(default_factory=list)

    @property
    def raw(self) -> RawDataset:
        """As planning sees it: no files."""
        return RawDataset(
            folder=Path(DATASET),
            dataset_json=self.dataset_json,
            labels=None,  # type: ignore[arg-type]  # planning counts the names in dataset.json
            channel_names=tuple(self.dataset_json["channel_names"].values()),
            file_ending=".nii.gz",
            cases={},
        )


def draw_dataset(seed: int) -> RandomDataset:
    """The dataset of this seed; kinds take turns."""
    choose = random.Random(seed)
    kind = KINDS[seed % len(KINDS)]
    typical_spacing, typical_shape = _geometry(kind, choose)
    variation = choose.choice([0.0, 0.1, 0.4]) if kind != "mixed" else 0.7
    spacings, shapes = [], []
    for _ in range(choose.randint(1, 7)):
        factors = [choose.uniform(1 - variation, 1 + variation) for _ in range(6)]
        is_2d = kind == "slices"
        spacings.append(
            [length if is_2d else round(length * factor, 5) for length, factor in zip(typical_spacing, factors)]
        )
        shapes.append([max(1, round(length * factor)) for length, factor in zip(typical_shape, factors[3:])])
        if is_2d:
            shapes[-1][0] = 1
    num_channels = choose.randint(1, 4)
    fingerprint = {
        "spacings": spacings,
        "shapes_after_crop": shapes,
        "median_relative_size_after_cropping": choose.choice([1.0, 0.75, round(choose.uniform(0.05, 1), 4)]),
        "foreground_intensity_properties_per_channel": {
            str(channel): {"mean": 1.5 * channel, "std": 1.0} for channel in range(num_channels)
        },
    }
    dataset_json = {
        "channel_names": {str(channel): choose.choice(CHANNELS) for channel in range(num_channels)},
        "labels": _labels(choose),
        "numTraining": choose.choice([len(spacings), choose.randint(1, 900)]),
        "file_ending": ".nii.gz",
        "overwrite_image_reader_writer": "SimpleITKIO",
        "dataset": {"case": {"images": ["imagesTr/case_0000.nii.gz"], "label": "labelsTr/case.nii.gz"}},
    }
    requests = [
        *(Request(preset) for preset in PRESETS),
        Request(choose.choice(list(PRESETS)), memory_gb=choose.choice([2.0, 4.0, 6.5, 11.0, 16.0, 32.0, 80.0])),
        Request(
            choose.choice(list(PRESETS)),
            memory_gb=choose.choice([None, 12.0]),
            target_spacing=[round(length * choose.uniform(0.5, 2), 3) or 0.1 for length in typical_spacing],
        ),
    ]
    return RandomDataset(kind, fingerprint, dataset_json, requests)


def our_plans(dataset: RandomDataset, request: Request) -> dict[str, Any]:
    """What Foldwise plans, as it is read back from JSON; with the data identifiers that nnU-Net gives.

    Ours name a spacing that was asked for, lest other plans take these data for theirs.
    """
    preset = with_rules(load_preset(request.preset), request.rules)
    planned: dict[str, Any] = json.loads(json.dumps(plan_dataset(dataset.raw, dataset.fingerprint, preset)))
    return planned if request.target_spacing is None else _without_spacing_in_identifiers(planned)


def _without_spacing_in_identifiers(plans: dict[str, Any]) -> dict[str, Any]:
    shared = ("2d", "3d_fullres") if "ResEnc" in plans["experiment_planner_used"] else ()
    for name, configuration in plans["configurations"].items():
        if "data_identifier" in configuration:
            owner = "nnUNetPlans" if name in shared else plans["plans_name"]
            configuration["data_identifier"] = f"{owner}_{name}"
    return plans


def summary(plans: dict[str, Any]) -> dict[str, Any]:
    """What a unit test compares: patch, batch and stages to read, and a digest of every field."""
    configurations = {
        name: [*each["patch_size"], each["batch_size"], each["architecture"]["arch_kwargs"]["n_stages"]]
        for name, each in plans["configurations"].items()
        if "patch_size" in each
    }
    digest = hashlib.sha256(json.dumps(_rounded(plans), sort_keys=True).encode()).hexdigest()[:16]
    return {"configurations": configurations, "digest": digest}


def _rounded(value: Any) -> Any:
    """Floats to nine digits, so that another numpy may round the last one differently."""
    if isinstance(value, dict):
        return {key: _rounded(each) for key, each in value.items()}
    if isinstance(value, list):
        return [_rounded(each) for each in value]
    return f"{value:.9g}" if isinstance(value, float) else value


def _geometry(kind: str, choose: random.Random) -> tuple[list[float], list[int]]:
    """Spacing in mm and shape of a typical case."""

    def spacing() -> float:
        return round(10 ** choose.uniform(-0.7, 1), 4)  # 0.2 to 10 mm

    def length(low: int, high: int) -> int:
        return round(low * (high / low) ** choose.random())

    if kind == "slices":
        in_plane = spacing()
        return [999.0, in_plane, choose.choice([in_plane, spacing()])], [1, length(20, 900), length(20, 900)]
    if kind == "anisotropic":
        lengths = [length(4, 60), length(120, 900), length(120, 900)]
        spacings = [round(choose.uniform(3, 10), 4), 0.7, 0.8]
        axis = choose.randrange(3)
        lengths.insert(axis, lengths.pop(0))
        spacings.insert(axis, spacings.pop(0))
        return spacings, lengths
    if kind == "large":
        fine = choose.uniform(0.2, 1)
        return [round(fine * choose.uniform(1, 4), 4) for _ in range(3)], [length(250, 900) for _ in range(3)]
    if kind == "tiny":
        return [spacing() for _ in range(3)], [length(1, 24) for _ in range(3)]
    if kind == "degenerate":
        return [spacing() for _ in range(3)], [choose.randint(1, 9) for _ in range(3)]
    if kind == "extreme":
        return [spacing() for _ in range(3)], [length(1, 900) for _ in range(3)]
    fine = spacing()
    return [round(fine * choose.uniform(1, 2.5), 4) for _ in range(3)], [length(30, 500) for _ in range(3)]


def _labels(choose: random.Random) -> dict[str, Any]:
    number = choose.choice([1, 2, 3, choose.randint(4, 59)])
    form = choose.choice(["labels", "labels", "regions", "ignore"])
    names: dict[str, Any] = {"background": 0}
    for label in range(1, number + 1):
        names[f"part_{label}"] = list(range(label, number + 1)) if form == "regions" else label
    if form == "ignore":
        names["ignore"] = number + 1
    return names
