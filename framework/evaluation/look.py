"""What all pictures of cases share: colours, windows of grey values, and lines along the borders of labels."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from framework.data.labels import LabelKey
from framework.evaluation.contours import border_lines

BACKGROUND = "#101418"
TEXT = "#e8eaed"
QUIET_TEXT = "#9aa0a6"
# Easy to tell apart for colour-blind readers too (Okabe and Ito, 2008), brightened for a dark ground.
_COLOURS = ("#56b4e9", "#f0a030", "#2fd6a0", "#f06ab0", "#f5e663", "#7f8cff", "#ff6f59", "#9aa8b8")
# With more labels than colours the same ones come again, nearer to white, then nearer to black.
_SHADES = (0.0, 0.4, -0.4)

_CT_RANGES = ((-3500.0, -500.0), (0.0, 3500.0))
"""Where the darkest and the brightest of Hounsfield units lie: air is -1000, and scanners pad with as much as -3024."""
_LUNG_BELOW, _BONE_ABOVE = -400.0, 250.0
_CT_WINDOWS = {"lung": (-1350.0, 150.0), "soft tissue": (-160.0, 240.0), "bone": (-500.0, 1300.0)}
"""The usual ones: level -600 and width 1500, level 40 and width 400, level 400 and width 1800."""


def rgb(number: int) -> tuple[float, float, float]:
    """Colour of a label, from 1 on."""
    from matplotlib.colors import to_rgb

    turn, index = divmod(number - 1, len(_COLOURS))
    shade = _SHADES[turn % len(_SHADES)]
    towards = 1.0 if shade > 0 else 0.0
    red, green, blue = (value + abs(shade) * (towards - value) for value in to_rgb(_COLOURS[index]))
    return red, green, blue


def numbers_of(keys: Mapping[LabelKey, str]) -> dict[LabelKey, int]:
    """The number that stands for each label or region in a picture: its value; with regions, its place in the list."""
    if any(isinstance(key, tuple) for key in keys):
        return {key: place for place, key in enumerate(keys, start=1)}
    return {key: int(key) for key in keys if not isinstance(key, tuple)}


def grey_window(image: np.ndarray) -> tuple[float, float]:
    """Darkest and brightest shown value: the middle 99% of what is not the constant surround."""
    finite = image[np.isfinite(image)]
    if not finite.size:
        return 0.0, 1.0
    inside = finite[finite != finite.min()]
    low, high = np.percentile(inside if inside.size else finite, (0.5, 99.5))
    return float(low), float(max(high, low + 1e-6))


def window_for(image: np.ndarray, foreground: np.ndarray) -> tuple[float, float, str]:
    """As `grey_window`, but for a CT the usual window of the tissue that was labelled.

    Args:
        image: values, one-dimensional.
        foreground: those of labelled voxels among them, which may be none.

    Returns:
        Darkest and brightest value, and the name of the window; "" where it was taken from the values.
    """
    finite = image[np.isfinite(image)]
    if finite.size:
        darkest, brightest = np.percentile(finite, (0.5, 99.5))
        (low, high), (above, below) = _CT_RANGES
        if low <= darkest <= high and above <= brightest <= below:
            labelled = foreground[np.isfinite(foreground)]
            level = float(np.median(labelled)) if labelled.size else 0.0
            name = "lung" if level < _LUNG_BELOW else "bone" if level > _BONE_ABOVE else "soft tissue"
            return *_CT_WINDOWS[name], name
    return *grey_window(image), ""


def outline(axes: Any, mask: np.ndarray, colour: Any = "white", width: float = 0.7, halo: float = 0.0) -> None:
    """Draw the border of a mask along the edges of its voxels, in the coordinates of voxel centres.

    Args:
        halo: breadth of a dark rim on either side of the line, so that it can be seen on bright ground.
    """
    from matplotlib.collections import LineCollection

    lines = border_lines(np.asarray(mask, bool))
    if not lines:
        return
    if halo:
        style: dict[str, Any] = {"colors": [(0, 0, 0, 0.55)], "linewidths": width + 2 * halo}
        axes.add_collection(LineCollection(lines, joinstyle="miter", **style), autolim=False)
    axes.add_collection(LineCollection(lines, colors=[colour], linewidths=width, joinstyle="miter"), autolim=False)
