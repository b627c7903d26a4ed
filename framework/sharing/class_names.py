"""Classes that a stranger's model names: only those of installed packages, never a Python file."""

from __future__ import annotations

from typing import Any

from framework.extensions import trainer_table
from framework.named_code import names_a_class, names_a_file, why_not_run

_NNUNET = "dynamic_network_architectures"
"""nnU-Net's name for the networks that ours replace."""


def why_not_usable(location: Any) -> str | None:
    """Why the class that a bundle names is not used here; None if its package is installed. Nothing is imported.

    Stricter than `why_not_run`: what is imported by others is to work in every later process as well.
    """
    if isinstance(location, str):
        if names_a_file(location):
            return f"'{location}' names a Python file, and code does not travel with a model"
        if location in trainer_table() or location.split(".")[0] == _NNUNET:
            return None
    return why_not_run(location, only_installed=True)


def problems_in_plans(plans: dict[str, Any]) -> list[str]:
    """What is wrong with the classes that a plans JSON names, one line each."""
    problems = []
    for configuration, entry in plans.get("configurations", {}).items():
        architecture = entry.get("architecture") or {}
        arguments = architecture.get("arch_kwargs") or {}
        imported = architecture.get("_kw_requires_import") or architecture.get("requires_import") or ()
        named = [architecture.get("network_class_name"), *(arguments.get(key) for key in imported)]
        problems += [
            f"configurations.{configuration}.architecture: {reason}"
            for location in named
            if location is not None and (reason := why_not_usable(location)) is not None
        ]
    problems += [
        f"{place}: {reason}"
        for place, text in _text_of(plans)
        if names_a_class(text) and (reason := why_not_usable(text)) is not None
    ]
    return problems


def without_own_classes(plans: Any) -> Any:
    """The plans without trainers, hooks and transforms of other packages and files; the network's classes stay.

    Prediction needs none of them. Hooks are even built when a network is loaded for prediction, so nobody should
    get them from a stranger.
    """
    if isinstance(plans, dict):
        return {
            key: entry if key == "architecture" else without_own_classes(entry)
            for key, entry in plans.items()
            if not _is_own_class(key) and not _is_own_class(entry)
        }
    if isinstance(plans, list):
        return [without_own_classes(entry) for entry in plans if not _is_own_class(entry)]
    return plans


def _is_own_class(value: Any) -> bool:
    if isinstance(value, dict):
        return _is_own_class(value.get("name"))
    return isinstance(value, str) and names_a_class(value)


def _text_of(value: Any, place: str = "") -> list[tuple[str, str]]:
    """Every text in a JSON value, keys included, with its place."""
    if isinstance(value, str):
        return [(place, value)]
    if isinstance(value, dict):
        entries = [(f"{place}.{key}".strip("."), entry) for key, entry in value.items()]
        keys = [(place, str(key)) for key in value]
        return keys + [pair for name, entry in entries for pair in _text_of(entry, name)]
    if isinstance(value, list):
        return [pair for index, entry in enumerate(value) for pair in _text_of(entry, f"{place}[{index}]")]
    return []
