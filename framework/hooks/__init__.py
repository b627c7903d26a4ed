"""Observers: one file each. `default_hooks` is what a training gets without asking."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from framework.base_trainer import BaseTrainer
    from framework.hook import Hook

HOOKS = {
    "EarlyStopping": "framework.hooks.early_stopping:EarlyStopping",
    "WeightAveraging": "framework.hooks.weight_averaging:WeightAveraging",
}
"""Hooks that plans and ``--hook`` can name without their module."""


def default_hooks(trainer: BaseTrainer) -> list[Hook]:
    """The default hooks for a trainer's settings; those that write files only where it has a run folder."""
    from framework.hooks.checkpoints import SaveCheckpoints
    from framework.hooks.console import Console
    from framework.hooks.early_stopping import EarlyStopping
    from framework.hooks.epoch_losses import EpochLosses
    from framework.hooks.history_file import HistoryFile
    from framework.hooks.preemption import Preemption
    from framework.hooks.progress_plot import ProgressPlot
    from framework.hooks.run_description import RunDescription
    from framework.hooks.text_log import TextLog
    from framework.hooks.time_estimate import TimeEstimate
    from framework.hooks.weight_averaging import WeightAveraging

    settings = trainer.settings
    hooks: list[Hook] = [EpochLosses(), Console(), TimeEstimate(), Preemption()]
    if settings.weight_averaging is not None:
        hooks.append(WeightAveraging(settings.weight_averaging))
    if settings.early_stopping is not None:
        hooks.append(EarlyStopping.from_settings(settings.early_stopping))
    if trainer.run_folder is not None:
        hooks += [RunDescription(), TextLog(), HistoryFile(), ProgressPlot(), SaveCheckpoints()]
    return hooks
