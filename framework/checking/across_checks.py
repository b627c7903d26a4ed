"""Checks of cases against each other: copies, swapped labels, and cases that were stored unlike the others.

They look at summaries only.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping

import numpy as np

from framework.checking.case_summary import CaseSummary, Grid, by_x, listed
from framework.checking.evidence import Evidence, most_common
from framework.checking.findings import Finding, Severity, finding_if_any, some_of
from framework.preprocessing.normalisation import scheme_for_channel

_MIN_COPIED_VOXELS = 20  # smaller label images may be equal by chance
_ONE_AXIS_FACTOR, _ALL_AXES_FACTOR = 20, 5
"""Spacing is wildly different where one axis, or all of them together, differ by more; slices of 0.5 and 5 mm occur
side by side, metres or centimetres beside millimetres do not."""
_MR_RANGE_FACTOR = 100  # scanners differ by less than that, unless values were rescaled
_FIXED_RANGE_FACTOR = 20  # for channels whose values are used as they are


def check_across(evidence: Evidence) -> list[Finding]:
    """Everything that only a comparison of cases shows."""
    return [
        *_duplicate_scans(evidence),
        *_duplicate_labels(evidence.cases),
        *_dimensions(evidence.cases),
        *_spacings(evidence.cases),
        *_orientations(evidence.cases),
        *_intensities(evidence),
    ]


def _duplicate_scans(evidence: Evidence) -> list[Finding]:
    training: dict[str, list[CaseSummary]] = {}
    for case in evidence.cases:
        for content in {channel.content for channel in case.channels if not channel.constant}:
            training.setdefault(content, []).append(case)
    details: dict[str, str] = {}
    for same in training.values():
        for case in same if len(same) > 1 else ():
            others = some_of(other.name for other in same if other is not case)
            contents = {other.label.content for other in same if other.label is not None}
            details[case.name] = f"same voxels as {others}{', but other labels' if len(contents) > 1 else ''}"
    tested = {
        case.name: f"imagesTs/{channel.file} has the same voxels as {training[channel.content][0].name} in imagesTr"
        for case in evidence.test_cases
        for channel in case.channels
        if channel.content in training
    }
    return [
        *finding_if_any(
            details,
            "duplicate-scans",
            Severity.WARNING,
            "Scans are there under several names.",
            "Keep one of them. In different parts of a fold, copies make the validation look better than it is.",
        ),
        *finding_if_any(
            tested,
            "test-scan-in-training",
            Severity.WARNING,
            "Test scans are training scans as well.",
            "Remove them from one of the two, else the test is none.",
        ),
    ]


def _duplicate_labels(cases: tuple[CaseSummary, ...]) -> list[Finding]:
    same_label: dict[str, list[CaseSummary]] = {}
    for case in cases:
        if case.label is not None and case.label.shape is not None:
            foreground = sum(number for value, number in case.label.counts.items() if value != 0)
            if foreground >= _MIN_COPIED_VOXELS:
                same_label.setdefault(case.label.content, []).append(case)
    details = {}
    for same in same_label.values():
        scans = {tuple(channel.content for channel in case.channels) for case in same}
        if len(scans) > 1:
            for case in same:
                others = some_of(other.name for other in same if other is not case)
                details[case.name] = f"same label image as {others}, but another scan"
    return finding_if_any(
        details,
        "duplicate-labels",
        Severity.WARNING,
        "Different scans have the same label image.",
        "At least one of them has the label image of another scan; look at them in a viewer.",
    )


def check_swapped_labels(cases: tuple[CaseSummary, ...]) -> list[Finding]:
    """Label images that do not lie on their own scan but on another one, whose label image does not fit either."""
    scans: dict[tuple[str, str], list[str]] = {}
    labels: dict[str, tuple[str, str]] = {}
    for case in cases:
        if case.grid is not None and case.label is not None:
            scan, label = _size(case.grid), _size(case.label.grid)
            if scan != label:
                scans.setdefault(scan, []).append(case.name)
                labels[case.name] = label
    details = {
        name: f"its label image fits the scan of {some_of(scans[label])}"
        for name, label in labels.items()
        if label in scans
    }
    return finding_if_any(
        details,
        "labels-swapped",
        Severity.ERROR,
        "Label images lie on the scan of another case.",
        "Exchange the label files, after a look at them in a viewer.",
    )


def _size(grid: Grid) -> tuple[str, str]:
    """Equal for grids on which the same label image can lie."""
    return by_x(grid.shape), by_x(f"{length:.3g}" for length in grid.spacing)


def _dimensions(cases: tuple[CaseSummary, ...]) -> list[Finding]:
    read = [case for case in cases if case.grid is not None]
    flat_axes = {case.name: _flat_axes(case) for case in read}
    slices = [case for case in read if 0 in flat_axes[case.name]]
    volumes = [case for case in read if not flat_axes[case.name]]
    sideways = {
        case.name: f"shape {by_x(case.grid.shape)}"
        for case in read
        if case.grid is not None and flat_axes[case.name] and 0 not in flat_axes[case.name]
    }
    findings = finding_if_any(
        sideways,
        "slice-axis-not-first",
        Severity.WARNING,
        "Single slices lie along another than the first axis (array order), so they are taken for volumes.",
        "Save them as 2D images, or turn them so that the axis of length 1 comes first.",
    )
    if slices and volumes:
        rare, common = (slices, volumes) if len(slices) <= len(volumes) else (volumes, slices)
        kind, usual = ("single slices", "volumes") if rare is slices else ("volumes", "single slices")
        findings += finding_if_any(
            {case.name: f"shape {by_x(case.grid.shape)}" for case in rare if case.grid is not None},
            "mixed-2d-and-3d",
            Severity.WARNING,
            f"{len(rare)} cases are {kind}, the other {len(common)} are {usual}.",
            "Put 2D and 3D data into datasets of their own.",
        )
    return findings


def _flat_axes(case: CaseSummary) -> list[int]:
    assert case.grid is not None
    return [axis for axis, length in enumerate(case.grid.shape) if length == 1]


def _spacings(cases: tuple[CaseSummary, ...]) -> list[Finding]:
    # slices have no spacing along their first axis
    read = [case for case in cases if case.grid is not None and not _flat_axes(case)]
    if len(read) < 3:
        return []
    spacings = np.array([case.grid.spacing for case in read if case.grid is not None])
    median = np.median(spacings, axis=0)
    details = {}
    for case, spacing in zip(read, spacings):
        factors = np.log(spacing / median)
        if np.abs(factors).max() > np.log(_ONE_AXIS_FACTOR) or abs(factors.sum()) / 3 > np.log(_ALL_AXES_FACTOR):
            details[case.name] = f"spacing {by_x(spacing.tolist())} mm"
    return finding_if_any(
        details,
        "spacing-unusual",
        Severity.WARNING,
        f"The spacing is far from the median of all cases, {by_x(median.tolist())} mm.",
        "Was the header written in metres, centimetres or micrometres, or lost? Correct the spacing of scan and label.",
    )


def _orientations(cases: tuple[CaseSummary, ...]) -> list[Finding]:
    known = {case.name: case.grid.orientation for case in cases if case.grid is not None and case.grid.orientation}
    usual = most_common(list(known.values()))
    details = {name: f"{orientation}" for name, orientation in known.items() if orientation != usual}
    counts = ", ".join(f"{number} {orientation}" for orientation, number in Counter(known.values()).most_common())
    return finding_if_any(
        details,
        "orientation-differs",
        Severity.WARNING,
        f"The axes of scans point to different sides of the body: {counts} cases.",
        f"Voxels are used as they are stored, so the network sees some patients mirrored or turned. "
        f"Save scans and labels as {usual}.",
    )


def _intensities(evidence: Evidence) -> list[Finding]:
    findings: list[Finding] = []
    for index, name in enumerate(evidence.listing.channel_names):
        scheme = scheme_for_channel(name)
        cases = [
            case
            for case in evidence.cases
            if len(case.channels) > index and case.channels[index].minimum < case.channels[index].maximum
        ]
        if len(cases) < 3:
            continue
        if scheme == "CTNormalization":
            findings += _hounsfield(cases, index, name)
        ranges = {case.name: case.channels[index].high - case.channels[index].low for case in cases}
        usual = float(np.median(list(ranges.values())))
        normalised = scheme in ("ZScoreNormalization", "RescaleTo01Normalization")
        factor = _MR_RANGE_FACTOR if normalised else _FIXED_RANGE_FACTOR
        details = {
            case.name: f"{case.channels[index].low:.4g} to {case.channels[index].high:.4g}"
            for case in cases
            if not usual / factor <= ranges[case.name] <= usual * factor
        }
        lows, highs = ([getattr(case.channels[index], end) for case in cases] for end in ("low", "high"))
        findings += finding_if_any(
            details,
            "intensity-range-unusual",
            Severity.NOTE if normalised else Severity.WARNING,
            f"Channel {index} ('{name}'): values span a range that differs more than {factor}-fold from most cases, "
            f"{np.median(lows):.4g} to {np.median(highs):.4g} (0.5% and 99.5% percentiles).",
            "Every scan is normalised on its own, so this does little harm; it shows that scans were scaled "
            "differently."
            if normalised
            else "This channel is not normalised scan by scan, so all scans must have the same units. Convert these.",
        )
    return findings


def _hounsfield(cases: list[CaseSummary], index: int, name: str) -> list[Finding]:
    """CT in Hounsfield units has negative values: air and fat."""
    without: Mapping[str, str] = {
        case.name: f"values from {listed([case.channels[index].minimum])} to {listed([case.channels[index].maximum])}"
        for case in cases
        if case.channels[index].minimum >= 0
    }
    mixed = len(without) < len(cases)
    return finding_if_any(
        without,
        "no-hounsfield-units",
        Severity.WARNING if mixed else Severity.NOTE,
        f"Channel {index} ('{name}'): {len(without)} of {len(cases)} scans have no negative value, unlike Hounsfield "
        "units.",
        "Stored values were probably not rescaled (slope and intercept, often -1024); all CTs must share one unit."
        if mixed
        else "If all were windowed or shifted alike this does no harm, but scans from elsewhere must be so too.",
    )
