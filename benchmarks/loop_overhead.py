"""The loop with its hooks against the same training as a bare PyTorch loop (seconds an iteration)."""

from __future__ import annotations

import time
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks.runner import Result, interleave
from framework.base_trainer import BaseTrainer
from framework.hook import POINTS, Hook
from framework.training_settings import TrainingSettings

ITERATIONS = 20


def make_batch(number: int) -> dict[str, Tensor]:
    torch.manual_seed(number)
    return {"data": torch.randn(2, 1, 24, 24, 24), "target": torch.randint(0, 3, (2, 24, 24, 24))}


def make_network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv3d(1, 16, 3, padding=1), nn.InstanceNorm3d(16, affine=True), nn.LeakyReLU(),
        nn.Conv3d(16, 16, 3, padding=1), nn.InstanceNorm3d(16, affine=True), nn.LeakyReLU(), nn.Conv3d(16, 3, 1),
    )  # fmt: skip


class SmallTrainer(BaseTrainer):
    def build_network(self) -> nn.Module:
        return make_network()

    def build_batches(self) -> tuple[Any, Any]:
        return make_batch, None

    def compute_losses(self, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        return {"cross_entropy": nn.functional.cross_entropy(self.forward(batch["data"]), batch["target"])}


class Idle(Hook):
    """Overrides every point and does nothing."""

    def __init__(self, number: int) -> None:
        self.name = f"Idle{number}"


for _point in POINTS:
    setattr(Idle, _point, lambda self, trainer, *results: None)
# The signature of a lambda with *results fits every point.


class Stopwatch(Hook):
    """Seconds from the first step of the second epoch to its end; the first epoch warms up."""

    priority = -100

    def on_train_epoch_start(self, trainer: BaseTrainer) -> None:
        self.started = time.perf_counter()

    def on_train_epoch_end(self, trainer: BaseTrainer, outputs: list[dict[str, Any]]) -> None:
        self.seconds = (time.perf_counter() - self.started) / ITERATIONS


def settings() -> TrainingSettings:
    return TrainingSettings(
        num_epochs=2,
        iterations_per_epoch=ITERATIONS,
        validation_iterations_per_epoch=0,
        num_workers=0,
        channels_last=False,
    )


def our_loop(num_hooks: int = 0) -> float:
    watch = Stopwatch()
    hooks = [Idle(number) for number in range(num_hooks)]
    trainer = SmallTrainer(settings(), device="cpu", hooks=[watch, *hooks])
    trainer.report = lambda message: None
    trainer.run_training()
    return watch.seconds


def bare_loop() -> float:
    network = make_network()
    optimizer = torch.optim.SGD(network.parameters(), lr=0.01, momentum=0.99, nesterov=True, weight_decay=3e-5)
    seconds = 0.0
    for epoch in range(2):
        started = time.perf_counter()
        for iteration in range(ITERATIONS):
            batch = make_batch(epoch * ITERATIONS + iteration)
            loss = nn.functional.cross_entropy(network(batch["data"]), batch["target"])
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            nn.utils.clip_grad_norm_(network.parameters(), 12)
            optimizer.step()
        seconds = (time.perf_counter() - started) / ITERATIONS
    return seconds


def hook_microseconds(num_hooks: int = 16, steps: int = 20000) -> float:
    """Cost of announcing the seven points of a step to so many hooks that do nothing."""
    trainer = SmallTrainer(settings(), device="cpu")
    for hook in trainer.hooks:
        trainer.detach(hook.name)
    trainer.attach(*[Idle(number) for number in range(num_hooks)])
    started = time.perf_counter()
    for _ in range(steps):
        trainer._announce("on_step_start", None)
        trainer._announce("on_forward", None)
        trainer._announce("on_loss", None)
        trainer._announce("on_backward")
        trainer._announce("on_update")
        trainer._announce("on_step_end", None)
    return (time.perf_counter() - started) / steps * 1e6


def run(repeat: int) -> Result:
    ours, bare = interleave(repeat, our_loop, bare_loop)
    notes = [f"16 hooks that do nothing at every point: {hook_microseconds():.1f} microseconds a step (goal: under 50)"]
    return Result("s", ours, bare, labels=("BaseTrainer with its default hooks", "bare PyTorch loop"), notes=notes)
