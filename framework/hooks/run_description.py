"""Take possession of a run folder, and write into it what is about to be run."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from framework.distributed import launch_id
from framework.files import remove_temporary_files, write_text
from framework.hook import Hook

if TYPE_CHECKING:
    from framework.base_trainer import BaseTrainer


class RunDescription(Hook):
    """Lock the run folder, keep an earlier run under another name, save and report the effective plans."""

    priority = -10

    def on_train_start(self, trainer: BaseTrainer) -> None:
        folder = trainer.run_folder
        assert folder is not None
        folder.lock()
        remove_temporary_files(folder.folder)
        resumed = trainer.progress.epochs_completed > 0 or trainer.progress.phase != "between epochs"
        if not resumed and folder.has_run():
            folder.unlock()
            kept = folder.move_aside()
            folder.lock()
            trainer.report(f"an earlier run was found in {folder.folder}; it is kept as {kept}")
        launch = launch_id()
        if launch is not None:
            write_text(folder.launch_file, launch)
        if trainer.experiment is not None:
            trainer.experiment.save()
            configuration = trainer.experiment.plans.with_overrides(trainer.experiment.configuration_name, {})
            entry = configuration.to_dict()["configurations"][trainer.experiment.configuration_name]
            trainer.report(f"effective plans, saved as {folder.plans}:\n{compact_json(entry)}")

    def on_teardown(self, trainer: BaseTrainer) -> None:
        if trainer.run_folder is not None:
            trainer.run_folder.unlock()


def compact_json(value: dict[str, Any], indent: int = 2) -> str:
    """JSON with one line for each key of the outermost objects, so that a network's numbers stay on one line."""
    lines = []
    for key, entry in value.items():
        if isinstance(entry, dict) and key in ("architecture", "arch_kwargs", "training"):
            lines.append(f"{' ' * indent}{key}:\n{compact_json(entry, indent + 2)}")
        else:
            lines.append(f"{' ' * indent}{key}: {json.dumps(entry)}")
    return "\n".join(lines)
