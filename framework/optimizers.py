"""Optimizers by name."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch

from framework.errors import PlansError, UnknownNameError
from framework.training_settings import TrainingSettings, named


def build_optimizer(settings: TrainingSettings, parameters: Iterable[Any]) -> torch.optim.Optimizer:
    """The optimizer of the plans: any class of `torch.optim`, with its arguments.

    Weight decay applies to all parameters, as in nnU-Net.

    Raises:
        PlansError: unknown name, or arguments that the optimizer does not take.
    """
    name, arguments = named(settings.optimizer, "training.optimizer")
    classes: dict[str, Any] = {
        key: value
        for key, value in vars(torch.optim).items()
        if isinstance(value, type) and issubclass(value, torch.optim.Optimizer) and key != "Optimizer"
    }
    if name not in classes:
        raise UnknownNameError("optimizer", name, classes, "training.optimizer")
    arguments = {"weight_decay": settings.weight_decay, **arguments}
    parameters = list(parameters)
    on_gpu = any(getattr(parameter, "is_cuda", False) for parameter in parameters)
    if on_gpu and name in ("SGD", "Adam", "AdamW") and "fused" not in arguments and "foreach" not in arguments:
        # One kernel for all parameters, and it can leave out a step without asking the host.
        arguments["fused"] = True
    try:
        return classes[name](parameters, lr=settings.initial_lr, **arguments)
    except (TypeError, ValueError) as error:
        raise PlansError(f"training.optimizer: {name} cannot be built with {arguments!r}: {error}.") from None
