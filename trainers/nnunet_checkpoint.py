"""The part of a checkpoint that nnU-Net reads and writes: its lists of one value per epoch."""

from __future__ import annotations

import math
from typing import Any

from framework.history import History

_COLUMNS = {
    "mean_fg_dice": "mean_fg_dice",
    "ema_fg_dice": "ema_fg_dice",
    "dice_per_class_or_region": "dice_per_class_or_region",
    "train_losses": "train_loss",
    "val_losses": "val_loss",
    "lrs": "lr",
    "epoch_start_timestamps": "epoch_start_timestamp",
    "epoch_end_timestamps": "epoch_end_timestamp",
}


def nnunet_logging(history: History) -> dict[str, Any]:
    """``logging`` and ``_best_ema`` as nnU-Net keeps them: lists with one entry per epoch."""
    rows = list(history)
    logging: dict[str, list[Any]] = {key: [row.get(column) for row in rows] for key, column in _COLUMNS.items()}
    for key, values in logging.items():
        # nnU-Net draws these lists and knows no gaps: an epoch without validation repeats the value before.
        for index, value in enumerate(values):
            if value is None:
                values[index] = values[index - 1] if index else ([] if key == "dice_per_class_or_region" else math.nan)
    best = [value for value in logging["ema_fg_dice"] if isinstance(value, float) and not math.isnan(value)]
    return {"logging": logging, "_best_ema": max(best) if best else None}


def history_rows(logging: dict[str, list[Any]]) -> list[dict[str, Any]]:
    """The rows of our history from nnU-Net's ``logging``, to continue a run that it began."""
    length = min(len(logging.get(key, [])) for key in _COLUMNS)
    return [
        {"epoch": epoch} | {column: _plain(logging[key][epoch]) for key, column in _COLUMNS.items()}
        for epoch in range(length)
    ]


def _plain(value: Any) -> Any:
    return [float(entry) for entry in value] if isinstance(value, (list, tuple)) else float(value)
