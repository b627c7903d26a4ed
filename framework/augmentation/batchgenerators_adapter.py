"""Any transform of the package batchgenerators as one of ours: the same numbers for the same sample, every time."""

from __future__ import annotations

import inspect
import random
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from framework.augmentation.geometry import PatchGeometry
from framework.augmentation.transform import Drawn, IntensityTransform, Uniforms
from framework.errors import PlansError, did_you_mean

# A batch goes in as {"data": (1, C, *patch), "seg": (1, 1, *patch)}; these say under which names.
_KEYS = ("data", "seg")


def is_batchgenerators_transform(found: type) -> bool:
    """Whether a class is one of batchgenerators' or derived from one; does not import the package."""
    module = sys.modules.get("batchgenerators.transforms.abstract_transforms")
    base = getattr(module, "AbstractTransform", None)
    if base is not None and issubclass(found, base):
        return found is not base
    # Some of the package's transforms are not derived from its base class, and behave as if they were.
    callable_objects = any("__call__" in vars(parent) for parent in found.__mro__)
    return callable_objects and found.__module__.startswith("batchgenerators.transforms.")


@dataclass(frozen=True)
class BatchgeneratorsTransform(IntensityTransform):
    """Runs a transform of batchgenerators on one sample, on the CPU.

    It draws from the global generators of numpy and `random`, so these are seeded from the sample's own draw
    and restored afterwards. Its ``p_per_sample`` is drawn with all other choices, before the image is touched.

    Attributes:
        name: as it stands in the plan.
        transform: called with ``data`` and ``seg``; may change both.
        probability: that a sample is handed to it.
    """

    needs_cpu: ClassVar[bool] = True

    name: str
    transform: Any
    probability: float

    @classmethod
    def from_plans(
        cls, name: str, transform_class: type, arguments: dict[str, Any], where: str, problems: list[str]
    ) -> BatchgeneratorsTransform | None:
        """Call the constructor with `arguments`; mistakes are appended to `problems`, and None returned."""
        parameters = inspect.signature(transform_class).parameters
        takes_any = any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters.values())
        unknown = [] if takes_any else [key for key in arguments if key not in parameters]
        for key in unknown:
            problems.append(
                f"{where}: '{key}' is not an argument.{did_you_mean(key, parameters)} "
                f"It takes: {', '.join(parameters)}."
            )
        arguments = {key: _with_tuples(value) for key, value in arguments.items() if key not in unknown}
        missing = [
            parameter.name
            for parameter in parameters.values()
            if parameter.default is parameter.empty
            and parameter.kind in (parameter.POSITIONAL_OR_KEYWORD, parameter.KEYWORD_ONLY)
            and parameter.name not in arguments
        ]
        if missing:
            problems.append(f"{where}: the argument '{missing[0]}' is missing; it has no default.")
        probability = 1.0
        if "p_per_sample" in parameters:
            default = parameters["p_per_sample"].default
            given = arguments.get("p_per_sample", 1.0 if default is inspect.Parameter.empty else default)
            if isinstance(given, (int, float)):
                if not 0 <= given <= 1:
                    problems.append(f"{where}.p_per_sample: found {given!r}, expected at least 0 and at most 1.")
                probability, arguments["p_per_sample"] = float(given), 1.0
        if unknown or missing:
            return None
        try:
            return cls(name, transform_class(**arguments), probability)
        except Exception as error:
            problems.append(f"{where}: {transform_class.__name__} refuses its arguments: {_in_words(error)}.")
            return None

    def draw(self, uniforms: Uniforms, num_channels: int, geometry: PatchGeometry) -> Drawn:
        return {} if uniforms.chance(self.probability) else None

    def apply_to_patch(self, image: Tensor, labels: Tensor | None, drawn: dict[str, Any], seed: int) -> None:
        if labels is None:
            raise ValueError(f"{self.name} may move labels too: hand them to Augmentation.apply_intensities.")
        # Copies: a transform may write into what it is given and fail half-way, or return a view of it.
        data, segmentation = (array[None].cpu().numpy().copy() for array in (image, labels))
        with _seeded(seed):
            try:
                result = self.transform(data=data, seg=segmentation)
            except Exception as error:
                raise PlansError(
                    f"augmentation: {self.name} failed on patches of {tuple(data.shape[1:])}: {_in_words(error)}. "
                    "Check its arguments in the plan."
                ) from error
        for key, tensor in zip(_KEYS, (image, labels)):
            found = result.get(key) if isinstance(result, dict) else None
            expected = (1, *tensor.shape)
            if not isinstance(found, np.ndarray) or found.shape != expected:
                shape = found.shape if isinstance(found, np.ndarray) else type(found).__name__
                raise PlansError(
                    f"augmentation: {self.name} returned {shape} as '{key}', expected an array of {expected}. "
                    "A transform here may change grey values and labels, not the shape of the patch."
                )
            tensor.copy_(torch.from_numpy(np.ascontiguousarray(found[0])))


@contextmanager
def _seeded(seed: int) -> Iterator[None]:
    """The global generators of numpy and `random` as functions of the seed; afterwards as they were."""
    numpy_state, python_state = np.random.get_state(), random.getstate()
    np.random.seed([seed & 0xFFFFFFFF, seed >> 32 & 0xFFFFFFFF])
    random.seed(seed)
    try:
        yield
    finally:
        np.random.set_state(numpy_state)
        random.setstate(python_state)


def _with_tuples(value: Any) -> Any:
    """JSON knows lists only; batchgenerators often asks for tuples."""
    return tuple(_with_tuples(entry) for entry in value) if isinstance(value, list) else value


def _in_words(error: Exception) -> str:
    return f"{type(error).__name__}: {error}".rstrip(".")
