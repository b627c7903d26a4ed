"""The training loop with all its protections against the same loop without them (seconds a step; goal: under 1%).

    with       checkpoints written beside the training, signals, time limit and STOP file watched, NaN and Inf looked
               for, skipped, counted and recorded, history and log written, run folder locked
    without    no run folder, no such hooks, and an update that does not look at what it does

Both train a U-Net such as the laptop plans have, on the CPU, in short blocks that take turns. A block is the same
training from its beginning; its first epoch warms up. What is timed is the time from the start of the second epoch to
the end of the last, with everything that happens between epochs, for each step. The protected side saves a checkpoint
every second epoch: far more often than a real training, where ten minutes pass between two. The progress picture is
no protection and is left out on both sides.

The difference is smaller than the noise of most machines. So it is also derived: the costs of a step, of the end of an
epoch and of a checkpoint are measured where nothing else hides them (the first two with a network of one weight), and
set against the time of a step above, in epochs of 100 steps with a checkpoint every 10 epochs (the laptop plans). For a
checkpoint all processor time counts, the writing thread's too, as if the training had stood still for it.

On a machine with other work, set GOMP_SPINCOUNT=10000, as fw_train does; see busy_machine.
"""

from __future__ import annotations

import statistics
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks.runner import Result, interleave
from framework.base_trainer import BaseTrainer
from framework.hook import Hook
from framework.losses.segmentation_loss import SegmentationLoss
from framework.networks.unet import PlainConvUNet
from framework.parameter_update import ParameterUpdate
from framework.training_settings import TrainingSettings

EPOCHS, STEPS = 4, 20  # of a block
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


class Stopwatch(Hook):
    """Seconds of every step, of every end of an epoch, and of all epochs but the first."""

    priority = 100

    def __init__(self) -> None:
        self.steps: list[float] = []
        self.ends: list[float] = []
        self.started = self._since = 0.0
        self.seconds = 0.0

    def on_train_epoch_start(self, trainer: BaseTrainer) -> None:
        self._since = time.perf_counter()
        if trainer.progress.epochs_completed == 1:
            self.started = self._since
            self.steps, self.ends = [], []

    def on_step_end(self, trainer: BaseTrainer, outputs: dict[str, Any]) -> None:
        now = time.perf_counter()
        self.steps.append(now - self._since)
        self._since = now

    def on_checkpoint(self, trainer: BaseTrainer) -> None:
        now = time.perf_counter()
        self.ends.append(now - self._since)
        self.seconds = now - self.started

    @property
    def seconds_a_step(self) -> float:
        return self.seconds / len(self.steps)


def train(trainer_class: type[UNetTrainer], protected: bool, **numbers: Any) -> Stopwatch:
    """A block of training, timed."""
    watch = Stopwatch()
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
    return watch


def tiny(protected: bool) -> Stopwatch:
    # Its checkpoint is that of the first epoch, which is not timed.
    return train(
        TinyTrainer,
        protected,
        num_epochs=TINY_EPOCHS,
        iterations_per_epoch=TINY_STEPS,
        checkpoint_every_epochs=1000,
        channels_last=False,
    )


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
    block = {"num_epochs": EPOCHS, "iterations_per_epoch": STEPS, "checkpoint_every_epochs": 2}
    protected, bare = interleave(
        repeat,
        lambda: train(UNetTrainer, True, **block).seconds_a_step,
        lambda: train(UNetTrainer, False, **block).seconds_a_step,
    )
    ours: list[Stopwatch] = []
    theirs: list[Stopwatch] = []

    def step_of(watches: list[Stopwatch], with_protections: bool) -> float:
        watches.append(tiny(with_protections))
        return statistics.median(watches[-1].steps)

    steps = interleave(max(3, repeat), lambda: step_of(ours, True), lambda: step_of(theirs, False))
    step = statistics.median(steps[0]) - statistics.median(steps[1])
    end = _median_end(ours) - _median_end(theirs)
    stall, used = checkpoint_seconds(repeat)
    epoch = LAPTOP_STEPS * statistics.median(bare)
    derived = (LAPTOP_STEPS * step + end + used / LAPTOP_CHECKPOINT_EPOCHS) / epoch
    notes = [
        f"measured: {_percent(protected, bare, statistics.median):+.2f} % of the medians, "
        f"{_percent(protected, bare, min):+.2f} % of the minima (blocks of {(EPOCHS - 1) * STEPS} steps, a checkpoint "
        f"every {2 * STEPS})",
        f"a step costs {step * 1e6:.0f} microseconds more, the end of an epoch {end * 1e3:.1f} ms, "
        f"a checkpoint {used * 1e3:.0f} ms of processor time, in {stall * 1e3:.0f} of which the training stands still",
        f"derived, for epochs of {LAPTOP_STEPS} steps with a checkpoint every {LAPTOP_CHECKPOINT_EPOCHS} epochs: "
        f"{100 * derived:.2f} % (goal: under 1)",
    ]
    return Result("s", protected, bare, labels=("with protections", "without"), notes=notes)


def _median_end(watches: list[Stopwatch]) -> float:
    return statistics.median(end for watch in watches for end in watch.ends)


def _percent(ours: list[float], theirs: list[float], middle: Any) -> float:
    return 100 * (middle(ours) / middle(theirs) - 1)
