"""The panels of a case's picture: which slices are shown, what is cut out of them, and how one is drawn."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from framework.data.labels import LabelKey
from framework.data.readers.base import SLICE_SPACING_FACTOR
from framework.evaluation.legend import NUMBERED_FROM
from framework.evaluation.look import BACKGROUND, QUIET_TEXT, TEXT, numbers_of, outline, rgb
from framework.evaluation.orientation import Orientation, View, view_across
from framework.evaluation.slices import SliceCounts

_THINNEST_PLANE = 0.1  # height to width, or the other way round; a plane thinner than that shows nothing
_MAX_PIXELS = 1024  # along each side of a plane; more would not be seen
_TINT = 0.3
_ENLARGED_BELOW = 0.75  # of the plane's width and height: nearly the same once more would be no use
_ENLARGED_MARGIN = 0.3  # of the foreground's longer side, on every side
_SMALLEST_ENLARGED = 24  # voxels


@dataclass(frozen=True)
class Panel:
    """One slice that is shown; `enlarged` where the foreground is, and without `contours` just the scan."""

    view: View
    position: int
    caption: str
    contours: bool = True
    enlarged: bool = False


def case_rows(
    image: Any,
    reference: Any,
    prediction: Any,
    spacing: Sequence[float],
    orientation: Orientation | None,
    counts: SliceCounts,
) -> list[list[tuple[Panel, Plane]]]:
    """Rows of panels with what they show: for every plane the middle and the worst slice.

    Where only one plane is worth showing, more of its slices stand in one row.
    """
    shape = prediction.shape
    axes = [axis for axis in range(3) if _is_worth_showing(shape, spacing, axis)]
    views = [view_across(axis, orientation) for axis in axes]
    if orientation is not None:
        views.sort(key=lambda view: ("axial", "coronal", "sagittal").index(view.name))

    def cut(panel: Panel) -> tuple[Panel, Plane]:
        return panel, _cut_plane(panel, image, reference, prediction, spacing)

    if len(views) == 1:
        (view,) = views
        if shape[view.axis] == 1:
            return [[cut(Panel(view, 0, "image", contours=False)), cut(Panel(view, 0, "contours"))]]
        middle = counts.middle(view.axis)
        worst = [position for position in counts.worst(view.axis, 3) if position != middle][:2]
        return [[cut(_panel(view, counts, middle, "middle")), *(cut(_panel(view, counts, each)) for each in worst)]]
    if not any(counts.foreground[view.axis].any() for view in views):
        return [[cut(_panel(view, counts, counts.middle(view.axis), "middle")) for view in views]]
    rows: list[list[tuple[Panel, Plane]]] = [[], []]
    for view in views:
        whole = cut(_panel(view, counts, counts.middle(view.axis), "middle"))
        places = counts.worst(view.axis, 2) or [whole[0].position]
        worst_one = cut(_panel(view, counts, places[0]))
        # The same slice once more, unless it is larger, would be no use.
        if places[0] == whole[0].position and worst_one[1].prediction.shape == whole[1].prediction.shape:
            worst_one = cut(_panel(view, counts, places[-1]))
        rows[0].append(whole)
        rows[1].append(worst_one)
    return rows


def _is_worth_showing(shape: Sequence[int], spacing: Sequence[float], axis: int) -> bool:
    """Whether the plane across this axis has two dimensions to speak of; one plane of every volume has."""
    extents = [length * step for length, step in zip(shape, spacing)]
    # The thinnest axis is the one to look along, and of equal ones the first.
    if axis == min(range(3), key=lambda each: (shape[each] > 1, extents[each])):
        return True
    inside = [each for each in range(3) if each != axis]
    lengths = [extents[each] for each in inside]
    return min(shape[each] for each in inside) > 1 and min(lengths) >= _THINNEST_PLANE * max(lengths)


def _panel(view: View, counts: SliceCounts, position: int, name: str = "") -> Panel:
    """The caption says by how much the slice differs, and whether it is the worst."""
    differing, labelled = counts.differing[view.axis], counts.foreground[view.axis]
    words = [name] if name else []
    if differing[position]:
        worst = "worst: " if differing[position] == differing.max() else ""
        words.append(f"{worst}{differing[position]} voxel{'s differ' if differing[position] > 1 else ' differs'}")
    elif not labelled.any():
        words = ["nothing labelled"]
    elif not name:
        words.append("most foreground")
    return Panel(
        view, position, f"{view.name}, slice {position + 1} of {len(labelled)} ({', '.join(words)})", enlarged=not name
    )


@dataclass(frozen=True)
class Plane:
    """What a panel shows, row 0 on top: (rows, columns) each; pixel size in mm."""

    grey: np.ndarray | None
    reference: np.ndarray | None
    prediction: np.ndarray
    pixel: tuple[float, float]

    @property
    def height(self) -> float:
        return self.prediction.shape[0] * self.pixel[0]

    @property
    def width(self) -> float:
        return self.prediction.shape[1] * self.pixel[1]


def _cut_plane(panel: Panel, image: Any, reference: Any, prediction: Any, spacing: Sequence[float]) -> Plane:
    """The slice of a panel, cut to its foreground if it is enlarged, and thinned out if it is larger than a screen."""
    view = panel.view
    predicted = view.plane(prediction, panel.position)
    true = None if reference is None else view.plane(reference, panel.position)
    grey = None if image is None else view.plane(image, panel.position)
    pixel = spacing[view.row_axis], spacing[view.column_axis]
    if panel.enlarged:
        labelled = predicted != 0 if true is None else (predicted != 0) | (true != 0)
        box = _box_round(labelled, pixel)
        predicted = predicted[box]
        true = None if true is None else true[box]
        grey = None if grey is None else grey[box]
    steps = [max(1, math.ceil(length / _MAX_PIXELS)) for length in predicted.shape]
    if max(steps) > 1:
        thin = tuple(slice(step // 2, None, step) for step in steps)
        predicted = predicted[thin]
        true = None if true is None else true[thin]
        grey = None if grey is None else grey[thin]
    # Copies: the planes of a large volume are scattered over its memory, and are looked at once for every label.
    return Plane(
        None if grey is None else np.ascontiguousarray(grey, np.float32),
        None if true is None else np.ascontiguousarray(true, np.int32),
        np.ascontiguousarray(predicted, np.int32),
        (pixel[0] * steps[0], pixel[1] * steps[1]),
    )


def _box_round(labelled: np.ndarray, pixel: tuple[float, float]) -> tuple[slice, slice]:
    """The part of a plane that shows the foreground large, with some surround; the whole plane if that is not much."""
    whole = slice(0, labelled.shape[0]), slice(0, labelled.shape[1])
    places = [np.flatnonzero(labelled.any(axis)) for axis in (1, 0)]
    if not len(places[0]):
        return whole
    smallest = _SMALLEST_ENLARGED * min(pixel)
    sizes = [(found[-1] + 1 - found[0]) * step for found, step in zip(places, pixel)]
    side = max(max(sizes) * (1 + 2 * _ENLARGED_MARGIN), smallest)
    box = []
    for found, step, length in zip(places, pixel, labelled.shape):
        middle, half = (found[0] + found[-1] + 1) / 2, side / step / 2
        start, stop = max(0, math.floor(middle - half)), min(length, math.ceil(middle + half))
        box.append(slice(start, stop))
    # Wanted is a plane that is clearly enlarged; where it would lose little on both sides it stays whole.
    if all(part.stop - part.start >= _ENLARGED_BELOW * length for part, length in zip(box, labelled.shape)):
        return whole
    return box[0], box[1]


def draw_panel(
    axes: Any, panel: Panel, plane: Plane, label_names: Mapping[LabelKey, str], window: tuple[float, float],
    has_unit: bool,
) -> None:  # fmt: skip
    """Draw into axes whose rectangle has the proportions of the plane."""
    rows, columns = plane.prediction.shape
    if plane.grey is not None:
        axes.imshow(
            plane.grey, cmap="gray", vmin=window[0], vmax=window[1], aspect="auto", interpolation="bilinear",
            origin="upper",
        )  # fmt: skip
    if panel.contours:
        _draw_labels(axes, plane, label_names)
    axes.set_xlim(-0.5, columns - 0.5)
    axes.set_ylim(rows - 0.5, -0.5)
    axes.set_facecolor("black" if plane.grey is not None else BACKGROUND)
    axes.set_xticks([])
    axes.set_yticks([])
    for side in axes.spines.values():
        side.set(visible=plane.grey is None, color=QUIET_TEXT, linewidth=0.5)
    if has_unit:
        _write_sides(axes, panel.view)
        _draw_scale(axes, plane.width)


def _draw_labels(axes: Any, plane: Plane, label_names: Mapping[LabelKey, str]) -> None:
    """Tint and white line for the reference; for the prediction coloured lines, and without a reference a tint."""
    numbers = numbers_of(label_names)
    tinted = plane.prediction if plane.reference is None else plane.reference
    tint = np.zeros((*tinted.shape, 4), np.float32)
    for key in _keys_in(tinted, label_names):
        tint[_mask(tinted, key)] = (*rgb(numbers[key]), _TINT)
    axes.imshow(tint, aspect="auto", interpolation="nearest", origin="upper")
    predicted = _keys_in(plane.prediction, label_names)
    for key in predicted:
        outline(axes, _mask(plane.prediction, key), rgb(numbers[key]), 1.9, halo=0.4)
    if plane.reference is not None:
        # On top and thinner: where both agree, a white line runs inside a coloured one.
        for key in _keys_in(plane.reference, label_names):
            outline(axes, _mask(plane.reference, key), "white", 0.65)
    if len(label_names) >= NUMBERED_FROM:
        for key in predicted:
            _write_number(axes, _mask(plane.prediction, key), numbers[key])


def _keys_in(labels: np.ndarray, keys: Iterable[LabelKey]) -> list[LabelKey]:
    """The labels and regions that occur in a plane."""
    found = set(np.flatnonzero(np.bincount(labels.ravel())).tolist())
    return [key for key in keys if found.intersection(key if isinstance(key, tuple) else (key,))]


def _mask(labels: np.ndarray, key: LabelKey) -> np.ndarray:
    return np.isin(labels, key) if isinstance(key, tuple) else labels == key


def _write_number(axes: Any, mask: np.ndarray, number: int) -> None:
    """At the labelled voxel nearest to the middle of all, which need not be labelled itself."""
    places = np.argwhere(mask)
    row, column = places[((places - places.mean(0)) ** 2).sum(1).argmin()]
    _write(axes, column, row, str(number), 6, ha="center", va="center")


def _write_sides(axes: Any, view: View) -> None:
    places = ((0.02, 0.5, "left", "center"), (0.98, 0.5, "right", "center"), (0.5, 0.98, "center", "top"),
              (0.5, 0.02, "center", "bottom"))  # fmt: skip
    if view.sides is None:
        texts = ["", f"{'XYZ'[view.column_axis]} →", "", f"{'XYZ'[view.row_axis]} ↓"]
    else:
        texts = list(view.sides)
    for (x, y, horizontal, vertical), text in zip(places, texts):
        _write(axes, x, y, text, 9, transform=axes.transAxes, ha=horizontal, va=vertical, fontweight="bold")


def _draw_scale(axes: Any, width: float) -> None:
    """A bar of a round length, about a fifth of the panel."""
    length = 10 ** math.floor(math.log10(width / 4))
    length = max(step * length for step in (1, 2, 5) if step * length <= width / 4)
    right, above = 0.97, 0.035
    for colour, breadth in ((BACKGROUND, 3.4), ("white", 1.8)):
        axes.plot(
            [right - length / width, right], [above, above], color=colour, linewidth=breadth, transform=axes.transAxes,
            solid_capstyle="butt",
        )  # fmt: skip
    text = f"{length / 10:g} cm" if length >= 10 else f"{length:g} mm"
    _write(axes, right, above + 0.015, text, 7, transform=axes.transAxes, ha="right", va="bottom")


def _write(axes: Any, x: float, y: float, text: str, size: float, **options: Any) -> None:
    from matplotlib.patheffects import withStroke

    effects = [withStroke(linewidth=1.6, foreground=BACKGROUND)]
    axes.text(x, y, text, color=TEXT, fontsize=size, path_effects=effects, parse_math=False, **options)


def has_unit(shape: Sequence[int], spacing: Sequence[float]) -> bool:
    """Whether the spacing is a length: that of photographs only says that they are flat."""
    return not (shape[0] == 1 and tuple(spacing) == (SLICE_SPACING_FACTOR, 1, 1))
