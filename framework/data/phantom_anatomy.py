"""The anatomy of a simulated patient: where which tissue is, as soft shapes in millimetres.

Every shape is a function of position that is positive inside and roughly the distance to its surface in mm.
Surfaces are bent by smooth random fields, so that no two patients are alike.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from framework.data.labels import LabelKey

_GOLDEN_ANGLE = 2.399963


@dataclass(frozen=True)
class Structure:
    """One tissue of one patient.

    Attributes:
        tissue: decides the intensity; structures of one tissue look alike in every channel.
        depth: (X, Y, Z) float32, mm below the surface; negative outside.
        label: its value in the label image; None if it belongs to whatever it lies in.
    """

    tissue: str
    depth: np.ndarray
    label: int | None = None


@dataclass(frozen=True)
class Grid:
    """Positions of voxels in mm, the middle of the field of view being 0."""

    shape: tuple[int, ...]
    spacing: tuple[float, ...]

    @property
    def axes(self) -> tuple[np.ndarray, ...]:
        """Position along each axis, shaped so that the three broadcast against each other."""
        positions = [
            (np.arange(length, dtype=np.float32) - (length - 1) / 2) * np.float32(step)
            for length, step in zip(self.shape, self.spacing)
        ]
        z, y, x = np.ix_(*positions)
        return z, y, x

    @property
    def half_size(self) -> tuple[float, ...]:
        """Half of the field of view along each axis, in mm."""
        return tuple(length * step / 2 for length, step in zip(self.shape, self.spacing))


def label_names(num_labels: int) -> dict[str, LabelKey]:
    """The ``labels`` of dataset.json. Large and easy ones come first: organ, kidney, lesion, vessel, then "
    "small glands."""
    names: dict[str, LabelKey] = {"background": 0}
    for value in range(1, num_labels + 1):
        names[_NAMED[value - 1] if value <= len(_NAMED) else f"gland_{value - len(_NAMED)}"] = value
    return names


_NAMED = ("organ", "kidney", "lesion", "vessel")


def smooth_noise(rng: np.random.Generator, grid: Grid, length: float) -> np.ndarray:
    """A random field on the grid with mean 0 and variance about 1 that varies over `length` mm.

    Random weights on a coarse lattice, joined by cubic B-splines.
    """
    matrices = []
    for axis in grid.axes:
        position = (axis.ravel() - axis.min()) / np.float32(length)
        knots = np.arange(-1, int(position.max()) + 3, dtype=np.float32)
        matrices.append(_cubic_spline(position[:, None] - knots[None]))
    field = rng.standard_normal([matrix.shape[1] for matrix in matrices], dtype=np.float32)
    for matrix in matrices:
        # the last axis in, the first axis out: after three turns all axes are back in place
        field = np.tensordot(field, matrix, axes=(0, 1))
    # 0.479 is the mean sum of squares of the weights along one axis.
    return field / np.float32(0.479**1.5)


def _cubic_spline(distance: np.ndarray) -> np.ndarray:
    far = np.abs(distance)
    near = 2 / 3 - far**2 * (1 - far / 2)
    return np.where(far < 1, near, np.clip(2 - far, 0, None) ** 3 / 6).astype(np.float32)


def build_anatomy(rng: np.random.Generator, grid: Grid, num_labels: int) -> list[Structure]:
    """The structures of one patient, in the order in which later ones replace earlier ones."""
    return _Patient(rng, grid, num_labels).structures


class _Patient:
    def __init__(self, rng: np.random.Generator, grid: Grid, num_labels: int) -> None:
        self.rng, self.grid, self.num_labels = rng, grid, num_labels
        self.scale = min(grid.half_size[1:])  # mm; sizes within a slice are in these units
        self.depth_scale = max(grid.half_size[0], 0.5 * self.scale) if grid.shape[0] > 1 else self.scale
        # a single slice shows the patient somewhere around the middle
        self.slice_offset = rng.uniform(-0.15, 0.15) * self.scale if grid.shape[0] == 1 else 0.0
        self.structures: list[Structure] = []
        inside = self._add_body()
        self._add_distractors(inside)
        organ = self._add_organs(inside)
        self._add_glands(inside)
        self._add_vessels(inside)
        self._add_lesions(organ)

    def _label(self, value: int) -> int | None:
        return value if value <= self.num_labels else None

    def _add(self, tissue: str, depth: np.ndarray, label: int | None = None) -> np.ndarray:
        depth = np.broadcast_to(depth, self.grid.shape).astype(np.float32, copy=False)
        self.structures.append(Structure(tissue, depth, label))
        return depth

    def _around(self, value: float, spread: float = 0.08) -> float:
        return value * (1 + spread * self.rng.uniform(-1, 1))

    def _ellipsoid(
        self,
        centre: Sequence[float],
        radii: Sequence[float],
        bend: float = 0.12,
        wave: float = 0.5,
        jitter: float = 0.06,
    ) -> np.ndarray:
        """A bent ellipsoid; centre and radii in units of the field of view, `bend` relative to the mean "
        "radius."""
        scales = (self.depth_scale, self.scale, self.scale)
        middle = [c * s + self.rng.uniform(-jitter, jitter) * s for c, s in zip(centre, scales)]
        middle[0] += self.slice_offset
        size = [self._around(r) * s for r, s in zip(radii, scales)]
        z, y, x = (axis - m for axis, m in zip(self.grid.axes, middle))
        angle = self.rng.uniform(-0.35, 0.35)
        cosine, sine = np.float32(np.cos(angle)), np.float32(np.sin(angle))
        y, x = cosine * y - sine * x, sine * y + cosine * x
        distance = np.sqrt((z / size[0]) ** 2 + (y / size[1]) ** 2 + (x / size[2]) ** 2)
        mean_radius = float(np.mean(size[1:]))
        depth = (1 - distance) * mean_radius
        if bend:
            depth = depth + bend * mean_radius * smooth_noise(self.rng, self.grid, max(4.0, 2 * wave * mean_radius))
        return depth.astype(np.float32)

    def _tube(self, points: np.ndarray, radius: float) -> np.ndarray:
        """A tube along a polyline of `points` (n, 3) in mm that gets thinner towards its end."""
        z, y, x = self.grid.axes
        nearest = np.full(self.grid.shape, np.inf, np.float32)
        for index, (pz, py, px) in enumerate(points.astype(np.float32)):
            thinning = np.float32(radius * 0.4 * index / len(points))
            reach = radius + 2 * max(self.grid.spacing)
            box = tuple(
                slice(*np.searchsorted(axis.ravel(), (p - reach, p + reach)))
                for axis, p in zip((z, y, x), (pz, py, px))
            )
            distance = np.sqrt((z[box[0]] - pz) ** 2 + (y[:, box[1]] - py) ** 2 + (x[:, :, box[2]] - px) ** 2)
            np.minimum(nearest[box], distance + thinning, out=nearest[box])
        return np.float32(radius) - nearest

    def _curve(
        self, start: Sequence[float] | np.ndarray, end: Sequence[float] | np.ndarray, swing: float
    ) -> np.ndarray:
        """Points every 0.7 mm or less from start to end (mm), swinging sideways by about `swing` mm."""
        first, last = np.asarray(start, float), np.asarray(end, float)
        num_points = max(8, int(np.linalg.norm(last - first) / 0.7))
        t = np.linspace(0, 1, num_points)[:, None]
        waves = sum(self.rng.normal(0, swing / k, size=(1, 3)) * np.sin(np.pi * k * t) for k in (1, 2, 3))
        return first + (last - first) * t + waves

    def _add_body(self) -> np.ndarray:
        """Fat under the skin, muscle, and a spine; returns the depth below the inner side of the fat."""
        z, y, x = self.grid.axes
        height, width = (
            self.grid.half_size[1] * self._around(0.86, 0.05),
            self.grid.half_size[2] * self._around(0.93, 0.04),
        )
        taper = 1 - 0.06 * (z / self.depth_scale) ** 2
        rounded = ((np.abs(y) / (height * taper)) ** 2.4 + (np.abs(x) / (width * taper)) ** 2.4) ** (1 / 2.4)
        outline = (1 - rounded) * self.scale * 0.9
        outline = outline + 0.025 * self.scale * smooth_noise(self.rng, self.grid, 0.6 * self.scale)
        outline = self._add("fat", outline)
        rim = self.scale * self._around(0.09, 0.3) * (1 + 0.3 * smooth_noise(self.rng, self.grid, self.scale))
        inside = self._add("muscle", outline - rim)
        # lobes of fat between the organs, as bright as vessels
        lobes = smooth_noise(self.rng, self.grid, 0.22 * self.scale) - self._around(1.0, 0.2)
        self._add("fat", np.minimum(0.12 * self.scale * lobes, inside - 0.04 * self.scale))
        spine = self._ellipsoid((0, 0.62, 0), (9, 0.15, 0.18), bend=0.06, jitter=0.02)
        self._add("bone", spine)
        self._add("marrow", spine - 0.045 * self.scale)
        return inside - np.float32(0.03 * self.scale)

    def _add_distractors(self, inside: np.ndarray) -> None:
        """Unlabelled structures that look like labelled ones, and differ in shape, size or surroundings."""
        # as bright as the organ, but smaller, flat, and on the other side
        spleen = self._ellipsoid((0.1, -0.1, 0.66), (0.6, 0.32, 0.13), bend=0.25)
        self._add("organ", np.minimum(spleen, inside))
        # as bright as the kidney: a loop of gut in front
        sideways = self.scale * 0.55
        y = -0.52 * self.scale
        z = self.slice_offset + self.rng.uniform(-0.3, 0.3) * self.depth_scale
        loop = self._curve((z, y, 0.05 * sideways), (z, 0.5 * y, sideways), 0.12 * self.scale)
        self._add("kidney", np.minimum(self._tube(loop, 0.1 * self.scale), inside))
        # as bright as the lesions, but in muscle and fat
        for _ in range(3):
            angle = self.rng.uniform(0, 2 * np.pi)
            place = (self.rng.uniform(-0.7, 0.7), 0.74 * np.sin(angle), 0.8 * np.cos(angle))
            radius = self.rng.uniform(0.06, 0.11)
            node = self._ellipsoid(place, (radius * self.scale / self.depth_scale, radius, radius), bend=0.1, jitter=0)
            self._add("lesion", np.minimum(node, inside))

    def _add_glands(self, inside: np.ndarray) -> None:
        """One small structure for every label beyond the named ones, spread over the middle of the body."""
        num_glands = max(0, self.num_labels - len(_NAMED))
        for index in range(num_glands):
            ring = np.sqrt((index + 0.7) / (num_glands + 0.7)) * 0.62
            angle = index * _GOLDEN_ANGLE
            height = 0.0 if self.grid.shape[0] == 1 else 0.6 * ((index * 0.618) % 1 - 0.5)
            radius = min(0.16, 0.5 / np.sqrt(num_glands + 1))
            gland = self._ellipsoid(
                (height, ring * np.sin(angle), ring * np.cos(angle)),
                (1.3 * radius, radius, 0.8 * radius),
                jitter=0.02,
            )
            self._add(f"gland_{index + 1}", np.minimum(gland, inside), len(_NAMED) + 1 + index)

    def _add_organs(self, inside: np.ndarray) -> np.ndarray:
        kidney = self._ellipsoid((0.05, 0.3, 0.42), (0.6, 0.28, 0.21), bend=0.15)
        hilum = self._ellipsoid((0.05, 0.24, 0.28), (0.25, 0.09, 0.09), bend=0.05)
        kidney = np.minimum(np.minimum(kidney, -hilum), inside)
        self._add("kidney", kidney, self._label(2))
        organ = self._ellipsoid((-0.05, -0.12, -0.36), (0.68, 0.46, 0.42), bend=0.3, wave=0.5)
        notch = self._ellipsoid((0, 0.28, -0.05), (0.6, 0.2, 0.16), bend=0.1)
        organ = np.minimum(np.minimum(organ, -notch), inside)
        return self._add("organ", organ, self._label(1))

    def _add_vessels(self, inside: np.ndarray) -> None:
        """A trunk along the body beside the spine, and branches from it into the organ."""
        trunk_at = (0.36 * self.scale * self._around(1), -0.06 * self.scale)
        reach = self.grid.half_size[0] + 3
        trunk = self._curve((-reach, *trunk_at), (reach, *trunk_at), 0.03 * self.scale)
        self._add("vessel", self._tube(trunk, 0.085 * self.scale), self._label(4))
        root = trunk[len(trunk) // 2]
        for _ in range(3):
            end = np.array(
                [
                    self.slice_offset + self.rng.uniform(-0.45, 0.45) * self.depth_scale * (self.grid.shape[0] > 1),
                    self.rng.uniform(-0.42, 0.12) * self.scale,
                    self.rng.uniform(-0.68, -0.4) * self.scale,
                ]
            )
            branch = self._tube(self._curve(root, end, 0.06 * self.scale), 0.058 * self.scale)
            self._add("vessel", np.minimum(branch, inside), self._label(4))

    def _add_lesions(self, organ: np.ndarray) -> None:
        """One to four round spots deep inside of the organ."""
        axes = self.grid.axes
        for _ in range(int(self.rng.integers(1, 5))):
            radius = self.scale * self.rng.uniform(0.11, 0.2)
            deep = np.flatnonzero(organ.ravel() > 0.6 * radius)
            if not len(deep):
                deep = np.array([int(organ.argmax())])
            index = np.unravel_index(int(deep[self.rng.integers(len(deep))]), organ.shape)
            centre = [float(axis.ravel()[i]) for axis, i in zip(axes, index)]
            stretch = self.rng.uniform(0.8, 1.25, size=3)
            z, y, x = (((axis - c) / s) ** 2 for axis, c, s in zip(axes, centre, stretch))
            depth = radius - np.sqrt(z + y + x)
            depth = depth + 0.12 * radius * smooth_noise(self.rng, self.grid, 1.2 * radius)
            self._add("lesion", np.minimum(depth, organ), self._label(3))
