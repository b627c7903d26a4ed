"""A picture of one case: contours of the reference and the prediction, in the middle and where they differ most."""

from __future__ import annotations

import textwrap
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from framework.data.labels import LabelKey
from framework.evaluation.legend import draw_legend, legend_height
from framework.evaluation.look import BACKGROUND, QUIET_TEXT, TEXT, grey_window, outline, rgb, window_for
from framework.evaluation.orientation import Orientation, orientation_of
from framework.evaluation.panels import Panel, Plane, case_rows, draw_panel, has_unit
from framework.evaluation.slices import count_slices
from framework.files import atomic_write

__all__ = [
    "BACKGROUND", "QUIET_TEXT", "TEXT", "draw_case", "draw_legend", "grey_window", "largest_slice", "outline", "rgb",
]  # fmt: skip

_DPI = 130
_PANEL_WIDTH, _GAP, _CAPTION, _MARGIN = 3.3, 0.1, 0.24, 0.16  # inches
_LOWEST, _HIGHEST = 0.15, 1.3  # of a row, in panel widths
_TITLE_SIZE, _NOTE_SIZE, _CAPTION_SIZE = 12.5, 8.5, 8.5
_TITLE_LINE, _NOTE_LINE, _TITLE_CHARACTER, _NOTE_CHARACTER = 0.24, 0.17, 0.118, 0.066  # inches
_MAX_WINDOW_VALUES = 500_000  # evenly spaced ones; enough for three digits

# matplotlib's fonts are shared by all figures and not made for several threads.
_ONE_AT_A_TIME = threading.Lock()


def draw_case(
    path: Path | str,
    image: Any,
    reference: Any,
    prediction: Any,
    label_names: Mapping[Any, str],
    spacing: Sequence[float] = (1.0, 1.0, 1.0),
    title: str = "",
    properties: Mapping[str, Any] | None = None,
    *,
    ignore_label: int | None = None,
) -> None:
    """Write a PNG with the contours of a case: of each plane the middle slice and, enlarged, the worst one.

    The reference is a white line round a tint, the prediction a coloured line. The worst slice is the one where
    most voxels differ, or without a reference the one with most foreground. Volumes are shown as radiologists
    show them, where `properties` say how they lie in the body. A 2D image is shown beside its contours; of a few
    thick slices, whose other planes show nothing, the middle and the worst two.

    Args:
        path: of the PNG.
        image: (X, Y, Z), one channel; None for contours on a dark ground. It need not be a numpy array: ``shape``,
            and ``image[i, :, :]``, ``image[:, i, :]``, ``image[:, :, i]`` of the few slices that are shown.
        reference: (X, Y, Z) labels, or None if there is none.
        prediction: (X, Y, Z) labels.
        label_names: the name of each label, or of each region (a tuple of the labels that it unites).
        spacing: voxel size in mm; slices keep their true proportions.
        title: stands above the picture.
        properties: of the scan or of its label image, as the reader returned them.
        ignore_label: voxels where the reference has this value count as no difference.

    Raises:
        ValueError: the arrays differ in shape.
    """
    shape = tuple(int(length) for length in prediction.shape)
    for what, other in (("image", image), ("reference", reference)):
        if other is not None and tuple(other.shape) != shape:
            raise ValueError(f"the {what} has the shape {tuple(other.shape)}, the prediction {shape}")
    names: dict[LabelKey, str] = dict(label_names)
    orientation = orientation_of(properties)
    counts = count_slices(reference, prediction, names, ignore_label)
    shown = {
        key: name for key, name in names.items() if counts.present & set(key if isinstance(key, tuple) else (key,))
    }
    rows = case_rows(image, reference, prediction, spacing, orientation, counts)
    low, high, window_name = _window(rows)
    notes = _notes(shape, spacing, orientation)
    if window_name:
        notes += f" {window_name.capitalize()} window, {low:g} to {high:g} HU."
    with _ONE_AT_A_TIME:
        figure = _figure(
            rows, title, notes, shown, (low, high), has_unit(shape, spacing), counts.dice, reference is not None
        )
        with atomic_write(Path(path)) as temporary:
            figure.savefig(temporary, format="png", facecolor=BACKGROUND)


def largest_slice(labels: np.ndarray, axis: int) -> int:
    """The slice across `axis` with most foreground; the middle one if there is none."""
    areas = np.count_nonzero(labels, axis=tuple(each for each in range(3) if each != axis))
    if not areas.any():
        return labels.shape[axis] // 2
    return int(areas.argmax())


def _window(rows: Sequence[Sequence[tuple[Panel, Plane]]]) -> tuple[float, float, str]:
    """One window for all panels."""
    values, labelled = [], []
    for _, plane in (entry for row in rows for entry in row):
        if plane.grey is not None:
            guide = plane.prediction if plane.reference is None or not plane.reference.any() else plane.reference
            values.append(plane.grey.ravel())
            labelled.append(plane.grey[guide != 0])
    if not values:
        return 0.0, 1.0, ""
    together = np.concatenate(values)
    return window_for(together[:: -(-together.size // _MAX_WINDOW_VALUES)], np.concatenate(labelled))


def _notes(shape: Sequence[int], spacing: Sequence[float], orientation: Orientation | None) -> str:
    if not has_unit(shape, spacing):
        return f"{shape[2]} × {shape[1]} pixels."
    size = " × ".join(f"{length:.3g}" for length in spacing)
    if orientation is None:
        return f"Array axes: the file does not say how it lies in the body. Voxels of {size} mm (X, Y, Z)."
    text = "Radiological view: the patient's right is on the left."
    if orientation.is_oblique:
        text += f" Planes are those of the scan, oblique to the body by up to {orientation.oblique_degrees:.0f}°."
    return f"{text} Array axes run towards {', '.join(orientation.towards)}; voxels of {size} mm."


def _figure(
    rows: Sequence[Sequence[tuple[Panel, Plane]]],
    title: str,
    notes: str,
    label_names: Mapping[LabelKey, str],
    window: tuple[float, float],
    unit: bool,
    dice: Mapping[LabelKey, float],
    has_reference: bool,
) -> Any:
    # Figure objects leave matplotlib's global state alone: this works beside a user's plots, and in threads.
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    width = 2 * _MARGIN + max(2, max(map(len, rows))) * (_PANEL_WIDTH + _GAP) - _GAP
    titles = textwrap.wrap(title, int((width - 2 * _MARGIN) / _TITLE_CHARACTER))
    lines = textwrap.wrap(notes, int((width - 2 * _MARGIN) / _NOTE_CHARACTER))
    header = _MARGIN + len(titles) * _TITLE_LINE + len(lines) * _NOTE_LINE
    sizes = [[_size(plane) for _, plane in row] for row in rows]
    heights = [max(_LOWEST * _PANEL_WIDTH, *(height for _, height in row)) for row in sizes]
    footer = legend_height(width, label_names, has_reference, dice) + 0.06
    height = header + sum(_CAPTION + each + _GAP for each in heights) + footer
    figure = Figure(figsize=(width, height), dpi=_DPI, facecolor=BACKGROUND)
    FigureCanvasAgg(figure)

    def write(x: float, y: float, text: str, colour: str, size: float, **options: Any) -> None:
        figure.text(x / width, 1 - y / height, text, color=colour, fontsize=size, parse_math=False, **options)

    write(_MARGIN, 0.12, "\n".join(titles), TEXT, _TITLE_SIZE, va="top", fontweight="bold")
    write(_MARGIN, 0.14 + len(titles) * _TITLE_LINE, "\n".join(lines), QUIET_TEXT, _NOTE_SIZE, va="top")
    top = header
    for row, row_sizes, row_height in zip(rows, sizes, heights):
        for column, ((panel, plane), (panel_width, panel_height)) in enumerate(zip(row, row_sizes)):
            left = _MARGIN + column * (_PANEL_WIDTH + _GAP)
            write(left, top + _CAPTION - 0.06, panel.caption, TEXT, _CAPTION_SIZE, va="baseline")
            bottom = height - top - _CAPTION - panel_height
            box = (left / width, bottom / height, panel_width / width, panel_height / height)
            axes = figure.add_axes(box)
            draw_panel(axes, panel, plane, label_names, window, unit)
        top += _CAPTION + row_height + _GAP
    draw_legend(figure, label_names, has_reference, dice)
    return figure


def _size(plane: Plane) -> tuple[float, float]:
    """Width and height of a panel in inches, in the proportions of the plane."""
    proportion = plane.height / plane.width
    if proportion > _HIGHEST:
        return _PANEL_WIDTH * _HIGHEST / proportion, _PANEL_WIDTH * _HIGHEST
    return _PANEL_WIDTH, _PANEL_WIDTH * proportion
