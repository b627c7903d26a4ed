"""The training loop with all its protections against the same loop without them (seconds a step; goal: under 1%).

    with       checkpoints written beside the training, signals, time limit and STOP file watched, NaN and Inf looked
               for, skipped, counted and recorded, history and log written, run folder locked
    without    no run folder, no such hooks, and an update that does not look at what it does

Both train a U-Net such as the laptop plans have, on one core, in two threads that take turns step by step; the first
epoch warms up. A step is timed with everything that the loop does before the next, also between epochs. The progress
picture is no protection and is left out on both sides.

What checkpoints cost cannot be seen in medians of steps. So the overhead is also derived: the costs of a step, of the
end of an epoch and of a checkpoint are measured where nothing else hides them (the first two with a network of one
weight), and set against the time of a step above, in epochs of 100 steps with a checkpoint every 10 epochs (the laptop
plans). For a checkpoint all processor time counts, the writing thread's too, as if the training had stood still for it.
"""

from __future__ import annotations

import math
import statistics
import tempfile
import threading
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks.runner import Result
from framework.allocator import keep_freed_memory
from framework.base_trainer import BaseTrainer
from framework.hook import Hook
from framework.losses.segmentation_loss import SegmentationLoss
from framework.networks.unet import PlainConvUNet
from framework.parameter_update import ParameterUpdate
from framework.training_settings import TrainingSettings

EPOCHS, STEPS = 4, 10  # of a block
TINY_EPOCHS, TINY_STEPS = 5, 400
LAPTOP_STEPS, LAPTOP_CHECKPOINT_EPOCHS = 100, 10
PATCH, WIDTHS = (48, 48, 48), (8, 16, 32, 64, 128)
PROTECTIONS = ("Preemption", "StopOnRequest", "RunningStatistics")
"""Hooks that a trainer without run folder has; the others come with the folder."""


@dataclass
class Batch:
    data: Tensor
    target: Tensor
    case_names: list[str]


class UNetTrainer(BaseTrainer):
    """A laptop-sized network on patches that cost nothing to make."""

    def default_hooks(self) -> list[Hook]:
        return [hook for hook in super().default_hooks() if hook.name != "ProgressPlot"]

    def build_network(self) -> nn.Module:
        stages = len(WIDTHS)
        return PlainConvUNet(
            input_channels=1,
            n_stages=stages,
            features_per_stage=list(WIDTHS),
            conv_op=nn.Conv3d,
            kernel_sizes=[[3, 3, 3]] * stages,
            strides=[[1, 1, 1]] + [[2, 2, 2]] * (stages - 1),
            n_conv_per_stage=[1, *[2] * (stages - 1)],
            num_classes=3,
            n_conv_per_stage_decoder=[1] * (stages - 1),
            conv_bias=True,
            norm_op=nn.InstanceNorm3d,
            norm_op_kwargs={"eps": 1e-5, "affine": True},
            nonlin=nn.LeakyReLU,
            nonlin_kwargs={"inplace": True},
            deep_supervision=False,
        )

    def build_loss(self) -> nn.Module:
        return SegmentationLoss()

    def build_batches(self) -> tuple[Any, Any]:
        torch.manual_seed(0)
        batch = Batch(torch.randn(2, 1, *PATCH), torch.randint(0, 3, (2, 1, *PATCH)), ["case_1", "case_2"])
        return (lambda number: batch), None

    def compute_losses(self, batch: Batch) -> dict[str, Tensor]:
        assert self.loss is not None
        return self.loss(self.forward(batch.data), batch.target)


class TinyTrainer(UNetTrainer):
    """So little computation that what remains is the loop."""

    def build_network(self) -> nn.Module:
        return nn.Linear(1, 1)

    def build_batches(self) -> tuple[Any, Any]:
        batch = Batch(torch.ones(1, 1), torch.ones(1, 1), ["case_1", "case_2"])
        return (lambda number: batch), None

    def build_loss(self) -> None:
        return None

    def compute_losses(self, batch: Batch) -> dict[str, Tensor]:
        square = self.forward(batch.data).square().mean()
        return {"cross_entropy": square, "dice": square}


class UnprotectedUpdate(ParameterUpdate):
    """Updates whatever the gradients are."""

    def _mark(self, loss: Tensor) -> None:
        pass

    def _step(self) -> None:
        self.scaler.step(self.optimizer)
        self.scaler.update()


class Turns:
    """Two trainings in two threads take turns, so that a change of the machine's mood hits both."""

    def __init__(self) -> None:
        self._condition = threading.Condition()
        self._turn_of = 0
        self._there = {0, 1}

    def take(self, side: int) -> None:
        with self._condition:
            self._condition.wait_for(lambda: self._turn_of == side or self._there == {side})

    def give(self, side: int, forever: bool = False) -> None:
        with self._condition:
            self._turn_of = 1 - side
            if forever:
                self._there.discard(side)
            self._condition.notify_all()


class Stopwatch(Hook):
    """Seconds of every step after the first epoch, with all that the loop does between two of them."""

    priority = 100

    def __init__(self, turns: Turns | None = None, side: int = 0) -> None:
        self.steps: list[float] = []
        self._turns, self._side = turns, side
        self._since = 0.0

    def on_train_start(self, trainer: BaseTrainer) -> None:
        self._begin()

    def on_step_end(self, trainer: BaseTrainer, outputs: dict[str, Any]) -> None:
        seconds = time.perf_counter() - self._since
        if trainer.progress.epochs_completed > 0:
            self.steps.append(seconds)
        if self._turns is not None:
            self._turns.give(self._side)
        self._begin()

    def _begin(self) -> None:
        if self._turns is not None:
            self._turns.take(self._side)
        self._since = time.perf_counter()


def train(trainer_class: type[UNetTrainer], protected: bool, watch: Stopwatch, **numbers: Any) -> None:
    settings = TrainingSettings(validation_iterations_per_epoch=0, num_workers=0, **numbers)
    with tempfile.TemporaryDirectory() as folder:
        trainer = trainer_class(settings, run_folder=Path(folder) if protected else None, device="cpu", hooks=[watch])
        trainer.report = lambda message: None
        if not protected:
            for name in PROTECTIONS:
                trainer.detach(name)
            trainer.build_update = lambda: UnprotectedUpdate(  # type: ignore[method-assign]
                trainer.optimizer, trainer.network.parameters(), device=trainer.device, precision="fp32"
            )
        trainer.run_training()


def both(trainer_class: type[UNetTrainer], **numbers: Any) -> tuple[list[float], list[float]]:
    """Seconds of the steps with and without protections, which took turns."""
    turns = Turns()
    watches = [Stopwatch(turns, side) for side in (0, 1)]

    def run_side(side: int) -> None:
        try:
            train(trainer_class, side == 0, watches[side], **numbers)
        finally:
            turns.give(side, forever=True)

    beside = threading.Thread(target=run_side, args=(1,))
    beside.start()
    run_side(0)  # in the main thread, which alone can watch signals
    beside.join()
    return watches[0].steps, watches[1].steps


def checkpoint_seconds(repeat: int) -> tuple[float, float]:
    """For the U-Net: how long the training stands still, and all processor time until the file is on the disk."""
    stalls, used = [], []
    with tempfile.TemporaryDirectory() as folder:
        settings = TrainingSettings(num_epochs=1, iterations_per_epoch=2, validation_iterations_per_epoch=0)
        trainer = UNetTrainer(settings, run_folder=Path(folder), device="cpu")
        trainer.report = lambda message: None
        trainer.run_training()
        for _ in range(max(3, repeat)):
            started, used_before = time.perf_counter(), time.process_time()
            trainer.save_checkpoint("latest")
            stalls.append(time.perf_counter() - started)
            trainer.checkpoint_writer.wait()
            used.append(time.process_time() - used_before)
        trainer.checkpoint_writer.close()
    return statistics.median(stalls), statistics.median(used)


def run(repeat: int) -> Result:
    torch.set_num_threads(1)
    keep_freed_memory()
    ours: list[float] = []
    bare: list[float] = []
    for _ in range(repeat):
        blocks = both(UNetTrainer, num_epochs=EPOCHS, iterations_per_epoch=STEPS, checkpoint_every_epochs=2)
        ours += blocks[0]
        bare += blocks[1]
    low, middle, high = _median_with_interval([with_them / without - 1 for with_them, without in zip(ours, bare)])
    step, end = _loop_alone(max(3, repeat))
    stall, used = checkpoint_seconds(repeat)
    epoch = LAPTOP_STEPS * statistics.median(bare)
    derived = (LAPTOP_STEPS * step + end + used / LAPTOP_CHECKPOINT_EPOCHS) / epoch
    notes = [
        f"measured: {100 * middle:+.2f} % (median of {len(ours)} pairs of steps, 95 % interval {100 * low:+.2f} to "
        f"{100 * high:+.2f})",
        f"a step costs {step * 1e6:.0f} microseconds more, the end of an epoch {end * 1e3:.1f} ms, "
        f"a checkpoint {used * 1e3:.0f} ms of processor time, in {stall * 1e3:.0f} of which the training stands still",
        f"derived, for epochs of {LAPTOP_STEPS} steps with a checkpoint every {LAPTOP_CHECKPOINT_EPOCHS} epochs: "
        f"{100 * derived:.2f} % (goal: under 1)",
    ]
    means = [[statistics.mean(chunk) for chunk in _blocks(side, repeat)] for side in (ours, bare)]
    return Result("s", means[0], means[1], labels=("with protections", "without"), notes=notes)


def _loop_alone(repeat: int) -> tuple[float, float]:
    """What protections cost where there is next to no computation: seconds of a step, and of the end of an epoch.

    Of the differences of pairs, the median: of steps within an epoch, and of those that come first in one.
    """
    within, first = [], []
    for _ in range(repeat):
        # Their checkpoint is that of the first epoch, which is not timed.
        pairs = both(
            TinyTrainer,
            num_epochs=TINY_EPOCHS,
            iterations_per_epoch=TINY_STEPS,
            checkpoint_every_epochs=1000,
            channels_last=False,
        )
        for number, (with_them, without) in enumerate(zip(*pairs)):
            (within if number % TINY_STEPS else first).append(with_them - without)
    step = statistics.median(within)
    return step, statistics.median(first) - step


def _median_with_interval(values: list[float]) -> tuple[float, float, float]:
    """(low, median, high): the 95 % interval of a median lies between two order statistics."""
    ordered, half = sorted(values), 0.98 * math.sqrt(len(values))
    low, high = int(len(values) / 2 - half), math.ceil(len(values) / 2 + half)
    return ordered[max(0, low)], statistics.median(values), ordered[min(high, len(values) - 1)]


def _blocks(values: list[float], number: int) -> list[list[float]]:
    size = len(values) // number
    return [values[start : start + size] for start in range(0, size * number, size)]
