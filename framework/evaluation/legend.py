"""The legend of a picture: names of labels in their colours, in as many rows as they need."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from framework.data.labels import LabelKey
from framework.evaluation.look import TEXT, numbers_of, rgb

NUMBERED_FROM = 9
"""Labels: from here on there are more than clearly different colours, and each is also numbered."""

_ROW_HEIGHT, _BOTTOM, _SWATCH, _SPACE = 0.2, 0.1, 0.24, 0.2  # inches
_CHARACTER = 0.079  # inches, the mean at the font size
_FONT_SIZE = 9
_LONGEST_NAME = 30

_Entry = tuple[Any, Any, str]  # fill, line, text


def legend_height(
    width: float, label_names: Mapping[LabelKey, str], has_reference: bool, dice: Mapping[LabelKey, float] | None = None
) -> float:
    """Inches that `draw_legend` needs below the picture; `width` is that of the figure, in inches."""
    entries = _entries(label_names, has_reference, dice)
    return _BOTTOM + _ROW_HEIGHT * math.ceil(len(entries) / _num_columns(width, entries)) if entries else _BOTTOM


def draw_legend(
    figure: Any,
    label_names: Mapping[LabelKey, str],
    has_reference: bool,
    dice: Mapping[LabelKey, float] | None = None,
) -> None:
    """Write the legend at the bottom of a figure.

    Args:
        has_reference: whether there are white lines to be explained, those of the reference.
        dice: stands behind the names.
    """
    from matplotlib.patches import Rectangle

    width, height = figure.get_size_inches()
    entries = _entries(label_names, has_reference, dice)
    if not entries:
        return
    columns = _num_columns(width, entries)
    rows = math.ceil(len(entries) / columns)
    # Columns are as wide as their longest entry, and the block as a whole stands in the middle.
    widths = [max(_width(entry) for entry in entries[column::columns]) for column in range(min(columns, len(entries)))]
    left = (width - sum(widths) + _SPACE) / 2
    for index, (fill, line, text) in enumerate(entries):
        row, column = divmod(index, columns)
        x = left + sum(widths[:column])
        y = _BOTTOM + (rows - row - 1) * _ROW_HEIGHT
        size = ((_SWATCH - 0.08) / width, 0.1 / height)
        swatch = Rectangle(
            (x / width, (y + 0.02) / height),
            *size,
            transform=figure.transFigure,
            facecolor=fill,
            edgecolor=line,
            lw=1.4,
        )
        figure.add_artist(swatch)
        # Names are the user's: a dollar sign in them is no mathematics.
        figure.text(
            (x + _SWATCH) / width, (y + 0.07) / height, text, color=TEXT, fontsize=_FONT_SIZE, va="center_baseline",
            parse_math=False,
        )  # fmt: skip


def _entries(
    label_names: Mapping[LabelKey, str], has_reference: bool, dice: Mapping[LabelKey, float] | None
) -> list[_Entry]:
    entries: list[_Entry] = []
    if has_reference and label_names:
        entries += [
            ((1, 1, 1, 0.25), "white", "reference"),
            ("none", TEXT, "prediction, Dice:" if dice else "prediction"),
        ]
    numbers = numbers_of(label_names)
    for key, name in label_names.items():
        colour = rgb(numbers[key])
        text = name if len(name) <= _LONGEST_NAME else f"{name[: _LONGEST_NAME - 1]}…"
        if len(label_names) >= NUMBERED_FROM:
            text = f"{numbers[key]} {text}"
        if dice is not None and not math.isnan(dice.get(key, math.nan)):
            text += f"  {dice[key]:.3f}"
        entries.append((((*colour, 0.3) if has_reference else (*colour, 0.45)), colour, text))
    return entries


def _width(entry: _Entry) -> float:
    return _SWATCH + _CHARACTER * len(entry[2]) + _SPACE


def _num_columns(width: float, entries: list[_Entry]) -> int:
    return max(1, min(len(entries), int((width - 0.1) // max(_width(entry) for entry in entries))))
