"""The loop with its hooks against the same training as a bare PyTorch loop (seconds an iteration)."""

from __future__ import annotations

import itertools
import statistics
import time
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks.runner import Result, interleave
from framework.base_trainer import BaseTrainer
from framework.hook import POINTS, Hook
from framework.training_settings import TrainingSettings

ITERATIONS = 60


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
    """Median seconds from the end of one step to the end of the next, in the second epoch; the first warms up."""

    priority = 100

    def on_train_epoch_start(self, trainer: BaseTrainer) -> None:
        self.times = [time.perf_counter()]

    def on_step_end(self, trainer: BaseTrainer, outputs: dict[str, Any]) -> None:
        self.times.append(time.perf_counter())

    @property
    def seconds(self) -> float:
        return statistics.median(after - before for before, after in itertools.pairwise(self.times))


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
    times: list[float] = []
    for epoch in range(2):
        times = [time.perf_counter()]
        for iteration in range(ITERATIONS):
            batch = make_batch(epoch * ITERATIONS + iteration)
            loss = nn.functional.cross_entropy(network(batch["data"]), batch["target"])
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            nn.utils.clip_grad_norm_(network.parameters(), 12)
            optimizer.step()
            times.append(time.perf_counter())
    return statistics.median(after - before for before, after in itertools.pairwise(times))


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


class TinyTrainer(SmallTrainer):
    """So little computation that what remains is the loop."""

    def build_network(self) -> nn.Module:
        return nn.Linear(1, 1)

    def build_batches(self) -> tuple[Any, Any]:
        return (lambda number: torch.ones(1, 1)), None

    def compute_losses(self, batch: Tensor) -> dict[str, Tensor]:
        return {"square": self.forward(batch).square().mean()}


def overhead_microseconds(steps: int = 1000) -> float:
    """What a step of our loop costs more than a bare one, measured where the computation is next to nothing."""
    watch = Stopwatch()
    numbers = TrainingSettings(
        num_epochs=2, iterations_per_epoch=steps, validation_iterations_per_epoch=0, num_workers=0, channels_last=False
    )
    trainer = TinyTrainer(numbers, device="cpu", hooks=[watch])
    trainer.report = lambda message: None
    trainer.run_training()

    network = nn.Linear(1, 1)
    optimizer = torch.optim.SGD(network.parameters(), lr=0.01, momentum=0.99, nesterov=True, weight_decay=3e-5)
    times = [time.perf_counter()]
    for _ in range(steps):
        loss = network(torch.ones(1, 1)).square().mean()
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(network.parameters(), 12)
        optimizer.step()
        times.append(time.perf_counter())
    bare = statistics.median(after - before for before, after in itertools.pairwise(times))
    return (watch.seconds - bare) * 1e6


def run(repeat: int) -> Result:
    ours, bare = interleave(repeat, our_loop, bare_loop)
    overhead = statistics.median(overhead_microseconds() for _ in range(3))
    notes = [
        f"16 hooks that do nothing at every point: {hook_microseconds():.1f} microseconds a step (goal: under 50)",
        f"our loop costs {overhead:.0f} microseconds a step more than a bare one: "
        f"{100 * overhead / 1e6 / statistics.median(bare):.2f} % of this step",
    ]
    return Result("s", ours, bare, labels=("BaseTrainer with its default hooks", "bare PyTorch loop"), notes=notes)
