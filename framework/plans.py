"""Plans JSON -> typed, validated objects; inheritance, overrides and nnU-Net's legacy form.

A plans file written by nnU-Net works unchanged; Foldwise adds the optional blocks ``training``,
``augmentation`` and ``trainer``, at top level or in a configuration. `plans/README.md` explains every field.
"""

from __future__ import annotations

import copy
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from framework.errors import PlansError, UnknownNameError, did_you_mean
from framework.field_path import set_field
from framework.file_names import why_no_file_name
from framework.files import read_json
from framework.legacy_plans import modernised
from framework.training_settings import TrainingSettings
from framework.validation import convert, describe, read_block, shown

OWN_BLOCKS = ("training", "augmentation", "trainer")
_LONGEST_CHAIN = 20  # of configurations that inherit from one another
_MOST_CONFIGURATIONS = 200
_LARGEST_PATCH = 1 << 30  # voxels
_LARGEST_BATCH = 1 << 16


@dataclass(frozen=True)
class Architecture:
    """Which network, and with which arguments; nnU-Net's ``architecture`` object."""

    network_class_name: str
    arch_kwargs: dict[str, Any] = field(default_factory=dict)
    requires_import: tuple[str, ...] = ()


@dataclass(frozen=True)
class Configuration:
    """One resolved entry of a plans file (``2d``, ``3d_fullres``, ...). Axes are in array order after transposition.

    ``patch_size`` is in voxels (2 or 3 axes), ``spacing`` in mm.
    """

    name: str
    data_identifier: str = ""
    preprocessor_name: str = "DefaultPreprocessor"
    batch_size: int = 2
    patch_size: tuple[int, ...] = ()
    median_image_size_in_voxels: tuple[float, ...] = ()
    spacing: tuple[float, ...] = ()
    normalization_schemes: tuple[str, ...] = ()
    use_mask_for_norm: tuple[bool, ...] = ()
    resampling_fn_data: str = "resample_data_or_seg_to_shape"
    resampling_fn_seg: str = "resample_data_or_seg_to_shape"
    resampling_fn_probabilities: str = "resample_data_or_seg_to_shape"
    resampling_fn_data_kwargs: dict[str, Any] = field(
        default_factory=lambda: {"is_seg": False, "order": 3, "order_z": 0, "force_separate_z": None}
    )
    resampling_fn_seg_kwargs: dict[str, Any] = field(
        default_factory=lambda: {"is_seg": True, "order": 1, "order_z": 0, "force_separate_z": None}
    )
    resampling_fn_probabilities_kwargs: dict[str, Any] = field(
        default_factory=lambda: {"is_seg": False, "order": 1, "order_z": 0, "force_separate_z": None}
    )
    architecture: Architecture | None = None
    batch_dice: bool = False
    previous_stage: str | None = None
    next_stage: tuple[str, ...] = ()
    training: TrainingSettings = field(default_factory=TrainingSettings)
    augmentation: str | dict[str, Any] = "default"
    trainer: str | None = None


class Plans:
    """The whole description of an experiment.

    Args:
        raw: the JSON object, in nnU-Net's current or legacy form.
        source: where it came from; every message starts with it.

    Raises:
        PlansError: lists every mistake found in `raw`.
    """

    def __init__(self, raw: Mapping[str, Any], source: str | Path = "plans") -> None:
        self.source = str(source)
        if not isinstance(raw, Mapping) or not isinstance(raw.get("configurations"), Mapping):
            raise PlansError(f"{self.source}: this is no plans file: it has no object 'configurations'.")
        if (number := len(raw["configurations"])) > _MOST_CONFIGURATIONS:
            raise PlansError(f"{self.source}: found {number} configurations, expected at most {_MOST_CONFIGURATIONS}.")
        wrong: list[str] = []
        self._raw = modernised(copy.deepcopy(dict(raw)), wrong)
        if wrong:
            raise PlansError("\n".join(f"{self.source}: {problem}" for problem in wrong))
        # nnU-Net's command line injects this key for its own trainer; it describes no experiment.
        self._raw.pop("continue_training", None)
        problems = self._top_level_problems()
        for name in self.configuration_names:
            _, found = self._read_configuration(name)
            # A mistake that a child inherits is told once, where it stands.
            told = {
                problem.replace(f"configurations.{other}", "")
                for other in self._ancestors(name)
                for problem in problems
            }
            problems += [text for text in found if text.replace(f"configurations.{name}", "") not in told]
        if problems:
            raise PlansError("\n".join(problems))

    @classmethod
    def from_file(cls, path: Path | str) -> Plans:
        return cls(read_json(path, error_type=PlansError), source=path)

    @classmethod
    def from_dict(cls, raw: Mapping[str, Any], source: str | Path = "plans") -> Plans:
        return cls(raw, source)

    @property
    def name(self) -> str:
        return str(self._raw.get("plans_name", Path(self.source).stem))

    @property
    def dataset_name(self) -> str:
        return str(self._raw.get("dataset_name", ""))

    @property
    def image_reader_writer(self) -> str:
        return str(self._raw.get("image_reader_writer", "SimpleITKIO"))

    @property
    def transpose_forward(self) -> tuple[int, ...]:
        return tuple(int(axis) for axis in self._raw.get("transpose_forward", (0, 1, 2)))

    @property
    def transpose_backward(self) -> tuple[int, ...]:
        return tuple(int(axis) for axis in self._raw.get("transpose_backward", (0, 1, 2)))

    @property
    def foreground_intensity_properties(self) -> dict[str, dict[str, float]]:
        """Statistics of foreground voxels per channel ("0", "1", ...), for CT normalisation."""
        return self._raw.get("foreground_intensity_properties_per_channel", {})

    @property
    def configuration_names(self) -> list[str]:
        return list(self._raw["configurations"])

    def configuration(self, name: str) -> Configuration:
        """The resolved, typed configuration. UnknownNameError lists the ones that are defined."""
        if name not in self._raw["configurations"]:
            raise UnknownNameError("configuration", name, self.configuration_names, self.source)
        configuration, _ = self._read_configuration(name)
        return configuration

    def with_overrides(self, configuration: str, overrides: Mapping[str, Any]) -> Plans:
        """New plans in which fields of one configuration are replaced, for example ``{"training.num_epochs": 50}``.

        Paths start at the configuration; a key with dots in it stands in brackets (see `framework.field_path`).
        A text value that is valid JSON is read as JSON. The configuration is written out in full, so that the
        result says by itself what was run.
        """
        if configuration not in self._raw["configurations"]:
            raise UnknownNameError("configuration", configuration, self.configuration_names, self.source)
        raw = self.to_dict()
        resolved = self._resolve(configuration)
        for path, value in overrides.items():
            set_field(resolved, path, _json_value(value), self.source)
        raw["configurations"][configuration] = resolved
        return Plans(raw, f"{self.source} with --set" if overrides else self.source)

    def to_dict(self) -> dict[str, Any]:
        """A copy of the JSON object in nnU-Net's current form."""
        return copy.deepcopy(self._raw)

    def _resolve(self, name: str, seen: tuple[str, ...] = ()) -> dict[str, Any]:
        """The JSON of one configuration with inheritance applied and the top-level blocks merged in."""
        entries = self._raw["configurations"]
        if name in seen or len(seen) > _LONGEST_CHAIN:
            kind = "in a circle" if name in seen else f"over more than {_LONGEST_CHAIN} steps"
            raise PlansError(f"{self.source}: configurations inherit {kind}: {' -> '.join((*seen, name))}.")
        entry = copy.deepcopy(entries[name])
        if not isinstance(entry, dict):
            raise PlansError(f"{self.source}: configurations.{name}: found {shown(entry)}, expected an object {{...}}.")
        parent_name = entry.pop("inherits_from", None)
        if parent_name is not None and not isinstance(parent_name, str):
            raise PlansError(
                f"{self.source}: configurations.{name}.inherits_from: found {shown(parent_name)}, expected text."
            )
        if parent_name is None:
            base = {key: copy.deepcopy(self._raw[key]) for key in OWN_BLOCKS if key in self._raw}
        elif parent_name not in entries:
            raise UnknownNameError(
                "configuration", parent_name, entries, f"{self.source}: configurations.{name}.inherits_from"
            )
        else:
            base = self._resolve(parent_name, (*seen, name))
        # nnU-Net replaces keys wholesale. Our numbers are merged one by one: a child that sets the
        # number of epochs keeps the learning rate of its parent.
        if isinstance(base.get("training"), dict) and isinstance(entry.get("training"), dict):
            entry["training"] = {**base["training"], **entry["training"]}
        return {**base, **entry}

    def _ancestors(self, name: str) -> list[str]:
        found: list[str] = []
        entries = self._raw["configurations"]
        while isinstance(entries.get(name), dict):
            name = entries[name].get("inherits_from")
            if not isinstance(name, str) or name in found:
                break
            found.append(name)
        return found

    def _read_configuration(self, name: str) -> tuple[Configuration, list[str]]:
        where = f"{self.source}: configurations.{name}"
        problems: list[str] = []
        if reason := why_no_file_name(name):
            return Configuration(name), [f"{self.source}: configurations: the name {shown(name)} {reason}."]
        if not isinstance(self._raw["configurations"][name], dict):
            return Configuration(name), [f"{where}: expected an object {{...}}."]
        try:
            entry = self._resolve(name)
        except PlansError as error:
            return Configuration(name), [str(error)]
        except UnknownNameError as error:
            return Configuration(name), [str(error)]

        for block in ("training", "architecture"):
            if block in entry and not isinstance(entry[block], dict):
                problems.append(f"{where}.{block}: found {shown(entry.pop(block))}, expected an object {{...}}.")
        training = TrainingSettings(
            **read_block(TrainingSettings, entry.pop("training", {}), f"{where}.training", problems)
        )
        architecture = None
        if "architecture" in entry:
            network = dict(entry.pop("architecture"))
            if "_kw_requires_import" in network:
                network["requires_import"] = network.pop("_kw_requires_import")
            accepted = read_block(Architecture, network, f"{where}.architecture", problems)
            if "network_class_name" in accepted:
                architecture = Architecture(**accepted)
            else:
                problems.append(f"{where}.architecture: 'network_class_name' is missing.")
        if isinstance(entry.get("next_stage"), str):
            entry["next_stage"] = [entry["next_stage"]]
        for key in [key for key, value in entry.items() if key in _OPTIONAL and value is None]:
            del entry[key]
        accepted = read_block(Configuration, entry, where, problems)
        accepted.pop("name", None)
        configuration = replace(Configuration(name, **accepted), training=training, architecture=architecture)
        problems += _shape_problems(configuration, where)
        for key in ("data_identifier", "previous_stage"):
            value = getattr(configuration, key)
            if value and (reason := why_no_file_name(value)):
                problems.append(f"{where}.{key}: {shown(value)} {reason}.")
        problems += [
            f"{where}.next_stage: {shown(stage)} {reason}."
            for stage in configuration.next_stage
            if (reason := why_no_file_name(stage))
        ]
        return configuration, problems

    def _top_level_problems(self) -> list[str]:
        problems = []
        for key, value in self._raw.items():
            if key in TOP_LEVEL:
                try:
                    convert(value, TOP_LEVEL[key])
                except TypeError:
                    problems.append(f"{self.source}: {key}: found {shown(value)}, expected {describe(TOP_LEVEL[key])}.")
            elif not key.startswith("_"):
                hint = did_you_mean(key, TOP_LEVEL) or f" Known here: {', '.join(TOP_LEVEL)}."
                problems.append(f"{self.source}: '{key}' is not a known field.{hint}")
        if problems:
            return problems
        for key in ("dataset_name", "plans_name"):
            value = self._raw.get(key)
            if value and (reason := why_no_file_name(value)):
                problems.append(f"{self.source}: {key}: {shown(value)} {reason}.")
        forward, backward = self.transpose_forward, self.transpose_backward
        if sorted(forward) != [0, 1, 2] or [forward[axis] for axis in backward if axis in (0, 1, 2)] != [0, 1, 2]:
            problems.append(
                f"{self.source}: transpose_forward {shown(forward)} and transpose_backward {shown(backward)}: expected "
                "an order of the axes 0, 1 and 2, and the one that undoes it."
            )
        return problems


TOP_LEVEL: dict[str, Any] = {
    "dataset_name": str,
    "plans_name": str,
    "original_median_spacing_after_transp": list[float],
    "original_median_shape_after_transp": list[float],
    "image_reader_writer": str,
    "transpose_forward": list[int],
    "transpose_backward": list[int],
    "configurations": dict,
    "experiment_planner_used": str,
    "label_manager": str,
    "foreground_intensity_properties_per_channel": dict,
    "pretrain_info": Any,
    "training": dict,
    "augmentation": str | dict,
    "trainer": str | None,
}
_OPTIONAL = ("previous_stage", "next_stage", "trainer", "augmentation")


def _shape_problems(configuration: Configuration, where: str) -> list[str]:
    """Fields that contradict each other; a configuration without images (another task) has none of them."""
    problems = []
    axes = len(configuration.patch_size)
    if axes and axes not in (2, 3):
        problems.append(f"{where}.patch_size: found {axes} axes, expected 2 or 3.")
    if axes and any(length < 1 for length in configuration.patch_size):
        problems.append(f"{where}.patch_size: found {list(configuration.patch_size)}, expected lengths of at least 1.")
    elif math.prod(configuration.patch_size) > _LARGEST_PATCH:
        found = shown(list(configuration.patch_size))
        problems.append(f"{where}.patch_size: found {found}, expected at most {_LARGEST_PATCH} voxels.")
    if not 1 <= configuration.batch_size <= _LARGEST_BATCH:
        found = shown(configuration.batch_size)
        problems.append(f"{where}.batch_size: found {found}, expected at least 1 and at most {_LARGEST_BATCH}.")
    if any(not millimetres > 0 for millimetres in configuration.spacing):
        problems.append(f"{where}.spacing: found {list(configuration.spacing)}, expected millimetres above 0.")
    if axes and configuration.spacing and len(configuration.spacing) != axes:
        problems.append(f"{where}.spacing: found {len(configuration.spacing)} axes, but patch_size has {axes}.")
    return problems


def _json_value(value: Any) -> Any:
    if not isinstance(value, str):
        return value
    try:
        return json.loads(value)
    except (ValueError, RecursionError):
        return value
