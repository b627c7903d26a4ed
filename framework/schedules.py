"""One family of scalar schedules: learning rates, loss weights, anything that changes while training.

A schedule is a function of progress, never a state, so resuming cannot put it out of step.
"""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Callable
from typing import Any, Literal

from framework.errors import PlansError, UnknownNameError
from framework.training_settings import named

Schedule = Callable[[float], float]


def poly(*, initial: float, duration: float, exponent: float = 0.9) -> Schedule:
    """``initial * (1 - t / duration) ** exponent``; 0 from `duration` on."""
    return lambda t: initial * max(0.0, 1.0 - t / duration) ** exponent


def cosine(*, initial: float, duration: float, final: float = 0.0, warmup: float = 0.0) -> Schedule:
    """Linear from 0 over `warmup`, then half a cosine down to `final` (Loshchilov & Hutter 2017, SGDR, ICLR)."""

    def value(t: float) -> float:
        if t < warmup:
            return initial * t / warmup
        done = min(1.0, (t - warmup) / max(duration - warmup, 1e-12))
        return final + (initial - final) * 0.5 * (1.0 + math.cos(math.pi * done))

    return value


def constant(*, initial: float, duration: float = 0.0) -> Schedule:
    """The same value always."""
    return lambda t: initial


def gate(*, initial: float, start: float, duration: float = 0.0) -> Schedule:
    """0 up to and including `start`, then `initial`."""
    return lambda t: initial if t > start else 0.0


def ramp(*, initial: float, start: float, stop: float, begin: float = 0.0, duration: float = 0.0) -> Schedule:
    """Linear from `begin` at `start` to `initial` at `stop`; constant outside."""

    def value(t: float) -> float:
        done = min(1.0, max(0.0, (t - start) / (stop - start)))
        return begin + (initial - begin) * done

    return value


def piecewise(
    *, initial: float, milestones: list[float], factor: float | list[float] = 0.1, duration: float = 0.0
) -> Schedule:
    """`initial`, multiplied by `factor` (one number, or one for each milestone) after every milestone."""
    factors = factor if isinstance(factor, list) else [factor] * len(milestones)
    if len(factors) != len(milestones):
        raise PlansError(f"schedule 'piecewise': {len(milestones)} milestones but {len(factors)} factors.")
    values = [initial]
    for number in factors:
        values.append(values[-1] * number)
    # "after": the value changes on the first t above the milestone, like `gate`.
    return lambda t: values[sum(t > milestone for milestone in milestones)]


def listed(
    *, initial: float = 1.0, values: list[float], starts: list[float] | None = None, duration: float = 0.0
) -> Schedule:
    """``initial * values[i]`` from ``starts[i]`` on (by default from t = i); the last value stays."""
    starts = list(range(len(values))) if starts is None else starts
    if not values or len(starts) != len(values):
        raise PlansError(f"schedule 'list': {len(values)} values but {len(starts)} starts; both need the same length.")
    return lambda t: initial * values[max(0, bisect_right(starts, t) - 1)]


SCHEDULES: dict[str, Callable[..., Schedule]] = {
    "poly": poly,
    "cosine": cosine,
    "constant": constant,
    "gate": gate,
    "ramp": ramp,
    "piecewise": piecewise,
    "list": listed,
}

Unit = Literal["epoch", "iteration"]


def build_schedule(
    spec: float | str | dict[str, Any],
    *,
    initial: float = 1.0,
    num_epochs: int,
    iterations_per_epoch: int,
    where: str = "schedule",
) -> Callable[[int], float]:
    """A function of the global iteration (0 = before the first update).

    Args:
        spec: a number, a name, or ``{"name": ..., "unit": "epoch" | "iteration", argument: value}``.
            Times in it are epochs (constant within an epoch, nnU-Net's way) unless the unit is ``iteration``.
        initial: the value that a schedule starts from where `spec` gives none.

    Raises:
        PlansError: unknown name, unknown or missing argument.
    """
    if isinstance(spec, (int, float)):
        number = float(spec)
        return lambda iteration: number
    name, arguments = named(spec, where)
    if name not in SCHEDULES:
        raise UnknownNameError("schedule", name, SCHEDULES, where)
    unit = arguments.pop("unit", "epoch")
    if unit not in ("epoch", "iteration"):
        raise PlansError(f"{where}.unit: found {unit!r}, expected 'epoch' or 'iteration'.")
    duration = num_epochs if unit == "epoch" else num_epochs * iterations_per_epoch
    try:
        schedule = SCHEDULES[name](**{"initial": initial, "duration": duration, **arguments})
        schedule(0.0)
    except TypeError as error:
        raise PlansError(f"{where}: schedule '{name}' cannot be built from {arguments!r}: {error}.") from None
    if unit == "iteration":
        return lambda iteration: schedule(float(iteration))
    return lambda iteration: schedule(float(iteration // iterations_per_epoch))
