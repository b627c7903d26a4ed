"""``history.jsonl``: one line per epoch."""

from __future__ import annotations

import json
import math
from typing import TYPE_CHECKING

from framework.errors import WriteError
from framework.files import write_text
from framework.hook import Hook

if TYPE_CHECKING:
    from framework.base_trainer import BaseTrainer


class HistoryFile(Hook):
    """Write the whole history after every epoch; a resumed run thereby drops lines of epochs it repeats.

    A history that cannot be written is told once and ends nothing: the checkpoints hold it too, and the next epoch, or
    the next start with ``--c``, writes all of it.
    """

    priority = 80

    def __init__(self) -> None:
        self._has_failed = False

    def on_checkpoint(self, trainer: BaseTrainer) -> None:
        self._write(trainer)

    def on_train_end(self, trainer: BaseTrainer) -> None:
        self._write(trainer)

    def _write(self, trainer: BaseTrainer) -> None:
        assert trainer.run_folder is not None
        # NaN and Inf become null: the file must be readable by any JSON reader.
        lines = [json.dumps(_only_numbers(row)) for row in trainer.history]
        try:
            write_text(trainer.run_folder.history, "".join(line + "\n" for line in lines))
            self._has_failed = False
        except WriteError as error:
            if not self._has_failed:
                trainer.report(
                    f"warning: {error.path} could not be written: {error.reason}. The training goes on; the "
                    "checkpoints hold the history too, and it is written whole after the next epoch, or by the same "
                    "command with --c."
                )
            self._has_failed = True


def _only_numbers(value: object) -> object:
    if isinstance(value, dict):
        return {key: _only_numbers(entry) for key, entry in value.items()}
    if isinstance(value, list):
        return [_only_numbers(entry) for entry in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
