"""The ``augmentation`` block of a plan, read: presets filled in, classes found, numbers checked."""

from __future__ import annotations

import dataclasses
import json
import math
import traceback
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from framework.augmentation.batchgenerators_adapter import BatchgeneratorsTransform, is_batchgenerators_transform
from framework.augmentation.filters import GaussianBlur, MedianFilter, Sharpening
from framework.augmentation.intensity import (
    Brightness,
    BrightnessShift,
    Contrast,
    Gamma,
    GaussianNoise,
    InvertedGamma,
    LowResolution,
    UnclippedContrast,
)
from framework.augmentation.local import BlankRectangles, BrightnessGradient, LocalGamma
from framework.augmentation.spatial_transforms import AxisExchange, Mirroring, QuarterTurns, Rotation, Scaling
from framework.augmentation.transform import IntensityTransform
from framework.errors import FoldwiseError, UnknownNameError, did_you_mean
from framework.extensions import find_class
from framework.validation import read_block

SPATIAL_TRANSFORMS: dict[str, type] = {
    "rotation": Rotation,
    "scaling": Scaling,
    "quarter_turns": QuarterTurns,
    "axis_exchange": AxisExchange,
    "mirroring": Mirroring,
}

TRANSFORMS: dict[str, type] = SPATIAL_TRANSFORMS | {
    "median": MedianFilter,
    "noise": GaussianNoise,
    "blur": GaussianBlur,
    "brightness": Brightness,
    "brightness_shift": BrightnessShift,
    "contrast": Contrast,
    "contrast_unclipped": UnclippedContrast,
    "low_resolution": LowResolution,
    "gamma_inverted": InvertedGamma,
    "gamma": Gamma,
    "blank_rectangles": BlankRectangles,
    "brightness_gradient": BrightnessGradient,
    "local_gamma": LocalGamma,
    "sharpening": Sharpening,
}

PRESET_FOLDER = Path(__file__).resolve().parents[2] / "plans" / "augmentation"


@dataclass
class Block:
    """What a block says, with its presets filled in.

    Attributes:
        transforms: the numbers of every transform that takes place, in the order of application.
        one_of: groups of transforms, of which a sample gets at most one.
    """

    transforms: dict[str, dict[str, Any]] = field(default_factory=dict)
    one_of: list[list[str]] = field(default_factory=list)


def preset_names() -> list[str]:
    """Presets that a plan can name."""
    return sorted(path.stem for path in PRESET_FOLDER.glob("*.json"))


def expand_block(block: str | dict[str, Any], where: str, problems: list[str]) -> Block:
    """Fill in the preset, which may build on another one. Mistakes are appended to `problems`."""
    entries = {"preset": block} if isinstance(block, str) else dict(block)
    result = _read_preset(entries.pop("preset", None), where, problems)
    groups = entries.pop("one_of", result.one_of)
    for name, numbers in entries.items():
        if numbers is None or numbers is False:
            if name not in TRANSFORMS and name not in result.transforms:
                problems.append(_unknown_transform(name, where))
            result.transforms.pop(name, None)
        elif numbers is True:
            result.transforms.setdefault(name, {})
        elif isinstance(numbers, dict):
            result.transforms[name] = {**result.transforms.get(name, {}), **numbers}
        else:
            problems.append(
                f"{where}.{name}: found {numbers!r}, expected an object with its numbers, or null to drop it."
            )
    result.one_of = _checked_groups(groups, result.transforms, where, problems)
    return result


def _read_preset(preset: Any, where: str, problems: list[str]) -> Block:
    if preset is None:
        return Block()
    known = preset_names()
    if preset not in known:
        problems.append(str(UnknownNameError("augmentation preset", preset, known, where)))
        return Block()
    text = (PRESET_FOLDER / f"{preset}.json").read_text(encoding="utf-8")
    return expand_block(json.loads(text), f"{where} (preset {preset})", problems)


def _checked_groups(groups: Any, transforms: dict[str, Any], where: str, problems: list[str]) -> list[list[str]]:
    """Groups without the transforms that were dropped; names that never were there are a mistake."""
    right = isinstance(groups, list) and all(
        isinstance(group, list) and all(isinstance(name, str) for name in group) for group in groups
    )
    if not right:
        problems.append(
            f"{where}.one_of: found {groups!r}, expected lists of transforms, such as [['median', 'blur']]."
        )
        return []
    seen: set[str] = set()
    for name in [name for group in groups for name in group]:
        if name in SPATIAL_TRANSFORMS or (name not in TRANSFORMS and name not in transforms):
            known = [known for known in transforms if known not in SPATIAL_TRANSFORMS]
            problems.append(
                f"{where}.one_of: '{name}' is no transform of grey values here.{did_you_mean(name, known)} "
                f"Known here: {', '.join(known) or 'none'}."
            )
        elif name in seen:
            problems.append(f"{where}.one_of: '{name}' is in it twice; a transform belongs to one group.")
        seen.add(name)
    return [list(group) for group in groups]


def build_transforms(block: Block, where: str, problems: list[str]) -> dict[str, Any]:
    """The transforms of a block by name. Mistakes are appended to `problems`."""
    transforms: dict[str, Any] = {}
    for name, entries in block.transforms.items():
        transform_class = _transform_class(name, where, problems)
        if transform_class is None:
            continue
        place = f"{where}.{name}"
        if is_batchgenerators_transform(transform_class):
            made = BatchgeneratorsTransform.from_plans(name, transform_class, entries, place, problems)
            if made is not None:
                transforms[name] = made
            continue
        accepted = read_block(transform_class, entries, place, problems)
        _check_ranges(transform_class, accepted, place, problems)
        try:
            transforms[name] = transform_class(**accepted)
        except TypeError as error:
            problems.append(f"{place}: {error}.")
    return transforms


def _transform_class(name: str, where: str, problems: list[str]) -> type | None:
    if name in TRANSFORMS:
        return TRANSFORMS[name]
    if ":" not in name:
        problems.append(_unknown_transform(name, where))
        return None
    try:
        found = find_class(name, base=object, kind="transform", table={})
    except FoldwiseError as error:
        problems.append(f"{where}: transform '{name}' cannot be imported: {error}")
        return None
    except Exception as error:  # whatever a user's own module runs into
        place = traceback.extract_tb(error.__traceback__)[-1]
        problems.append(
            f"{where}: transform '{name}' cannot be imported: {type(error).__name__}: {error} "
            f"({place.filename}, line {place.lineno})."
        )
        return None
    own = issubclass(found, IntensityTransform) and dataclasses.is_dataclass(found)
    if not (own or is_batchgenerators_transform(found)):
        problems.append(
            f"{where}: '{name}' is not a transform. Derive a dataclass from "
            "framework.augmentation.IntensityTransform and give it `draw` and `apply`, "
            "or name a transform of batchgenerators."
        )
        return None
    return found


def _unknown_transform(name: str, where: str) -> str:
    known = ", ".join(TRANSFORMS)
    return (
        f"{where}: transform '{name}' is not known.{did_you_mean(name, TRANSFORMS)} "
        f"Known here: {known}; or package.module:Class, or file.py:Class."
    )


def _check_ranges(transform_class: type, accepted: dict[str, Any], where: str, problems: list[str]) -> None:
    """Ranges are two numbers in ascending order, within what the field allows; wrong ones are taken out."""
    for entry in dataclasses.fields(transform_class):
        ends = entry.metadata.get("ends")
        value = accepted.get(entry.name)
        if ends is None or value is None:
            continue
        low, high = ends
        if len(value) != 2 or not (low <= value[0] <= value[1] <= high):
            limit = f" of at least {low:g}" if high == math.inf else f" from {low:g} to {high:g}"
            problems.append(
                f"{where}.{entry.name}: found {list(value)}, expected [lowest, highest], two numbers{limit}."
            )
            del accepted[entry.name]
