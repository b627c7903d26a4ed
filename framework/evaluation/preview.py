"""A picture of training patches: what the network will see, with the targets as outlines, and what was done."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from framework.evaluation import picture
from framework.files import atomic_write

_PANEL_WIDTH = 2.5  # inches
_CAPTION_LINES = 3
_CAPTION_CHARACTERS, _TITLE_CHARACTERS = 44, 26  # that fit beside each other in the width of a panel
_LINE_HEIGHT = 0.15


@dataclass(frozen=True)
class PatchTile:
    """One patch of the picture.

    Attributes:
        image: (X, Y, Z) or (Y, Z), one channel.
        masks: (K, X, Y, Z) or (K, Y, Z) bool, where each class or region lies; they may overlap.
        title: stands above.
        caption: stands below, in up to three lines.
    """

    image: np.ndarray
    masks: np.ndarray
    title: str
    caption: str


def draw_patches(
    path: Path | str,
    tiles: Sequence[PatchTile],
    class_names: Sequence[str],
    spacing: Sequence[float],
    title: str,
) -> None:
    """Write a PNG with a grid of patches, each in the slice across X that shows most foreground.

    All patches share one window of grey values, so that changes of brightness can be seen.

    Args:
        path: of the PNG.
        tiles: at least one.
        class_names: of the K masks, for the legend.
        spacing: voxel size in mm, of two or three axes; voxels keep their true proportions.
        title: stands above the picture.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    columns = min(len(tiles), max(1, math.ceil(math.sqrt(len(tiles)))))
    rows = math.ceil(len(tiles) / columns)
    slices = [_chosen_slice(tile) for tile in tiles]
    proportion = spacing[-2] / spacing[-1]
    height, width = slices[0][0].shape
    panel_height = _PANEL_WIDTH * min(2.0, max(0.4, proportion * height / width))
    title_lines = textwrap.wrap(title, _TITLE_CHARACTERS * columns)
    header, footer, gap = 0.3 + 0.2 * len(title_lines), 0.4, 0.1
    captions = [
        textwrap.wrap(tile.caption, _CAPTION_CHARACTERS, max_lines=_CAPTION_LINES, placeholder=" ...") for tile in tiles
    ]
    below, above = 0.1 + max(len(lines) for lines in captions) * _LINE_HEIGHT, 0.24
    total_width = columns * (_PANEL_WIDTH + gap) + gap
    total_height = rows * (above + panel_height + below) + header + footer
    figure = Figure(figsize=(total_width, total_height), dpi=130, facecolor=picture.BACKGROUND)
    FigureCanvasAgg(figure)
    window = _shared_window([image for image, _, _ in slices])
    for number, (tile, (image, masks, place)) in enumerate(zip(tiles, slices)):
        row, column = divmod(number, columns)
        top = header + row * (above + panel_height + below) + above
        left = gap + column * (_PANEL_WIDTH + gap)
        axes = figure.add_axes(
            (left / total_width, 1 - (top + panel_height) / total_height,
             _PANEL_WIDTH / total_width, panel_height / total_height)
        )  # fmt: skip
        _draw_panel(axes, image, masks, window, proportion)
        axes.set_title(f"{tile.title}{place}", color=picture.TEXT, fontsize=8, pad=3, loc="left")
        axes.text(
            0, -0.03 / panel_height * _PANEL_WIDTH, "\n".join(captions[number]), transform=axes.transAxes,
            color=picture.QUIET_TEXT, fontsize=7, va="top", linespacing=1.15,
        )  # fmt: skip
    figure.text(
        gap / total_width, 1 - 0.12 / total_height, "\n".join(title_lines),
        color=picture.TEXT, fontsize=11, fontweight="bold", va="top",
    )  # fmt: skip
    picture.draw_legend(figure, dict(enumerate(class_names, start=1)), has_reference=False)
    with atomic_write(Path(path)) as temporary:
        figure.savefig(temporary, format="png", facecolor=picture.BACKGROUND)


def _chosen_slice(tile: PatchTile) -> tuple[np.ndarray, np.ndarray, str]:
    """Image, masks, and which slice of the patch it is, in words."""
    if tile.image.ndim == 2:
        return tile.image, tile.masks, ""
    chosen = picture.largest_slice(np.any(tile.masks, axis=0), 0)
    return tile.image[chosen], tile.masks[:, chosen], f"  slice {chosen + 1} of {len(tile.image)}"


def _shared_window(images: Sequence[np.ndarray]) -> tuple[float, float]:
    """Of the patches' own windows the one in the middle: a single wild patch does not darken all others."""
    lows, highs = zip(*[picture.grey_window(image) for image in images])
    low, high = float(np.median(lows)), float(np.median(highs))
    return low, max(high, low + 1e-6)


def _draw_panel(
    axes: Any, image: np.ndarray, masks: np.ndarray, window: tuple[float, float], proportion: float
) -> None:
    axes.imshow(
        image, cmap="gray", vmin=window[0], vmax=window[1], aspect=proportion, interpolation="nearest", origin="lower"
    )
    for number, mask in enumerate(masks, start=1):
        picture.outline(axes, mask, picture.rgb(number), 1.1)
    axes.autoscale(False)
    axes.set_facecolor(picture.BACKGROUND)
    axes.set_xticks([])
    axes.set_yticks([])
    for side in axes.spines.values():
        side.set_visible(False)
