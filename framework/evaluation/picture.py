"""A picture of one case: the scan, the reference and the prediction, in three planes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from framework.files import atomic_write

BACKGROUND = "#101418"
TEXT = "#e8eaed"
QUIET_TEXT = "#9aa0a6"
# Easy to tell apart for colour-blind readers too (Okabe and Ito, 2008), brightened for a dark ground.
_COLOURS = ("#56b4e9", "#f0a030", "#2fd6a0", "#f06ab0", "#f5e663", "#7f8cff", "#ff6f59", "#c0c8d0")
_PLANES = ("axis X", "axis Y", "axis Z")
_OVERLAY_OPACITY = 0.32


def draw_case(
    path: Path | str,
    image: np.ndarray,
    reference: np.ndarray | None,
    prediction: np.ndarray,
    label_names: Mapping[int, str],
    spacing: Sequence[float] = (1.0, 1.0, 1.0),
    title: str = "",
) -> None:
    """Write a PNG with one row for each plane, through the largest area of foreground.

    Args:
        path: of the PNG.
        image: (X, Y, Z), one channel.
        reference: (X, Y, Z) labels, or None if there is none; its column is then left out.
        prediction: (X, Y, Z) labels. Its column also shows the outline of the reference, in white.
        label_names: name of each foreground label, for the legend.
        spacing: voxel size in mm; voxels keep their true proportions.
        title: stands above the picture.

    A 2D image, (1, Y, X), gets one row.
    """
    # Figure objects leave matplotlib's global state alone: this works beside a user's plots, and in threads.
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    overlays: list[tuple[str, np.ndarray | None]] = [("scan", None)]
    if reference is not None:
        overlays.append(("reference", reference))
    overlays.append(("prediction", prediction))
    planes = [0] if image.shape[0] == 1 else [0, 1, 2]
    guide = prediction if reference is None or not reference.any() else reference
    slices = {axis: largest_slice(guide, axis) for axis in planes}

    sizes = {axis: _extent(image.shape, spacing, axis) for axis in planes}
    panel_width = 3.3
    heights = [panel_width * min(1.6, max(0.35, sizes[axis][1] / sizes[axis][0])) for axis in planes]
    header, footer = (0.72 if title else 0.35), 0.5
    width = panel_width * len(overlays) + 0.35
    height = sum(heights) + header + footer + 0.12 * (len(planes) - 1)
    figure = Figure(figsize=(width, height), dpi=130, facecolor=BACKGROUND)
    FigureCanvasAgg(figure)
    grid = figure.add_gridspec(
        len(planes),
        len(overlays),
        height_ratios=heights,
        left=0.3 / width,
        right=1 - 0.05 / width,
        top=1 - header / height,
        bottom=footer / height,
        wspace=0.03,
        hspace=0.05,
    )
    window = grey_window(image)
    for row, axis in enumerate(planes):
        for column, (name, labels) in enumerate(overlays):
            axes = figure.add_subplot(grid[row, column])
            _draw_panel(axes, image, labels, axis, slices[axis], spacing, window, label_names)
            if name == "prediction" and reference is not None:
                outline(axes, _plane(reference, axis, slices[axis]) > 0)
            if row == 0:
                axes.set_title(name, color=TEXT, fontsize=11, pad=5)
            if column == 0:
                axes.set_ylabel(f"{_PLANES[axis]}, slice {slices[axis]}", color=QUIET_TEXT, fontsize=8.5)
    if title:
        figure.suptitle(
            title,
            color=TEXT,
            fontsize=12.5,
            fontweight="bold",
            x=0.3 / width,
            y=1 - 0.14 / height,
            ha="left",
            va="top",
        )
    draw_legend(figure, label_names, has_reference=reference is not None)
    with atomic_write(Path(path)) as temporary:
        figure.savefig(temporary, format="png", facecolor=BACKGROUND)


def largest_slice(labels: np.ndarray, axis: int) -> int:
    """The slice across `axis` with most foreground; the middle one if there is none."""
    areas = np.count_nonzero(labels, axis=tuple(each for each in range(3) if each != axis))
    if not areas.any():
        return labels.shape[axis] // 2
    return int(areas.argmax())


def _draw_panel(
    axes: Any,
    image: np.ndarray,
    labels: np.ndarray | None,
    axis: int,
    position: int,
    spacing: Sequence[float],
    window: tuple[float, float],
    label_names: Mapping[int, str],
) -> None:
    row_axis, column_axis = (each for each in range(3) if each != axis)
    # 2D images carry a symbolic spacing on their first axis only, which never is an axis of the picture.
    proportion = spacing[row_axis] / spacing[column_axis]
    grey = _plane(image, axis, position)
    # Slices of a scan are numbered from the feet up; photographs from the top down.
    origin = "upper" if image.shape[0] == 1 else "lower"
    axes.imshow(
        grey,
        cmap="gray",
        vmin=window[0],
        vmax=window[1],
        aspect=proportion,
        interpolation="bilinear",
        origin=origin,
    )
    if labels is not None:
        shown = _plane(labels, axis, position)
        colours = np.zeros((*shown.shape, 4))
        for label in label_names:
            colours[shown == label] = (*rgb(label), _OVERLAY_OPACITY)
        axes.imshow(colours, aspect=proportion, interpolation="nearest", origin=origin)
        for label in label_names:
            outline(axes, shown == label, rgb(label), 1.4)
    axes.set_facecolor(BACKGROUND)
    axes.autoscale(False)
    axes.set_xticks([])
    axes.set_yticks([])
    for side in axes.spines.values():
        side.set_visible(False)


def outline(axes: Any, mask: np.ndarray, colour: Any = "white", width: float = 0.7) -> None:
    """Border of a mask along the edges of its voxels."""
    if not mask.any():
        return
    # Each voxel becomes a few points, so that the contour follows its edges instead of cutting its corners.
    fine = np.pad(np.kron(mask, np.ones((6, 6))), 1)
    rows, columns = ((np.arange(size) - 1 + 0.5) / 6 - 0.5 for size in fine.shape)
    axes.contour(columns, rows, fine, levels=[0.5], colors=[colour], linewidths=width)


def draw_legend(figure: Any, label_names: Mapping[int, str], has_reference: bool) -> None:
    from matplotlib.lines import Line2D
    from matplotlib.patches import Patch

    entries: list[Any] = [
        Patch(facecolor=(*rgb(label), 0.45), edgecolor=rgb(label), linewidth=1.4, label=name)
        for label, name in label_names.items()
    ]
    if has_reference:
        entries.append(Line2D([], [], color="white", linewidth=0.9, label="outline of the reference"))
    figure.legend(
        handles=entries,
        loc="lower center",
        ncol=min(len(entries), 6),
        frameon=False,
        labelcolor=TEXT,
        fontsize=9.5,
    )


def _plane(volume: np.ndarray, axis: int, position: int) -> np.ndarray:
    return np.take(volume, position, axis=axis)


def _extent(shape: Sequence[int], spacing: Sequence[float], axis: int) -> tuple[float, float]:
    """Width and height of a plane in mm."""
    row_axis, column_axis = (each for each in range(3) if each != axis)
    return shape[column_axis] * spacing[column_axis], shape[row_axis] * spacing[row_axis]


def grey_window(image: np.ndarray) -> tuple[float, float]:
    """Darkest and brightest shown value: the middle 99% of what is not the constant surround."""
    inside = image[image != image.min()]
    low, high = np.percentile(inside if inside.size else image, (0.5, 99.5))
    return float(low), float(max(high, low + 1e-6))


def rgb(label: int) -> tuple[float, float, float]:
    from matplotlib.colors import to_rgb

    return to_rgb(_COLOURS[(label - 1) % len(_COLOURS)])
