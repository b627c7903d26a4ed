"""The state of a trainer: into a checkpoint, and back out of it."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from framework.checkpoint import load_checkpoint, newest_checkpoint
from framework.checkpoint_content import check_resumable, taken_from
from framework.device import to_device
from framework.errors import CheckpointError
from framework.extensions import location_of
from framework.progress import Progress
from framework.resumed_overrides import changed_settings
from framework.run_identity import software_versions, what_has_changed
from framework.state_form import (
    differs,
    history_differs,
    optimizer_differs,
    outputs_differ,
    settings_differ,
    with_missing_options,
)

if TYPE_CHECKING:
    from framework.base_trainer import BaseTrainer


def trainer_state(trainer: BaseTrainer) -> dict[str, Any]:
    """Everything a resumed run needs, under nnU-Net's keys where it has them, and ours under ``foldwise``."""
    return {
        "network_weights": trainer.network.state_dict(),
        "optimizer_state": trainer.optimizer.state_dict(),
        "grad_scaler_state": trainer.update.scaler.state_dict() or None,
        "current_epoch": trainer.progress.epochs_completed,
        "trainer_name": type(trainer).__name__,
        "foldwise": {
            "trainer": location_of(type(trainer)),
            "progress": asdict(trainer.progress),
            "num_ranks": trainer.ranks.size,
            "update": trainer.update.state_dict(),
            "loss": trainer.loss.state_dict() if trainer.loss is not None else {},
            "history": trainer.history.state_dict(),
            "hooks": {hook.name: hook.state_dict() for hook in trainer.hooks},
            "train_outputs": trainer.train_outputs,
            "validation_outputs": trainer.validation_outputs,
            "settings": trainer.settings.to_dict(),
            "changed_settings": trainer.changed_settings,
            "experiment": trainer.experiment.to_record() if trainer.experiment else None,
            "versions": software_versions(),
            "data": trainer.data_identity(),
        },
    }


def restore_trainer(trainer: BaseTrainer, state: dict[str, Any], source: Path | str) -> None:
    """Give a trainer that is set up the state of a checkpoint, of ours or of nnU-Net's.

    Raises:
        CheckpointError: the network or the optimizer is another one.
    """
    check_resumable(state, source)
    _check_form(trainer, state, source)
    with taken_from(source, "network or optimizer"):
        trainer.load_network_weights(state["network_weights"])
        trainer.optimizer.load_state_dict(with_missing_options(state["optimizer_state"], trainer.optimizer))
    own = state.get("foldwise")
    if own is not None:
        now = {"versions": software_versions(), "data": trainer.data_identity()}
        for message in what_has_changed(own, now):
            trainer.report(f"warning: {message}")
    if own is None:
        trainer.progress = Progress(epochs_completed=int(state["current_epoch"]))
    else:
        trainer.progress = Progress(**own["progress"])
        if own.get("num_ranks", 1) != trainer.ranks.size and trainer.progress.phase == "validation":
            # The same batches again, which other processes make: cheaper than to reckon with half of a turn.
            trainer.progress.validation_steps_completed, own["validation_outputs"] = 0, []
        if trainer.settings.num_epochs > own["settings"]["num_epochs"]:
            trainer.progress.finished = False  # the run was made longer
        with taken_from(source, "the parameter update or the loss"):
            trainer.update.load_state_dict(own["update"])
            if trainer.loss is not None:
                trainer.loss.load_state_dict(own["loss"])
        trainer.history.load_state_dict(own["history"])
        # Merged outputs of several processes are kept on the host.
        place = trainer.device if trainer.ranks.size == 1 else torch.device("cpu")
        trainer.train_outputs = to_device(own["train_outputs"], place)
        trainer.validation_outputs = to_device(own["validation_outputs"], place)
        validates = trainer.progress.phase == "validation"
        trainer.lockstep.begin_phase(len(trainer.validation_outputs if validates else trainer.train_outputs))
        _take_changed_settings(trainer, own)
        for hook in trainer.hooks:
            if hook.name in own["hooks"]:
                with taken_from(source, f"the hook {hook.name}"):
                    hook.load_state_dict(own["hooks"][hook.name])
    trainer.seek_batches()


def _check_form(trainer: BaseTrainer, state: dict[str, Any], source: Path | str) -> None:
    """CheckpointError where something in a checkpoint has another form than what it is to replace."""
    own = state.get("foldwise")
    problems = {"the optimizer": optimizer_differs(state["optimizer_state"], trainer.optimizer)}
    if own is not None:
        problems["the parameter update"] = differs(own["update"], trainer.update.state_dict(), "update")
        problems["the history"] = history_differs(own["history"]["rows"], own["history"]["running"])
        problems["the running epoch"] = outputs_differ(own["train_outputs"]) or outputs_differ(
            own["validation_outputs"]
        )
        problems["the settings"] = settings_differ(own["settings"])
        for hook in trainer.hooks:
            # Hooks of others may keep now a number, now something else.
            if hook.name in own["hooks"] and type(hook).__module__.startswith("framework."):
                problems[f"the hook {hook.name}"] = differs(own["hooks"][hook.name], hook.state_dict(), hook.name)
    found = [f"the state of {part}: {problem}" for part, problem in problems.items() if problem]
    if found:
        raise CheckpointError(
            f"{source} does not fit this training. {'; '.join(found)}. Resume with the trainer and plans that the run "
            "was started with, or use another checkpoint of the same run."
        )


def _take_changed_settings(trainer: BaseTrainer, own: dict[str, Any]) -> None:
    """Tell and record with which numbers the run goes on that it was not begun with."""
    changes = changed_settings(own["settings"], trainer.settings.to_dict())
    trainer.changed_settings = list(own.get("changed_settings", []))
    if changes:
        text = ", ".join(f"{name} {before} -> {after}" for name, (before, after) in changes.items())
        trainer.report(f"changed from here on: {text}")
        trainer.changed_settings.append({"epochs_completed": trainer.progress.epochs_completed, "changes": changes})
    if "weight_decay" in changes:
        # The learning rate follows the schedule; this one stands in the optimizer's own state.
        for group in trainer.optimizer.param_groups:
            group["weight_decay"] = trainer.settings.weight_decay


def resume_trainer(trainer: BaseTrainer, tag: str | None = None) -> bool:
    """Load the newest readable checkpoint of the run folder, or the one named by `tag`; False if there is none."""
    if trainer.run_folder is None:
        raise CheckpointError("this trainer has no run folder to resume from.")
    if tag is not None:
        path = trainer.run_folder.checkpoint(tag)
        trainer.load_state_dict(load_checkpoint(path), source=path)
        return True
    # Rank 0 chooses: what is damaged, and what the newest is, must be seen alike by all.
    found = None
    if trainer.ranks.is_main:
        paths = trainer.run_folder.checkpoints()
        found = newest_checkpoint(paths, trainer.report)
        if found is None and paths:
            names = ", ".join(path.name for path in paths)
            raise CheckpointError(
                f"{trainer.run_folder.folder}: none of its checkpoints can be read ({names}). "
                "Put one back from a copy, or leave --c out to start anew (what is there is then kept aside)."
            )
    chosen = trainer.ranks.from_main(found and found[0])
    if chosen is None:
        return False
    trainer.load_state_dict(found[1] if found else load_checkpoint(chosen), source=chosen)
    progress = trainer.progress
    text = f"{progress.epochs_completed} of {trainer.settings.num_epochs} epochs completed"
    if progress.phase == "training":
        text += f", {progress.steps_completed} of {trainer.steps_per_epoch} steps of the next"
    trainer.report(f"resuming from {chosen.name}: {text}")
    return True
