"""An overview of many cases in one picture: one row a case, every channel in three planes, with the labels on it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import zip_longest
from pathlib import Path
from typing import Any

import numpy as np

from framework.checking.case_summary import CaseSummary, by_x
from framework.checking.check import CheckResult
from framework.checking.findings import Severity
from framework.data.image_io import reader_by_name
from framework.data.raw_dataset import RawCase
from framework.errors import FoldwiseError
from framework.evaluation.picture import largest_slice
from framework.files import atomic_write
from framework.preprocessing.parallel import CasePool

MAX_ROWS = 24
_MAX_SUSPICIOUS_ROWS = 12
_MAX_CHANNELS = 4

_SIZE = 150  # pixels: the longer side of a panel
_GAP, _ROW_GAP, _TEXT_WIDTH, _HEADER, _FOOTER, _MARGIN = 6, 14, 216, 64, 36, 16  # pixels
_MIN_ROW_HEIGHT, _MAX_WIDTH = 92, 2400  # pixels
_ASPECT = 1.3  # wished, width to height
_MAX_CODES = 3
_MAX_NAME = 27  # letters that fit beside the panels
_DPI = 100
_BACKGROUND, _TEXT, _QUIET_TEXT = "#101418", "#e8eaed", "#9aa0a6"
_SEVERITY_COLOURS = {Severity.ERROR: "#ff6f59", Severity.WARNING: "#f5c040"}
# Easy to tell apart for colour-blind readers too (Okabe and Ito, 2008), brightened for a dark ground.
_LABEL_COLOURS = np.array(
    [(86, 180, 233), (240, 160, 48), (47, 214, 160), (240, 106, 176), (245, 230, 99), (127, 140, 255), (255, 111, 89)]
)
_FILL_OPACITY, _OUTLINE_OPACITY = 0.15, 0.95


@dataclass(frozen=True)
class _Row:
    case: str
    panels: list[list[np.ndarray]]
    """For every channel and plane an RGB image; one plane in 2D."""
    lines: tuple[str, ...]


def draw_overview(path: Path | str, result: CheckResult, pool: CasePool) -> int:
    """Write a PNG; of many cases it shows some with errors and warnings, and others evenly.

    Returns:
        The number of cases that are shown; without any there is no file.
    """
    listing = result.evidence.listing
    flagged = result.codes_by_case()
    readable = [case.name for case in result.evidence.cases if case.channels]
    chosen = choose_cases(readable, {name: codes[0][0] for name, codes in flagged.items()})
    summaries = {case.name: case for case in result.evidence.cases}
    arguments = {name: (listing.cases[name], result.reader, summaries[name]) for name in chosen}
    rows = [row for row in pool.run(_row_of_case, arguments, "picture").values() if row is not None]
    if rows:
        names = {value: name for value, name in result.evidence.label_names.items() if value != 0}
        shown = f"{len(rows)} of {len(listing.cases)} cases" if len(rows) < len(listing.cases) else f"{len(rows)} cases"
        figure = _figure(rows, flagged, f"{listing.folder.name}   {shown}", listing.channel_names, names)
        with atomic_write(Path(path)) as temporary:
            figure.savefig(temporary, format="png", facecolor=_BACKGROUND, dpi=_DPI)
    return len(rows)


def choose_cases(names: Sequence[str], flagged: Mapping[str, str]) -> list[str]:
    """At most `MAX_ROWS` of the cases, in their order: up to half of them flagged, the others evenly spaced.

    Args:
        flagged: case -> code of its worst finding; of every code some are chosen before more of any.
    """
    if len(names) <= MAX_ROWS:
        return list(names)
    by_code: dict[str, list[str]] = {}
    for name, code in flagged.items():
        if name in set(names):
            by_code.setdefault(code, []).append(name)
    in_turn = [name for turn in zip_longest(*by_code.values()) for name in turn if name is not None]
    first = in_turn[:_MAX_SUSPICIOUS_ROWS]
    others = [name for name in names if name not in set(first)]
    places = np.linspace(0, len(others) - 1, MAX_ROWS - len(first)).round().astype(int)
    chosen = {*first, *(others[place] for place in places)}
    return [name for name in names if name in chosen]


def _row_of_case(case: RawCase, reader_name: str, summary: CaseSummary) -> _Row | None:
    """Read a case again and cut out what is shown; None if it cannot be read."""
    reader = reader_by_name(reader_name)
    labels = None
    if summary.label is not None and case.label is not None:
        labels = np.rint(np.nan_to_num(reader.read_label(case.label)[0][0])).astype(np.int32)
    panels: list[list[np.ndarray]] = []
    for path in case.images:
        try:
            array, properties = reader.read(path)
        except FoldwiseError:
            continue
        for image in array[: _MAX_CHANNELS - len(panels)]:
            fitting = labels if labels is not None and labels.shape == image.shape else None
            panels.append(_planes(image, fitting, properties["spacing"]))
    grid = summary.grid
    if not panels or grid is None:
        return None
    spacing = grid.spacing if grid.shape[0] > 1 else grid.spacing[1:]
    axes = f", axes {grid.orientation}" if grid.orientation else ""
    lines = [f"{by_x(grid.shape)} voxels", f"{by_x(spacing)} mm{axes}"]
    if labels is not None and summary.grid is not None and labels.shape != grid.shape:
        lines.append(f"label image {by_x(labels.shape)}: not drawn")
    elif labels is None:
        lines.append("no label image")
    return _Row(case.name, panels, tuple(lines))


def _planes(image: np.ndarray, labels: np.ndarray | None, spacing: Sequence[float]) -> list[np.ndarray]:
    image = np.nan_to_num(np.asarray(image, np.float32))
    low, high = _grey_window(image)
    axes = [0] if image.shape[0] == 1 else [0, 1, 2]
    panels = []
    for axis in axes:
        guide = labels if labels is not None and labels.any() else None
        position = image.shape[axis] // 2 if guide is None else largest_slice(guide, axis)
        row_axis, column_axis = (each for each in range(3) if each != axis)
        grey = np.clip((np.take(image, position, axis) - low) / (high - low), 0, 1)
        shown = None if labels is None else np.take(labels, position, axis)
        panel = _panel(grey, shown, spacing[row_axis], spacing[column_axis])
        # Slices of a volume are numbered from the feet up; photographs from the top down.
        panels.append(panel if image.shape[0] == 1 else panel[::-1])
    return panels


def _panel(grey: np.ndarray, labels: np.ndarray | None, row_spacing: float, column_spacing: float) -> np.ndarray:
    """RGB bytes of a slice in true proportions, its longer side `_SIZE` pixels."""
    from scipy.ndimage import map_coordinates

    extent = np.array([grey.shape[0] * row_spacing, grey.shape[1] * column_spacing])
    height, width = np.maximum(4, np.rint(extent / extent.max() * _SIZE)).astype(int)
    where = np.meshgrid(
        (np.arange(height) + 0.5) * grey.shape[0] / height - 0.5,
        (np.arange(width) + 0.5) * grey.shape[1] / width - 0.5,
        indexing="ij",
    )
    colours = np.repeat(255 * map_coordinates(grey, where, order=1, mode="nearest")[..., None], 3, axis=2)
    if labels is not None:
        nearest = [np.clip(np.rint(axis).astype(int), 0, size - 1) for axis, size in zip(where, labels.shape)]
        shown = labels[nearest[0], nearest[1]]
        padded = np.pad(shown, 1, mode="edge")
        neighbours = padded[:-2, 1:-1], padded[2:, 1:-1], padded[1:-1, :-2], padded[1:-1, 2:]
        outline = np.any([shown > neighbour for neighbour in neighbours], axis=0)
        opacity = np.where(outline, _OUTLINE_OPACITY, np.where(shown > 0, _FILL_OPACITY, 0.0))[..., None]
        colours = (1 - opacity) * colours + opacity * _LABEL_COLOURS[(shown - 1) % len(_LABEL_COLOURS)]
    return colours.round().astype(np.uint8)


def _grey_window(image: np.ndarray) -> tuple[float, float]:
    """Darkest and brightest shown value: the middle 99% of what is not the constant surround."""
    inside = image[image > image.min()]
    values = inside if inside.size else image.ravel()
    low, high = np.percentile(values[:: max(1, values.size // 500_000)], (0.5, 99.5))
    return float(low), float(max(high, low + 1e-6))


def _figure(
    rows: Sequence[_Row],
    flagged: Mapping[str, Sequence[tuple[str, Severity]]],
    title: str,
    channel_names: Sequence[str],
    label_names: Mapping[int, str],
) -> Any:
    # Figure objects leave matplotlib's global state alone: this works beside a user's plots, and in threads.
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    num_channels = max(len(row.panels) for row in rows)
    num_planes = max(len(planes) for row in rows for planes in row.panels)
    channel_width = num_planes * (_SIZE + _GAP) + _ROW_GAP
    block_width = _TEXT_WIDTH + num_channels * channel_width
    row_height = max(panel.shape[0] for row in rows for planes in row.panels for panel in planes)
    row_height = max(row_height, _MIN_ROW_HEIGHT) + _ROW_GAP
    num_blocks = _num_blocks(len(rows), block_width, row_height)
    rows_per_block = -(-len(rows) // num_blocks)
    width = 2 * _MARGIN + num_blocks * block_width
    height = _HEADER + _FOOTER + rows_per_block * row_height
    canvas = np.empty((height, width, 3), np.uint8)
    canvas[:] = [int(_BACKGROUND[at : at + 2], 16) for at in (1, 3, 5)]
    figure = Figure(figsize=(width / _DPI, height / _DPI), dpi=_DPI, facecolor=_BACKGROUND)
    FigureCanvasAgg(figure)

    def write(x: float, y: float, text: str, colour: str = _TEXT, size: float = 9, **more: Any) -> None:
        figure.text(x / width, 1 - y / height, text, color=colour, fontsize=size, va="top", **more)

    write(_MARGIN, 12, title, size=12, fontweight="bold")
    for block in range(num_blocks):
        start = _MARGIN + block * block_width + _TEXT_WIDTH
        for channel in range(num_channels):
            name = channel_names[channel] if channel < len(channel_names) else f"channel {channel}"
            write(start + channel * channel_width, _HEADER - 20, name, _QUIET_TEXT)
    for index, row in enumerate(rows):
        block, place = divmod(index, rows_per_block)
        left, top = _MARGIN + block * block_width, _HEADER + place * row_height
        for channel, planes in enumerate(row.panels):
            for plane, panel in enumerate(planes):
                start = left + _TEXT_WIDTH + channel * channel_width + plane * (_SIZE + _GAP)
                down = top + (row_height - _ROW_GAP - panel.shape[0]) // 2
                across = start + (_SIZE - panel.shape[1]) // 2
                canvas[down : down + panel.shape[0], across : across + panel.shape[1]] = panel
        codes = flagged.get(row.case, ())
        texts = [(line, _QUIET_TEXT) for line in row.lines]
        texts += [(code, _SEVERITY_COLOURS[severity]) for code, severity in codes[:_MAX_CODES]]
        texts += [(f"and {len(codes) - _MAX_CODES} more", _QUIET_TEXT)] if len(codes) > _MAX_CODES else []
        name = row.case if len(row.case) <= _MAX_NAME else f"{row.case[: _MAX_NAME - 1]}…"
        write(left, top + 2, name, _SEVERITY_COLOURS[codes[0][1]] if codes else _TEXT, 9, fontweight="bold")
        for number, (text, colour) in enumerate(texts):
            write(left, top + 20 + 14 * number, text, colour, 8)
    left = _MARGIN
    for value, name in sorted(label_names.items()):
        colour = "#{:02x}{:02x}{:02x}".format(*_LABEL_COLOURS[(value - 1) % len(_LABEL_COLOURS)])
        write(left, height - _FOOTER + 8, f"■ {name}", colour, 9)
        left += 34 + 7 * len(name)
    figure.figimage(canvas, zorder=-1)
    return figure


def _num_blocks(num_rows: int, block_width: int, row_height: int) -> int:
    """Columns of rows, so that the picture comes out roughly as wide as a screen and not wider than is handy."""

    def misfit(num_blocks: int) -> float:
        width, height = num_blocks * block_width, -(-num_rows // num_blocks) * row_height
        return abs(float(np.log(width / height / _ASPECT))) + (10 if num_blocks > 1 and width > _MAX_WIDTH else 0)

    return min(range(1, num_rows + 1), key=misfit)
