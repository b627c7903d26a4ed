"""Borders of labels as lines along the edges of voxels."""

from __future__ import annotations

import numpy as np

# Directions along the border, clockwise round the mask with row 0 on top: right, down, left, up.
_STEPS = np.array([(0, 1), (1, 0), (0, -1), (-1, 0)])


def border_lines(mask: np.ndarray) -> list[np.ndarray]:
    """The border of a mask as closed lines.

    Args:
        mask: (rows, columns) bool.

    Returns:
        One array (n, 2) for each part and each hole, (column, row) of its corners in the coordinates of voxel
        centres, so that voxel (0, 0) reaches from -0.5 to 0.5; the last corner is the first. Outer borders run
        clockwise and holes the other way round. Voxels that touch at a corner only are parts of their own.
    """
    occupied = np.argwhere(mask)
    if not len(occupied):
        return []
    corner = occupied.min(0)
    rows, columns = occupied.max(0) - corner + 1
    inside = np.zeros((rows + 2, columns + 2), bool)
    inside[1:-1, 1:-1] = mask[corner[0] : corner[0] + rows, corner[1] : corner[1] + columns]
    starts, directions = _edges(inside)
    following = _following(starts, directions, (rows + 3, columns + 3))
    # Corners only: where the direction is that of the edge before, the line just goes on.
    before = np.empty(len(starts), int)
    before[following] = np.arange(len(starts))
    is_corner = directions[before] != directions
    points = starts[:, ::-1] + corner[::-1] - 1.5  # the padding, and half a voxel
    return [points[loop] for loop in _loops(following.tolist(), is_corner.tolist())]


def _edges(inside: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Edges between a voxel of the mask and one outside: (n, 2) the corner where each starts, (n,) its direction."""
    starts, directions = [], []
    # The neighbour across the edge, and the corner of the voxel where the edge starts, for each direction.
    across = ((-1, 0), (0, 1), (1, 0), (0, -1))
    corners = ((0, 0), (0, 1), (1, 1), (1, 0))
    for direction, (shift, start) in enumerate(zip(across, corners)):
        # The mask has an empty frame, so rolling never carries anything round the end.
        found = np.argwhere(inside & ~np.roll(inside, (-shift[0], -shift[1]), (0, 1)))
        starts.append(found + start)
        directions.append(np.full(len(found), direction))
    return np.concatenate(starts), np.concatenate(directions)


def _following(starts: np.ndarray, directions: np.ndarray, shape: tuple[int, int]) -> np.ndarray:
    """The edge that goes on where each edge ends. At a corner where two parts meet, each stays with its own."""
    number = np.full((4, shape[0] * shape[1]), -1)
    number[directions, starts[:, 0] * shape[1] + starts[:, 1]] = np.arange(len(starts))
    ends = starts + _STEPS[directions]
    places = ends[:, 0] * shape[1] + ends[:, 1]
    following = np.full(len(starts), -1)
    for turn in (1, 0, 3):  # right, straight on, left
        candidates = number[(directions + turn) % 4, places]
        following = np.where(following < 0, candidates, following)
    return following


def _loops(following: list[int], is_corner: list[bool]) -> list[list[int]]:
    loops, visited = [], [False] * len(following)
    for first in range(len(following)):
        if visited[first] or not is_corner[first]:
            continue
        loop, edge = [], first
        while not visited[edge]:
            visited[edge] = True
            if is_corner[edge]:
                loop.append(edge)
            edge = following[edge]
        loops.append([*loop, first])
    return loops
