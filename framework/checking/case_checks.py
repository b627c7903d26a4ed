"""Checks of single cases: files, channels, grids, voxels and label values."""

from __future__ import annotations

from collections.abc import Mapping

from framework.checking.case_summary import CaseSummary
from framework.checking.evidence import Evidence
from framework.checking.findings import Finding, Severity, finding_if_any
from framework.preprocessing.normalisation import scheme_for_channel

_GRID_KINDS = {
    # what differs, the worst first: (severity, advice)
    "shape": (Severity.ERROR, "Export the file again; resample one onto the other only if both show the same patient."),
    "spacing": (
        Severity.ERROR,
        "Find out which is right; correct the header, or resample one onto the other if the voxels differ as well.",
    ),
    "direction": (
        Severity.WARNING,
        "Voxels are taken as they are stored. If label and scan fit in the array, copy the header of the scan; else "
        "resample the label image onto the scan.",
    ),
    "origin": (Severity.WARNING, "Voxels are taken as they are stored. Check in a viewer that labels lie on the scan."),
}
_MANY_EMPTY = 0.2  # a dataset with that share of cases without foreground has them on purpose


def check_cases(evidence: Evidence) -> list[Finding]:
    """Everything that can be said about each case on its own."""
    return [
        *_unreadable(evidence),
        *_channel_counts(evidence),
        *_grids(evidence.cases),
        *_voxels(evidence.cases),
        *_value_ranges(evidence),
        *_label_values(evidence),
        *_missing_labels(evidence),
        *_remarks(evidence.cases),
    ]


def _unreadable(evidence: Evidence) -> list[Finding]:
    return finding_if_any(
        {case.name: "; ".join(case.unreadable.values()) for case in evidence.cases if case.unreadable},
        "unreadable-file",
        Severity.ERROR,
        "Files cannot be read.",
        "Replace the files, or remove the cases from imagesTr and labelsTr.",
    )


def _channel_counts(evidence: Evidence) -> list[Finding]:
    # where a file is missing the listing has told it already
    told = {name for problem in evidence.listing.problems if "channel" in problem.code for name in problem.cases}
    return finding_if_any(
        wrong_channel_counts([case for case in evidence.cases if case.name not in told], evidence.num_channels),
        "channel-count",
        Severity.ERROR,
        f"The files hold another number of channels than the {evidence.num_channels} of the dataset.",
        "A time series or a colour image must be split into CASE_0000, CASE_0001, ..., or every channel be named.",
    )


def wrong_channel_counts(cases: list[CaseSummary], expected: int) -> dict[str, str]:
    """Cases whose readable files hold another number of channels."""
    return {
        case.name: f"{len(case.channels)} channel(s) in {', '.join(dict.fromkeys(c.file for c in case.channels))}"
        for case in cases
        if case.channels and not case.unreadable and len(case.channels) != expected
    }


def _grids(cases: tuple[CaseSummary, ...]) -> list[Finding]:
    found: dict[str, dict[str, str]] = {kind: {} for kind in _GRID_KINDS}
    for case in cases:
        if case.grid is None:
            continue
        others = [(channel.file, channel.grid) for channel in case.channels[1:]]
        if case.label is not None:
            others.append((f"labelsTr/{case.label.file}", case.label.grid))
        texts: dict[str, list[str]] = {}
        for file, grid in others:
            differences = case.grid.differences(grid)
            for kind in _GRID_KINDS:
                if kind in differences:
                    texts.setdefault(kind, []).append(f"{file}: {', '.join(differences.values())}")
                    break
        for kind, several in texts.items():
            found[kind][case.name] = "; ".join(several)
    findings = []
    for kind, (severity, advice) in _GRID_KINDS.items():
        message = f"Files of a case differ in {kind} from its first channel."
        findings += finding_if_any(found[kind], f"{kind}-mismatch", severity, message, advice)
    return findings


def _voxels(cases: tuple[CaseSummary, ...]) -> list[Finding]:
    broken: dict[str, str] = {}
    empty: dict[str, str] = {}
    partly_empty: dict[str, str] = {}
    twice: dict[str, str] = {}
    for case in cases:
        not_finite = [
            f"{channel.file}: {channel.num_nan} NaN and {channel.num_infinite} infinite voxels"
            for channel in case.channels
            if channel.num_nan or channel.num_infinite
        ]
        if not_finite:
            broken[case.name] = "; ".join(not_finite)
        constant = [channel for channel in case.channels if channel.constant]
        if constant:
            text = "; ".join(f"{channel.file}: every voxel is {channel.minimum:g}" for channel in constant)
            (empty if len(constant) == len(case.channels) else partly_empty)[case.name] = text
        contents = [channel.content for channel in case.channels if not channel.constant]
        if len(set(contents)) < len(contents):
            twice[case.name] = f"{len(contents)} channels, {len(set(contents))} different"
    return [
        *finding_if_any(
            broken,
            "nan-or-infinite",
            Severity.ERROR,
            "Images hold voxels that are no numbers.",
            "Replace them, for example by 0 or the smallest value of the scan.",
        ),
        *finding_if_any(
            empty, "constant-image", Severity.ERROR, "Images are empty.", "Export them again, or remove the cases."
        ),
        *finding_if_any(
            partly_empty,
            "constant-channel",
            Severity.WARNING,
            "Some channels are empty.",
            "If the channel was not acquired, the network has to learn this; else export it again.",
        ),
        *finding_if_any(
            twice,
            "identical-channels",
            Severity.WARNING,
            "Channels of a case are copies of each other.",
            "Check the export: one of them is probably another channel.",
        ),
    ]


def _value_ranges(evidence: Evidence) -> list[Finding]:
    details: dict[str, str] = {}
    for case in evidence.cases:
        for name, channel in zip(evidence.listing.channel_names, case.channels):
            if scheme_for_channel(name) == "RGBTo01Normalization" and (channel.minimum < 0 or channel.maximum > 255):
                details[case.name] = f"{channel.file}: values from {channel.minimum:g} to {channel.maximum:g}"
    return finding_if_any(
        details,
        "not-bytes",
        Severity.ERROR,
        "Channels named rgb_to_0_1 must hold bytes, 0 to 255.",
        "Name the channel otherwise in dataset.json, such as 'rescale_to_0_1' or 'zscore'.",
    )


def _label_values(evidence: Evidence) -> list[Finding]:
    names = evidence.label_names
    unnamed: dict[str, str] = {}
    fractional: dict[str, str] = {}
    as_bytes = False
    for case in evidence.cases:
        if case.label is None:
            continue
        if case.label.num_fractional:
            fractional[case.name] = (
                f"{case.label.num_fractional} voxels of {case.label.file}, such as {case.label.fraction_example:g}"
            )
            continue
        unknown = {value: number for value, number in case.label.counts.items() if value not in names}
        if unknown and names:
            more = f" and {len(unknown) - 5} more values" if len(unknown) > 5 else ""
            values = ", ".join(f"{value} ({number} voxels)" for value, number in list(unknown.items())[:5])
            unnamed[case.name] = f"{case.label.file}: {values}{more}"
            as_bytes |= set(case.label.counts) == {0, 255}
    hint = " A mask with 0 and 255 must be stored as 0 and 1." if as_bytes else ""
    named = ", ".join(f"{name}={value}" for value, name in sorted(names.items()))
    return [
        *finding_if_any(
            fractional,
            "label-not-integer",
            Severity.ERROR,
            "Label images hold values that are no integers.",
            "They were probably interpolated; resample label images with nearest neighbours.",
        ),
        *finding_if_any(
            unnamed,
            "label-value-unnamed",
            Severity.ERROR,
            f"Label images hold values that dataset.json does not name (it names {named}).",
            f"Add them to 'labels', or correct the label images.{hint}",
        ),
    ]


def _missing_labels(evidence: Evidence) -> list[Finding]:
    """Label images without foreground, and labels without a voxel."""
    labelled = [case for case in evidence.cases if case.label is not None]
    empty = {
        case.name: f"{case.label.file} holds only {_values(case.label.counts)}"
        for case in labelled
        if case.label is not None and case.label.shape is None
    }
    findings: list[Finding] = []
    if empty and len(empty) == len(labelled):
        message = f"None of the {len(labelled)} label images has any foreground, so there is nothing to learn."
        findings += finding_if_any(
            empty, "no-foreground", Severity.ERROR, message, "Check the label values against 'labels' in dataset.json."
        )
        return findings
    share = len(empty) / max(1, len(labelled))
    findings += finding_if_any(
        empty,
        "no-foreground",
        Severity.NOTE if share > _MANY_EMPTY else Severity.WARNING,
        f"{len(empty)} of {len(labelled)} label images have no foreground.",
        "Right for scans without the structure; else the annotation is missing.",
    )
    occurrences = {
        value: sum(value in case.label.counts for case in labelled if case.label is not None)
        for value in evidence.label_names
        if value not in (0, evidence.ignore_label)
    }
    never = {value: evidence.label_names[value] for value, number in occurrences.items() if number == 0}
    if never and labelled:
        message = f"No case has any voxel of {_named(never)}."
        advice = "Remove the label from dataset.json, or correct the values in the label images."
        findings.append(Finding("label-never-occurs", Severity.WARNING, message, advice))
    rare = {value: evidence.label_names[value] for value, number in occurrences.items() if number == 1}
    if rare and len(labelled) > 5:
        message = f"Only one of {len(labelled)} cases has {_named(rare)}."
        advice = "With this case in the validation part of a fold, that fold cannot learn it."
        findings.append(Finding("label-in-one-case", Severity.NOTE, message, advice))
    return findings


def _remarks(cases: tuple[CaseSummary, ...]) -> list[Finding]:
    return finding_if_any(
        {case.name: "; ".join(case.remarks) for case in cases if case.remarks},
        "odd-file",
        Severity.WARNING,
        "Files can be read, but something about them is odd.",
        "Check these cases in a viewer.",
    )


def _values(counts: Mapping[int, int]) -> str:
    return " and ".join(str(value) for value in counts) or "no voxel"


def _named(labels: Mapping[int, str]) -> str:
    return ", ".join(f"'{name}' ({value})" for value, name in sorted(labels.items()))
