"""Observers: one file each. `default_hooks` is what a training gets without asking."""

from __future__ import annotations

from typing import TYPE_CHECKING

from framework.errors import FoldwiseError
from framework.extensions import find_class
from framework.hook import Hook
from framework.training_settings import TrainingSettings, named

if TYPE_CHECKING:
    from framework.base_trainer import BaseTrainer

HOOKS = {
    "DivergenceDetector": "framework.hooks.divergence:DivergenceDetector",
    "EarlyStopping": "framework.hooks.early_stopping:EarlyStopping",
    "WeightAveraging": "framework.hooks.weight_averaging:WeightAveraging",
}
"""Hooks that plans and ``--hook`` can name without their module."""


def default_hooks(trainer: BaseTrainer) -> list[Hook]:
    """The default hooks for a trainer's settings; those that write files only where it has a run folder.

    Of several processes all have the hooks that compute or decide, and rank 0 has those that speak and write.
    """
    from framework.hooks.checkpoints import SaveCheckpoints
    from framework.hooks.console import Console
    from framework.hooks.early_stopping import EarlyStopping
    from framework.hooks.epoch_losses import EpochLosses
    from framework.hooks.history_file import HistoryFile
    from framework.hooks.non_finite import NonFiniteRecord
    from framework.hooks.preemption import Preemption
    from framework.hooks.progress_plot import ProgressPlot
    from framework.hooks.rank_watch import RankWatch
    from framework.hooks.run_description import RunDescription
    from framework.hooks.running_statistics import RunningStatistics
    from framework.hooks.stop_on_request import StopOnRequest
    from framework.hooks.text_log import TextLog
    from framework.hooks.time_estimate import TimeEstimate
    from framework.hooks.weight_averaging import WeightAveraging

    settings = trainer.settings
    hooks: list[Hook] = [EpochLosses(), Preemption(), StopOnRequest(), RunningStatistics()]
    if trainer.ranks.size > 1:
        hooks.append(RankWatch())
    if settings.weight_averaging is not None:
        hooks.append(WeightAveraging(settings.weight_averaging))
    if settings.early_stopping is not None:
        hooks.append(EarlyStopping.from_settings(settings.early_stopping))
    if trainer.ranks.is_main:
        hooks += [Console(), TimeEstimate()]
    if trainer.run_folder is not None and trainer.ranks.is_main:
        hooks += [RunDescription(), NonFiniteRecord(), TextLog(), HistoryFile(), ProgressPlot(), SaveCheckpoints()]
    return hooks


def find_hook(name: str) -> type[Hook]:
    """The hook class that `name` stands for: a name in `HOOKS`, ``package.module:Class``, or ``file.py:Class``."""
    return find_class(name, base=Hook, kind="hook", table=HOOKS)


def hooks_from_settings(settings: TrainingSettings) -> list[Hook]:
    """The hooks that plans name under ``training.hooks``."""
    return [build_hook(*named(spec, "training.hooks")) for spec in settings.hooks]


def build_hook(name: str, arguments: dict[str, object] | None = None) -> Hook:
    """An instance of the hook class `name`.

    Raises:
        FoldwiseError: unknown name, or arguments that the class does not take.
    """
    try:
        return find_hook(name)(**(arguments or {}))
    except TypeError as error:
        raise FoldwiseError(f"hook {name} cannot be built with {arguments or {}}: {error}.") from None
