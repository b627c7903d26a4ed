"""Whether a state from a checkpoint has the form of the one that it is to replace.

What a checkpoint says goes on to steer the training. A text in the place of a number would be noticed hours later, at
the end of an epoch; here it is noticed at the door.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from framework.validation import shown

_LARGEST_NUMBER = 2**63
_NUMBERS = ("epoch", "lr", "mean_fg_dice", "ema_fg_dice", "gradient_norm", "skipped_updates", "seconds")
_NUMBERS_BEGIN = ("train_loss", "val_loss")
_NUMBERS_END = ("_seconds", "_timestamp")
"""Columns of a history that hold one number an epoch; hooks of others may add what they like."""


def differs(found: Any, own: Any, where: str, complete: bool = True) -> str | None:
    """How `found` is of another form than `own`, with the place; None if it can take its place.

    Numbers stand for numbers, and tensors for tensors of the same shape. Where `own` is empty, all plain values fit.
    """
    if isinstance(own, Tensor):
        if not isinstance(found, Tensor) or found.shape != own.shape or found.is_complex() != own.is_complex():
            return f"{where} is {_shown(found)}, expected a tensor of shape {list(own.shape)}"
        return None
    if own is None:
        fits = found is None or isinstance(found, bool) or _is_number(found)
        return None if fits else f"{where} is {_shown(found)}, expected a number, or nothing"
    if isinstance(own, (bool, str)):
        return None if type(found) is type(own) else f"{where} is {_shown(found)}, expected {_shown(own)} or the like"
    if isinstance(own, (int, float)):
        return None if _is_number(found) else f"{where} is {_shown(found)}, expected a number"
    if isinstance(own, Mapping):
        if not isinstance(found, Mapping):
            return f"{where} is {_shown(found)}, expected entries by name"
        for name, entry in own.items():
            if name not in found:
                if complete:
                    return f"{where}.{name} is missing"
            elif (problem := differs(found[name], entry, f"{where}.{name}", complete)) is not None:
                return problem
        return None if own or _is_plain(found) else f"{where} holds other things than numbers, texts and tensors"
    if isinstance(own, Sequence):
        if not isinstance(found, (list, tuple)):
            return f"{where} is {_shown(found)}, expected a list"
        if not own:
            return None if _is_plain(found) else f"{where} holds other things than numbers, texts and tensors"
        for index, entry in enumerate(found):
            if (problem := differs(entry, own[0], f"{where}[{index}]", complete)) is not None:
                return problem
    return None


def optimizer_differs(found: Any, optimizer: torch.optim.Optimizer) -> str | None:
    """As `differs`, for the state of an optimizer, which is empty before its first step."""
    own = optimizer.state_dict()
    if not isinstance(found, Mapping) or not isinstance(found.get("state"), Mapping):
        return f"it is {_shown(found)}"
    # Other versions of torch have more or fewer options.
    problem = differs(found.get("param_groups"), own["param_groups"], "param_groups", complete=False)
    if problem is None and not all(isinstance(group.get("params"), list) for group in found["param_groups"]):
        problem = "a group has no parameters"
    if problem is not None or len(found["param_groups"]) != len(own["param_groups"]):
        return problem or f"it has {len(found['param_groups'])} groups of parameters"
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    indices = [index for group in found["param_groups"] for index in group["params"]]
    if len(indices) != len(parameters) or len(set(indices)) != len(indices):
        return f"it is of {len(indices)} parameters"
    for index, parameter in zip(indices, parameters):
        entries = found["state"].get(index, {})
        if not isinstance(entries, Mapping):
            return f"state[{index}] is {_shown(entries)}"
        for name, value in entries.items():
            fits = value is None or (isinstance(value, Tensor) and _belongs_to(value, parameter))
            fits = fits or (name == "step" and _is_number(value))
            if not isinstance(name, str) or not fits:
                return f"state[{index}].{name!s:.100} is {_shown(value)}, its parameter {list(parameter.shape)}"
    return None


def with_missing_options(state: Mapping[str, Any], optimizer: torch.optim.Optimizer) -> dict[str, Any]:
    """The state of an optimizer, with the options that the torch that wrote it did not have yet."""
    groups = zip(optimizer.state_dict()["param_groups"], state["param_groups"])
    return {**state, "param_groups": [{**own, **found} for own, found in groups]}


def history_differs(rows: Any, running: Any) -> str | None:
    """What is wrong with the rows of a history: JSON, and numbers in the columns of our own."""
    for number, row in enumerate([*rows, running or {}]):
        for name, value in row.items():
            fits = _is_plain(value, tensors=False)
            if name in _NUMBERS or str(name).startswith(_NUMBERS_BEGIN) or str(name).endswith(_NUMBERS_END):
                fits = value is None or _is_number(value)
            elif name == "dice_per_class_or_region":
                entries = value if isinstance(value, (list, tuple)) else [] if value is None else ["no list"]
                fits = all(entry is None or _is_number(entry) for entry in entries)
            if not fits:
                return f"row {number}, '{name!s:.100}' is {_shown(value)}, expected a number"
    return None


def settings_differ(settings: Mapping[str, Any]) -> str | None:
    """What is wrong with settings, which are JSON: numbers, texts, lists and objects."""
    for name, value in settings.items():
        if not _is_plain(value, tensors=False):
            return f"'{name!s:.100}' is {_shown(value)}, expected a number, a text, a list or an object"
    return None


def outputs_differ(outputs: Any) -> str | None:
    """What is wrong with the outputs of the steps of an epoch that was left half finished."""
    scalars = {"loss", "gradient_norm"}  # and all others of which the mean is taken
    scalars |= {name for output in outputs for name, value in output.items() if _is_scalar(value)}
    for output in outputs:
        for name, value in output.items():
            fits = _is_plain(value)
            if name == "num_elements":
                fits = _is_number(value)
            elif name in scalars:
                fits = _is_scalar(value)
            if not fits:
                return f"'{name!s:.100}' is {_shown(value)}, expected {'a scalar' if name in scalars else 'a number'}"
    return None


def _is_scalar(value: Any) -> bool:
    return isinstance(value, Tensor) and value.ndim == 0 and value.is_floating_point()


def _belongs_to(value: Tensor, parameter: nn.Parameter | Tensor) -> bool:
    return (value.numel() == 1 or value.shape == parameter.shape) and value.is_complex() == parameter.is_complex()


def _is_number(value: Any) -> bool:
    if isinstance(value, bool):
        return False
    return isinstance(value, float) or (isinstance(value, int) and abs(value) < _LARGEST_NUMBER)


def _is_plain(value: Any, tensors: bool = True) -> bool:
    if value is None or isinstance(value, (bool, str)) or _is_number(value):
        return True
    if isinstance(value, Mapping):
        return all(_is_plain(entry, tensors) for entry in value.values())
    if isinstance(value, (list, tuple)):
        return all(_is_plain(entry, tensors) for entry in value)
    return tensors and isinstance(value, Tensor)


def _shown(value: Any) -> str:
    if isinstance(value, Tensor):
        return f"a tensor of shape {shown(list(value.shape))}"
    return shown(value)
