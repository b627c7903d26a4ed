"""What ``--set`` may change when a run is continued, and what it may not."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from framework.errors import PlansError
from framework.field_path import keys_of
from framework.plans import Plans

FIXED = {
    "architecture": "the saved weights belong to it",
    "patch_size": "the network was built for it",
    "batch_size": "the samples seen so far are counted in batches of the old size",
    "training.optimizer": "its saved state belongs to it",
    "training.iterations_per_epoch": "the epochs completed so far had the old length",
    "training.validation_iterations_per_epoch": "the epochs completed so far had the old length",
    "training.gradient_accumulation": "the batches seen so far are counted with it",
    "training.deep_supervision": "the saved weights belong to it",
    "training.seed": "a run has one",
    "training.weight_averaging": "the saved average belongs to it",
    "spacing": "the data was preprocessed with it",
    "data_identifier": "the run was begun with other data",
    "normalization_schemes": "the data was preprocessed with it",
}
"""Fields that a continued run cannot change, and why; whatever lies below them is fixed too."""


def check_resumed_overrides(saved: Plans, changed: Plans, configuration: str, overrides: Mapping[str, Any]) -> None:
    """Refuse overrides that would break the run that is continued; one that repeats the saved value is none.

    Raises:
        PlansError: names every such field.
    """
    before = saved.with_overrides(configuration, {}).to_dict()["configurations"][configuration]
    after = changed.to_dict()["configurations"][configuration]
    problems = []
    for path in overrides:
        keys = keys_of(path, str(saved.source))
        fixed = next((name for name in FIXED if keys[: name.count(".") + 1] == name.split(".")), None)
        if fixed is not None and _field(before, fixed) != _field(after, fixed):
            problems.append(f"--set {path}: a run that is continued cannot change '{fixed}': {FIXED[fixed]}.")
    if problems:
        raise PlansError(
            "\n".join(problems) + "\nLeave it out, or start a new run without --c (this one is then kept aside)."
        )


def changed_settings(before: Mapping[str, Any], after: Mapping[str, Any]) -> dict[str, tuple[Any, Any]]:
    """The settings that differ: name -> old and new value."""
    return {name: (before[name], after[name]) for name in after if name in before and before[name] != after[name]}


def _field(block: Mapping[str, Any], path: str) -> Any:
    value: Any = block
    for key in path.split("."):
        value = value.get(key) if isinstance(value, Mapping) else None
    return value
