"""``history.jsonl``: one line per epoch."""

from __future__ import annotations

import json
import math
from typing import TYPE_CHECKING

from framework.files import write_text
from framework.hook import Hook

if TYPE_CHECKING:
    from framework.base_trainer import BaseTrainer


class HistoryFile(Hook):
    """Write the whole history after every epoch; a resumed run thereby drops lines of epochs it repeats."""

    priority = 80

    def on_checkpoint(self, trainer: BaseTrainer) -> None:
        assert trainer.run_folder is not None
        # NaN and Inf become null: the file must be readable by any JSON reader.
        lines = [json.dumps(_only_numbers(row)) for row in trainer.history]
        write_text(trainer.run_folder.history, "".join(line + "\n" for line in lines))


def _only_numbers(value: object) -> object:
    if isinstance(value, dict):
        return {key: _only_numbers(entry) for key, entry in value.items()}
    if isinstance(value, list):
        return [_only_numbers(entry) for entry in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
