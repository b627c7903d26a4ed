"""Connected pieces of a label map, found once; keeping the largest component of any labels then costs next to nothing.

A piece is a connected set of voxels of one label. A component of a union of labels is always made of whole pieces,
so after `find_pieces` every question about components is one about a small graph: pieces, and which of them touch.
Voxels touch if they share a face, an edge or a corner, as in nnU-Net.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Pieces:
    """The pieces of a label map, without background.

    Attributes:
        box: the smallest part of the label map that holds all of them.
        labels: (P,) the label of each piece.
        sizes: (P,) in voxels.
        touching: (E, 2) pairs of pieces of different labels that touch.
        of_foreground: (N,) the piece of every voxel of the box that is not background, in the order in which
            ``label_map[box][label_map[box] != 0]`` gives them.
    """

    box: tuple[slice, ...]
    labels: np.ndarray
    sizes: np.ndarray
    touching: np.ndarray
    of_foreground: np.ndarray

    def all_present(self) -> np.ndarray:
        """(P,) True: what `keep_largest` starts from."""
        return np.ones(len(self.labels), bool)

    def keep_largest(self, labels: Collection[int], present: np.ndarray) -> np.ndarray:
        """Which pieces are left if of the union of `labels` only its largest component stays.

        Several components of the same, largest size all stay.

        Args:
            present: (P,) which pieces there are still; removed ones are background.
        """
        chosen = np.flatnonzero(present & np.isin(self.labels, list(labels)))
        if len(chosen) < 2:
            return present
        place = np.full(len(self.labels), -1)
        place[chosen] = np.arange(len(chosen))
        links = place[self.touching]
        component = _components(len(chosen), links[(links >= 0).all(1)])
        sizes = np.bincount(component, self.sizes[chosen])
        left = present.copy()
        left[chosen] = (sizes == sizes.max())[component]
        return left

    def without_removed(self, label_map: np.ndarray, present: np.ndarray) -> np.ndarray:
        """The label map that was given to `find_pieces`, with background in the place of removed pieces."""
        if present.all():
            return label_map
        changed = label_map.copy()
        inside = changed[self.box]
        foreground = inside != 0
        values = inside[foreground]
        values[~present[self.of_foreground]] = 0
        inside[foreground] = values
        return changed


def find_pieces(label_map: np.ndarray) -> Pieces:
    """Find the pieces of a label map (X, Y, Z); 2D is (1, X, Y)."""
    box = _bounding_box(label_map)
    inside = np.ascontiguousarray(label_map[box])
    if not inside.size:
        none = np.zeros(0, np.int64)
        return Pieces(box, none, none, none.reshape(0, 2), none)
    values, starts, lengths = _runs(inside)
    links = _touching_runs(inside.shape, starts, lengths)
    same = values[links[:, 0]] == values[links[:, 1]]
    piece = _components(len(values), links[same])
    labels = np.zeros(int(piece.max()) + 1, values.dtype)
    labels[piece] = values
    touching = _distinct_pairs(piece[links[~same]], len(labels))
    sizes = np.bincount(piece, lengths).astype(np.int64)
    return Pieces(box, labels, sizes, touching, np.repeat(piece, lengths))


def _bounding_box(label_map: np.ndarray) -> tuple[slice, ...]:
    """Of what is not background; empty slices if there is nothing."""
    box = []
    inside = label_map
    for axis in range(label_map.ndim):
        others = tuple(other for other in range(label_map.ndim) if other != axis)
        occupied = np.flatnonzero(inside.any(axis=others))
        low, high = (int(occupied[0]), int(occupied[-1]) + 1) if len(occupied) else (0, 0)
        box.append(slice(low, high))
        inside = inside[(slice(None),) * axis + (slice(low, high),)]
    return tuple(box)


def _runs(inside: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Runs of one label along the last axis, without background: label, first voxel (flat index), number of voxels."""
    flat = inside.reshape(-1)
    begins = np.empty(flat.shape, bool)
    np.not_equal(flat[1:], flat[:-1], out=begins[1:])
    begins[:: inside.shape[-1]] = True
    starts = np.flatnonzero(begins)
    lengths = np.diff(starts, append=flat.size)
    values = flat[starts]
    foreground = values != 0
    return values[foreground], starts[foreground], lengths[foreground]


def _touching_runs(shape: tuple[int, ...], starts: np.ndarray, lengths: np.ndarray) -> np.ndarray:
    """(L, 2) all pairs of runs that touch, in the same row or in one of the rows around it."""
    _, num_rows, width = shape
    row, first = np.divmod(starts, width)
    last = first + lengths - 1
    # Places on one long line, with a gap of two after each row: no run seems to touch one of another row.
    stride = width + 2
    low, high = row * stride + first, row * stride + last
    neighbours = np.flatnonzero(high[:-1] + 1 == low[1:])
    links = [np.stack([neighbours, neighbours + 1], axis=1)]
    # Half of the eight rows around each; the other half finds the same pairs.
    for step, sideways in ((0, 1), (1, -1), (1, 0), (1, 1)):
        fitting = np.flatnonzero((row % num_rows + sideways >= 0) & (row % num_rows + sideways < num_rows))
        shift = (step * num_rows + sideways) * stride
        begin = np.searchsorted(high, low[fitting] + shift - 1, side="left")
        end = np.searchsorted(low, high[fitting] + shift + 1, side="right")
        count = np.maximum(end - begin, 0)
        offsets = np.arange(count.sum()) - np.repeat(np.cumsum(count) - count, count)
        links.append(np.stack([np.repeat(fitting, count), np.repeat(begin, count) + offsets], axis=1))
    return np.concatenate(links)


def _distinct_pairs(pairs: np.ndarray, num_nodes: int) -> np.ndarray:
    """(E, 2) each pair once, whatever its order."""
    # As single numbers: sorting rows takes ten times as long.
    numbers = np.unique(pairs.min(axis=1) * np.int64(num_nodes) + pairs.max(axis=1))
    return np.stack(np.divmod(numbers, num_nodes), axis=1)


def _components(num_nodes: int, links: np.ndarray) -> np.ndarray:
    """(num_nodes,) the number of the connected component of each node of a graph."""
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    graph = coo_array((np.ones(len(links), bool), (links[:, 0], links[:, 1])), shape=(num_nodes, num_nodes))
    return connected_components(graph.tocsr(), directed=False)[1]
