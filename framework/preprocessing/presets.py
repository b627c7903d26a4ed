"""Presets: JSON files that say how to plan (``planner``) and how to train (``training``, ...)."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from framework.errors import PlansError, UnknownNameError, did_you_mean
from framework.files import read_json

PRESET_FOLDER = Path(__file__).resolve().parents[2] / "plans"

_KEYS = ("description", "inherits_from", "plans_name", "planner", "training", "augmentation", "trainer")


def preset_names() -> list[str]:
    """The presets that come with Foldwise."""
    return sorted(path.stem for path in PRESET_FOLDER.glob("*.json") if not path.stem.endswith("schema"))


def load_preset(name_or_path: str | Path) -> dict[str, Any]:
    """A preset with everything it inherits filled in.

    Args:
        name_or_path: a name out of `preset_names`, or a JSON file.

    Returns:
        The merged object with ``name`` and ``plans_name``. Objects are merged key by key, all else is
        replaced.

    Raises:
        UnknownNameError: no such preset; lists those there are.
        PlansError: a key that presets do not have, or presets that inherit in a circle.
    """
    preset = _load(name_or_path, ())
    preset.setdefault("plans_name", preset["name"])
    return preset


def with_rules(preset: Mapping[str, Any], rules: Mapping[str, Any]) -> dict[str, Any]:
    """A preset with other values in its ``planner`` block, such as ``{"memory_gb": 24}``.

    Raises:
        PlansError: a memory is given, but the preset plans from a compute budget.
    """
    planner = {**preset.get("planner", {}), **rules}
    if "memory_gb" in rules and planner.get("compute_budget") is not None:
        raise PlansError(
            f"preset '{preset['name']}' plans from a compute budget, so a memory of {rules['memory_gb']:g} GB would "
            "change nothing. Choose another preset, or change planner.compute_budget in one of your own."
        )
    return {**preset, "planner": planner}


def preset_of_planner(class_name: str) -> str | None:
    """The preset that stands for a planner class of nnU-Net: ``default`` for ``ExperimentPlanner``."""
    for name in preset_names():
        own = read_json(PRESET_FOLDER / f"{name}.json", error_type=PlansError)
        if own.get("planner", {}).get("experiment_planner_used") == class_name:
            return name
    return None


def preset_of_plans(plans_name: str) -> str | None:
    """The preset of this name, or the one whose plans have it: ``nnUNetPlans`` are made by ``default``."""
    names = preset_names()
    if plans_name in names:
        return plans_name
    return next((name for name in names if load_preset(name)["plans_name"] == plans_name), None)


def _load(name_or_path: str | Path, descendants: tuple[str, ...]) -> dict[str, Any]:
    path = Path(name_or_path)
    if path.suffix != ".json":
        if str(name_or_path) not in preset_names():
            raise UnknownNameError("preset", name_or_path, preset_names(), PRESET_FOLDER)
        path = PRESET_FOLDER / f"{name_or_path}.json"
    own = read_json(path, error_type=PlansError)
    _check(own, path)
    parent = own.pop("inherits_from", None)
    name = path.stem
    if parent is not None:
        chain = (*descendants, name)
        if Path(parent).stem in chain:
            raise PlansError(f"{path}: presets inherit in a circle: {' -> '.join((*chain, parent))}.")
        # A file may build on a preset of ours, or on a file beside it.
        beside = path.parent / parent
        own = _merged(_load(beside if beside.suffix == ".json" else parent, chain), own)
        if "plans_name" not in read_json(path):
            own["plans_name"] = name  # plans of the parent must not be mistaken for these
    return {**own, "name": name}


def _merged(parent: Mapping[str, Any], child: Mapping[str, Any]) -> dict[str, Any]:
    merged = dict(parent)
    for key, value in child.items():
        inherited = merged.get(key)
        if isinstance(value, Mapping) and isinstance(inherited, Mapping) and "name" not in value:
            # An object with a name (an optimizer, a schedule) is a choice: arguments of another one do not
            # fit it.
            merged[key] = _merged(inherited, value)
        else:
            merged[key] = value
    return merged


def _check(preset: Any, path: Path) -> None:
    if not isinstance(preset, dict):
        raise PlansError(f"{path}: expected an object {{...}}, found {type(preset).__name__}.")
    problems = []
    for key in preset:
        if key not in _KEYS:
            hint = did_you_mean(key, _KEYS) or f" Known here: {', '.join(_KEYS)}."
            problems.append(f"{path}: '{key}' is no field of a preset.{hint}")
    for key in ("planner", "training"):
        if not isinstance(preset.get(key, {}), dict):
            problems.append(f"{path}: {key}: found {preset[key]!r}, expected an object {{...}}.")
    if problems:
        raise PlansError("\n".join(problems))
