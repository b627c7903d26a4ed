"""The ``training`` block of a plans file: every number of a training, typed, with nnU-Net's values as defaults."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from typing import Any, Literal

from framework.errors import PlansError
from framework.validation import at_least, between, read_block


@dataclass(frozen=True)
class TrainingSettings:
    """Numbers and names that describe a training; behaviours are classes, see `BaseTrainer`.

    ``optimizer``, ``schedule`` and the entries of ``hooks`` are a name, or ``{"name": ..., argument: value}``.
    A loss weight is a number, or a schedule over epochs as in `framework.schedules`.
    ``"auto"`` is decided from the device when training starts, and the decision is printed.
    """

    num_epochs: int = field(default=1000, metadata=at_least(1))
    iterations_per_epoch: int = field(default=250, metadata=at_least(1))
    validation_iterations_per_epoch: int = field(default=50, metadata=at_least(0))
    validate_every_epochs: int = field(default=1, metadata=at_least(1))

    initial_lr: float = field(default=1e-2, metadata=at_least(0))
    weight_decay: float = field(default=3e-5, metadata=at_least(0))
    optimizer: str | dict[str, Any] = field(default_factory=lambda: {"name": "SGD", "momentum": 0.99, "nesterov": True})
    schedule: str | dict[str, Any] = field(default_factory=lambda: {"name": "poly", "exponent": 0.9})
    gradient_clip_norm: float | None = field(default=12.0, metadata=at_least(0))
    gradient_accumulation: int = field(default=1, metadata=at_least(1))
    non_finite: Literal["skip", "raise"] = "skip"
    max_non_finite_updates: int = field(default=25, metadata=at_least(1))
    weight_averaging: float | None = field(default=None, metadata=between(0, 1))

    precision: Literal["auto", "fp16", "bf16", "fp32"] = "auto"
    compile: Literal["auto"] | bool = "auto"
    channels_last: Literal["auto"] | bool = "auto"
    tf32: Literal["auto"] | bool = "auto"

    deterministic: bool = False
    seed: int = field(default=0, metadata=at_least(0))
    num_workers: Literal["auto"] | int = field(default="auto", metadata=at_least(0))
    store: Literal["auto", "packed", "unpacked", "memory", "device"] = "auto"
    oversample_foreground_percent: float = field(default=0.33, metadata=between(0, 1))
    deep_supervision: bool = True
    loss_weights: dict[str, float | dict[str, Any]] = field(default_factory=dict)

    checkpoint_every_epochs: int = field(default=10, metadata=at_least(1))
    checkpoint_every_minutes: float | None = field(default=10.0, metadata=at_least(0))
    checkpoint_keep_last: int = field(default=1, metadata=at_least(1))
    checkpoint_milestones: list[int] = field(default_factory=list)
    rank_timeout_minutes: float = field(default=10.0, metadata=at_least(0))
    early_stopping: dict[str, Any] | None = None
    final_validation: bool = True
    hooks: list[str | dict[str, Any]] = field(default_factory=list)

    @classmethod
    def from_dict(cls, block: dict[str, Any], where: str = "training") -> TrainingSettings:
        """Read a block; PlansError lists every mistake in it."""
        problems: list[str] = []
        accepted = read_block(cls, block, where, problems)
        if problems:
            raise PlansError("\n".join(problems))
        return cls(**accepted)

    def to_dict(self) -> dict[str, Any]:
        """All fields as plain JSON values."""
        return dataclasses.asdict(self)


def named(spec: str | dict[str, Any], where: str, key: str = "name") -> tuple[str, dict[str, Any]]:
    """Split ``"SGD"`` or ``{"name": "SGD", "momentum": 0.9}`` into the name and its arguments."""
    if isinstance(spec, str):
        return spec, {}
    arguments = dict(spec)
    name = arguments.pop(key, None)
    if not isinstance(name, str):
        raise PlansError(f'{where}: found {spec!r}, expected a name or an object with "{key}".')
    return name, arguments
