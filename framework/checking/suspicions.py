"""What is unlike the other cases in a way that mostly means a mistake: for a person to look at, never certain.

Each check first asks whether nearly all cases agree on something; only then can one of them be an exception.
"""

from __future__ import annotations

import numpy as np

from framework.checking.case_summary import CaseSummary
from framework.checking.evidence import MIN_CASES, Evidence, median_and_spread, most_common
from framework.checking.findings import Finding, Severity, finding_if_any, some_of

_AGREEING = 0.9
"""This share of the cases must agree before the others are suspected."""

_MIN_ASYMMETRY = 0.05  # of the length of the image
_ASYMMETRY_DEVIATIONS = 6  # the two sides must be as clearly apart as that, so 12 from one to the other
_MAX_LABELS = 12  # of which all pairs are compared
_SIDE_NAMES = {"L": "left-right", "R": "left-right", "P": "front-back", "A": "front-back", "S": "head-feet"}
_SIDE_NAMES["I"] = _SIDE_NAMES["S"]

_SHARP, _NO_BORDER = 1.25, 1.08
"""Border sharpness: labels that follow edges reach at least the first, labels of another scan stay below the second.
On 200 hippocampi the labels have 1.10 to 1.80, those of other scans around 1.08, shifted ones 0.9."""
_SHARPNESS_DEVIATIONS = 3.5

_ABRUPT_END, _GRADUAL_END = 0.5, 0.35
"""Area of the last slice relative to the largest: of a structure that was cut off, and of one that ends by itself."""
_MIN_GAP = 2  # slices


def check_suspicions(evidence: Evidence) -> list[Finding]:
    """Cases that deserve a look."""
    cases = evidence.cases
    return [*_labels_beside_edges(cases), *_mirrored(evidence), *_cut_off(cases), *_gaps(cases)]


def _labels_beside_edges(cases: tuple[CaseSummary, ...]) -> list[Finding]:
    """Labels that do not follow the edges of their scan, where those of the other cases do."""
    table = [
        (case, [channel.border_sharpness for channel in case.channels])
        for case in cases
        if case.channels and all(channel.border_sharpness is not None for channel in case.channels)
    ]
    num_channels = most_common([len(row) for _, row in table])
    table = [(case, row) for case, row in table if len(row) == num_channels]
    if len(table) < MIN_CASES:
        return []
    sharpness = np.array([row for _, row in table], float)
    channel = int(np.median(sharpness, axis=0).argmax())
    median, spread = median_and_spread(sharpness[:, channel])
    limit = min(_NO_BORDER, median - _SHARPNESS_DEVIATIONS * spread)
    if np.quantile(sharpness[:, channel], 1 - _AGREEING) < _SHARP:
        return []
    suspects = [(case, value) for (case, _), value in zip(table, sharpness[:, channel]) if value < limit]
    details = {}
    for case, value in suspects:
        same_grid = [
            other.name
            for other, _ in suspects
            if other is not case and other.grid is not None and case.grid is not None
            if other.grid.shape == case.grid.shape
        ]
        swapped = f"; it may belong to {some_of(same_grid)}" if same_grid else ""
        details[case.name] = f"edges at label borders {value:.2f} times those beside them{swapped}"
    return finding_if_any(
        details,
        "label-beside-edges",
        Severity.WARNING,
        f"Labels do not follow the edges of their scan, unlike in the other cases ({median:.2f} times).",
        "Swapped, shifted or mirrored label images look like this; check these cases in a viewer.",
    )


def _mirrored(evidence: Evidence) -> list[Finding]:
    """Structures that lie on the other side than in nearly all cases."""
    orientations = [case.grid.orientation for case in evidence.cases if case.grid is not None]
    usual = most_common(orientations)
    # another orientation is a finding of its own, and would be found a second time here
    cases = [
        case
        for case in evidence.cases
        if case.grid is not None and case.grid.orientation == usual and case.label is not None and case.label.shape
    ]
    votes: dict[tuple[str, int], list[bool]] = {}
    examples: dict[tuple[str, int], str] = {}
    for name, places in _places(cases, evidence.label_names).items():
        for axis in range(3):
            values = np.array([place[axis] for place in places.values()])
            if len(values) < MIN_CASES:
                continue
            median, spread = median_and_spread(values)
            spread = max(spread, 0.01)
            agreeing = np.mean(np.sign(values) == np.sign(median))
            if abs(median) < max(_MIN_ASYMMETRY, _ASYMMETRY_DEVIATIONS * spread) or agreeing < _AGREEING:
                continue
            for case, value in zip(places, values):
                opposite = abs(value + median) < 3 * spread
                votes.setdefault((case, axis), []).append(opposite)
                if opposite:
                    examples.setdefault((case, axis), f"{name} {_side(value)}, usually {_side(median)}")
    details: dict[str, str] = {}
    for (case, axis), opposite in votes.items():
        if all(opposite):
            side = _SIDE_NAMES[str(usual)[2 - axis]] if usual else f"array axis {axis}"
            details[case] = f"{side}: {examples[case, axis]}"
    return finding_if_any(
        details,
        "flip-suspected",
        Severity.WARNING,
        "Structures lie on the other side than in nearly all cases.",
        "The scan, or the label image alone, may be mirrored; compare it with another case in a viewer.",
    )


def _places(cases: list[CaseSummary], names: dict[int, str]) -> dict[str, dict[str, np.ndarray]]:
    """What -> case -> position, as a share of the image: of labels from the middle, and of labels from each other.

    The latter do not depend on what part of the body is in the image.
    """
    places: dict[str, dict[str, np.ndarray]] = {}
    for case in cases:
        assert case.label is not None
        assert case.label.shape is not None
        centroids = {
            f"'{names.get(label, label)}'": np.array(place)
            for label, place in sorted(case.label.shape.centroids.items())[:_MAX_LABELS]
        }
        for first, place in centroids.items():
            places.setdefault(first, {})[case.name] = place
            for second, other in centroids.items():
                if first < second:
                    places.setdefault(f"{first} from {second}", {})[case.name] = place - other
    return places


def _side(offset: float) -> str:
    return f"at {100 * offset:+.0f}%"


def _cut_off(cases: tuple[CaseSummary, ...]) -> list[Finding]:
    """Labels that end abruptly inside the image where those of the other cases taper off."""
    shapes = [(case, case.label.shape) for case in cases if case.label is not None and case.label.shape is not None]
    details = {}
    if len(shapes) >= MIN_CASES:
        cut = np.array([shape.cut for _, shape in shapes])
        for axis in range(cut.shape[1]):
            median, spread = median_and_spread(cut[:, axis])
            if np.quantile(cut[:, axis], _AGREEING) > _GRADUAL_END:
                continue
            limit = max(_ABRUPT_END, median + 6 * spread)
            for (case, _), value in zip(shapes, cut[:, axis]):
                if value > limit:
                    details[case.name] = (
                        f"array axis {axis}: the last labelled slice has {value:.0%} of the largest area, "
                        f"usually {median:.0%}"
                    )
    return finding_if_any(
        details,
        "label-cut-off",
        Severity.WARNING,
        "Labels end abruptly inside the image, unlike in the other cases.",
        "Was only a part of the scan annotated? Complete the label, or mark the rest with an ignore label.",
    )


def _gaps(cases: tuple[CaseSummary, ...]) -> list[Finding]:
    """Slices without label between labelled ones, where the other cases have none."""
    shapes = [(case, case.label.shape) for case in cases if case.label is not None and case.label.shape is not None]
    details = {}
    if len(shapes) >= MIN_CASES:
        gaps = np.array([shape.num_gaps for _, shape in shapes])
        for axis in range(gaps.shape[1]):
            if np.mean(gaps[:, axis] == 0) < _AGREEING:
                continue
            for (case, _), number in zip(shapes, gaps[:, axis]):
                if number >= _MIN_GAP:
                    details[case.name] = f"array axis {axis}: {number} slices"
    return finding_if_any(
        details,
        "label-has-gaps",
        Severity.WARNING,
        "Slices between labelled slices have no label, unlike in the other cases.",
        "Was a slab left out, or only every few slices annotated? Complete it, or use an ignore label.",
    )
