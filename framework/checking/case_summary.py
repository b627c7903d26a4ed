"""What is kept of a case that was read: its grids, statistics and hashes, but no voxels.

A summary is small and plain, so that it travels between processes, and thousands of them fit into memory.
"""

from __future__ import annotations

import hashlib
import warnings
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from framework.checking.label_fit import border_sharpness
from framework.checking.label_shape import LabelShape, summarise_shape
from framework.data import itk_files
from framework.data.image_io import ImageReader, Properties, reader_by_name
from framework.data.raw_dataset import RawCase
from framework.errors import CaseWarning, FoldwiseError

_MAX_PERCENTILE_VOXELS = 500_000  # evenly spaced ones; enough for three digits
_TOLERANCES = {"spacing": 1e-3, "origin": 0.1, "direction": 1e-3}
"""Spacing: relative. Origin: in voxels of the finest axis. Direction: absolute, of cosines."""


@dataclass(frozen=True)
class Grid:
    """Where the voxels of an image lie."""

    shape: tuple[int, ...]
    """(X, Y, Z) in array order."""
    spacing: tuple[float, ...]
    """In mm, array order."""
    origin: tuple[float, ...] | None = None
    """In mm, in ITK's order; None for formats that do not store it."""
    direction: tuple[float, ...] | None = None
    """Direction cosines, row by row, in ITK's order."""

    @classmethod
    def of(cls, array: np.ndarray, properties: Properties) -> Grid:
        """The grid of an image (C, X, Y, Z) as a reader returned it."""
        spacing = tuple(float(length) for length in properties["spacing"])
        if "nibabel_stuff" in properties:
            affines = properties["nibabel_stuff"]
            # nibabel counts to the right and to the front, ITK to the left and to the back
            affine = np.diag((-1, -1, 1)) @ affines.get("reoriented_affine", affines["original_affine"])[:3]
            steps = affine[:, :3] / np.linalg.norm(affine[:, :3], axis=0)
            return cls(array.shape[1:], spacing, tuple(affine[:, 3].tolist()), tuple(steps.ravel().tolist()))
        geometry = properties.get("sitk_stuff")
        if not geometry:
            return cls(array.shape[1:], spacing)
        if len(geometry["spacing"]) == 4:
            geometry = itk_files.without_channel_axis(geometry)
        return cls(array.shape[1:], spacing, tuple(geometry["origin"]), tuple(geometry["direction"]))

    def differences(self, other: Grid) -> dict[str, str]:
        """How `other` differs, in words, by kind: shape, spacing, origin, direction."""
        found = {}
        if self.shape != other.shape:
            found["shape"] = f"shape {by_x(other.shape)} instead of {by_x(self.shape)}"
        if not np.allclose(other.spacing, self.spacing, rtol=_TOLERANCES["spacing"], atol=0):
            found["spacing"] = f"spacing {by_x(other.spacing)} mm instead of {by_x(self.spacing)} mm"
        for kind, scale in ("origin", min(self.spacing)), ("direction", 1.0):
            mine, theirs = getattr(self, kind), getattr(other, kind)
            if mine is None or theirs is None or len(mine) != len(theirs):
                continue
            if not np.allclose(theirs, mine, rtol=0, atol=_TOLERANCES[kind] * scale):
                found[kind] = f"{kind} ({listed(theirs)}) instead of ({listed(mine)})"
        return found

    @property
    def orientation(self) -> str | None:
        """Towards which side of the body the axes point, in ITK's order, such as LPS (left, posterior, superior)."""
        if self.direction is None or len(self.direction) != 9:
            return None
        matrix = np.reshape(self.direction, (3, 3))
        letters = ""
        for column in matrix.T:
            axis = int(np.abs(column).argmax())
            letters += ("LR", "PA", "SI")[axis][int(column[axis] < 0)]
        return letters


@dataclass(frozen=True)
class ChannelSummary:
    """One channel of a case. Statistics are those of the finite voxels."""

    file: str
    grid: Grid
    low: float
    """0.5% percentile; `median` and `high` (99.5%) likewise."""
    median: float
    high: float
    minimum: float
    maximum: float
    num_nan: int
    num_infinite: int
    content: str
    """Hash of shape and voxels: equal for equal images, however they are stored."""
    border_sharpness: float | None
    """How much the brightness changes at the borders of the labels, relative to next to them; see `label_fit`."""

    @property
    def constant(self) -> bool:
        return self.minimum == self.maximum and not self.num_nan and not self.num_infinite


@dataclass(frozen=True)
class LabelSummary:
    """The label image of a case."""

    file: str
    grid: Grid
    counts: dict[int, int]
    """Voxels of every value."""
    num_fractional: int
    """Voxels whose value is no integer."""
    fraction_example: float
    content: str
    shape: LabelShape | None
    """None without foreground."""


@dataclass(frozen=True)
class CaseSummary:
    """One case, as far as its files could be read."""

    name: str
    channels: tuple[ChannelSummary, ...]
    label: LabelSummary | None
    unreadable: dict[str, str] = field(default_factory=dict)
    """File -> why it cannot be used."""
    remarks: tuple[str, ...] = ()
    """What the readers found odd."""

    @property
    def grid(self) -> Grid | None:
        """That of the first channel."""
        return self.channels[0].grid if self.channels else None


def summarise_case(case: RawCase, reader_name: str, ignore_label: int | None) -> CaseSummary:
    """Read every file of a case once; a file that cannot be read does not keep the others from being looked at."""
    reader = reader_by_name(reader_name)
    unreadable: dict[str, str] = {}
    channels: list[ChannelSummary] = []
    label, segmentation = None, None
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", CaseWarning)
        if case.label is not None:
            try:
                label, segmentation = _read_label(reader, case.label, ignore_label)
            except FoldwiseError as error:
                unreadable[case.label.name] = str(error)
        for path in case.images:
            try:
                array, properties = _not_empty(reader.read(path), path)
            except FoldwiseError as error:
                unreadable[path.name] = str(error)
                continue
            grid = Grid.of(array, properties)
            channels += [_summarise_channel(channel, path, grid, segmentation) for channel in array]
    remarks = tuple(str(warning.message) for warning in caught if issubclass(warning.category, CaseWarning))
    return CaseSummary(case.name, tuple(channels), label, unreadable, remarks)


def _summarise_channel(image: np.ndarray, path: Path, grid: Grid, segmentation: np.ndarray | None) -> ChannelSummary:
    num_nan = num_infinite = 0
    values = image.ravel()
    if np.issubdtype(image.dtype, np.floating):
        finite = np.isfinite(values)
        if not finite.all():
            num_nan = int(np.isnan(values).sum())
            num_infinite = int(finite.size - finite.sum()) - num_nan
            values = values[finite]
    if not values.size:
        values = np.zeros(1)
    step = max(1, values.size // _MAX_PERCENTILE_VOXELS)
    low, median, high = (float(value) for value in np.percentile(values[::step], (0.5, 50, 99.5)))
    fits = segmentation is not None and segmentation.shape == image.shape and not num_nan + num_infinite
    return ChannelSummary(
        file=path.name,
        grid=grid,
        low=low,
        median=median,
        high=high,
        minimum=float(values.min()),
        maximum=float(values.max()),
        num_nan=num_nan,
        num_infinite=num_infinite,
        content=_hash(image),
        border_sharpness=border_sharpness(image, segmentation) if fits and segmentation is not None else None,
    )


def _read_label(reader: ImageReader, path: Path, ignore_label: int | None) -> tuple[LabelSummary, np.ndarray]:
    array, properties = _not_empty(reader.read_label(path), path)
    if len(array) != 1:
        raise FoldwiseError(f"{path} has {len(array)} channels, but a label image has one value in every voxel.")
    num_fractional, example = 0, 0.0
    segmentation = array[0]
    content = _hash(segmentation)
    if not np.issubdtype(segmentation.dtype, np.integer):
        rounded = np.rint(np.nan_to_num(segmentation))
        fractional = rounded != segmentation  # also true for NaN
        num_fractional = int(fractional.sum())
        if num_fractional:
            example = float(segmentation[fractional][0])
        segmentation = rounded.astype(np.int32)
    foreground = segmentation > 0
    if ignore_label is not None:
        foreground &= segmentation != ignore_label
    summary = LabelSummary(
        file=path.name,
        grid=Grid.of(array, properties),
        counts=_counts(segmentation),
        num_fractional=num_fractional,
        fraction_example=example,
        content=content,
        shape=summarise_shape(segmentation, foreground),
    )
    return summary, np.where(foreground, segmentation, 0)


def _not_empty(read: tuple[np.ndarray, Properties], path: Path) -> tuple[np.ndarray, Properties]:
    if not read[0].size:
        raise FoldwiseError(f"{path} holds no voxels (its shape is {read[0].shape[1:]}). Export it again.")
    return read


def _counts(segmentation: np.ndarray) -> dict[int, int]:
    if segmentation.min() >= 0 and segmentation.max() < 1 << 16:
        numbers = np.zeros(int(segmentation.max()) + 1, np.int64)
        for part in segmentation:  # bincount copies to int64, so not all at once
            numbers += np.bincount(part.ravel(), minlength=len(numbers))
        return {int(value): int(numbers[value]) for value in np.flatnonzero(numbers)}
    values, numbers = np.unique(segmentation, return_counts=True)
    return {int(value): int(number) for value, number in zip(values, numbers)}


def _hash(image: np.ndarray) -> str:
    content = hashlib.blake2b(str(image.shape).encode(), digest_size=16)
    for part in image:  # one by one, so that there is no float32 copy of all of it
        content.update(np.ascontiguousarray(part, dtype="<f4").data)
    return content.hexdigest()


def by_x(values: Iterable[float | str]) -> str:
    """``(36, 50, 35)`` as ``36x50x35``."""
    return "x".join(f"{value:.4g}" if isinstance(value, float) else str(value) for value in values)


def listed(values: Iterable[float]) -> str:
    """Numbers with up to six digits, between commas."""
    return ", ".join(f"{value:.6g}" for value in values)
