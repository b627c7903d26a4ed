"""Checks of dataset.json and of file names; nothing is read."""

from __future__ import annotations

import re
from collections import Counter
from pathlib import Path

from framework.checking.findings import Finding, Severity, finding_if_any
from framework.data.case_listing import file_names
from framework.data.image_io import READERS
from framework.data.raw_dataset import ListingProblem, RawListing

_HEADLINES = {
    "missing-channel": "Scans lack channel files.",
    "extra-channel": "Scans have more channel files than there are channels.",
    "name-collision": "Names of cases collide.",
}
"""For problems that the listing tells case by case."""
_ADVICE = {
    "missing-channel": "Add the files; a channel that was not acquired cannot be left out.",
    "extra-channel": "Remove the files, or name the channel in 'channel_names' of dataset.json.",
    "dataset-json-unreadable": "It names channels and labels; see the README for an example.",
}


_FURTHER_ENDINGS = {".nii", ".mhd", ".nhdr", ".hdr", ".dcm", ".jpg", ".jpeg", ".tif", ".tiff"}
"""Images as well, though no reader prefers them."""


def check_listing(listing: RawListing) -> list[Finding]:
    """Everything wrong with dataset.json and the files in imagesTr and labelsTr."""
    findings = [*findings_of_problems(listing.problems)]
    for warning in listing.warnings:
        stated = "numTraining" in listing.dataset_json
        severity = Severity.WARNING if stated else Severity.NOTE
        advice = f'Write "numTraining": {len(listing.cases)}; nnU-Net relies on it.'
        findings.append(Finding(warning.code, severity, warning.what, advice))
    if not re.fullmatch(r"Dataset\d{3}_.+", listing.folder.name):
        message = f"The folder is called {listing.folder.name}, but commands find only DatasetXXX_Name."
        findings.append(Finding("dataset-name", Severity.WARNING, message, "Rename it, such as Dataset012_Liver."))
    return findings


def findings_of_problems(
    problems: tuple[ListingProblem, ...] | list[ListingProblem], severity: Severity = Severity.ERROR, where: str = ""
) -> list[Finding]:
    """Problems of a listing as findings; those told case by case become one.

    Args:
        where: stands before every message.
    """
    findings = []
    for code in dict.fromkeys(problem.code for problem in problems):
        same = [problem for problem in problems if problem.code == code]
        if code in _HEADLINES:
            details = {case: problem.what for problem in same for case in problem.cases}
            advice = " ".join(dict.fromkeys(problem.advice for problem in same if problem.advice))
            findings.append(Finding(code, severity, where + _HEADLINES[code], advice or _ADVICE.get(code, ""), details))
            continue
        for problem in same:
            advice = problem.advice or _ADVICE.get(code, "")
            findings.append(Finding(code, severity, where + problem.what, advice, dict.fromkeys(problem.cases, "")))
    return findings


def check_file_endings(listing: RawListing, file_ending: str) -> list[Finding]:
    """Images with another ending than that of the dataset are passed over in silence by everything else."""
    findings = []
    for part in "imagesTr", "labelsTr", "imagesTs":
        others = [
            (name, ending)
            for name in file_names(listing.folder / part)
            if not name.endswith(file_ending) and (ending := image_ending(name))
        ]
        if not others:
            continue
        counts = ", ".join(f"{number} {ending}" for ending, number in Counter(ending for _, ending in others).items())
        findings += finding_if_any(
            {name.removesuffix(ending): name for name, ending in others},
            "mixed-file-endings",
            Severity.WARNING,
            f"{part} holds images that are not {file_ending}: {counts}. They are not used.",
            f"Convert them to {file_ending}, or move them away.",
        )
    return findings


def guess_file_ending(folder: Path) -> str | None:
    """The ending of most images in imagesTr."""
    endings = Counter(ending for name in file_names(folder / "imagesTr") if (ending := image_ending(name)))
    return endings.most_common(1)[0][0] if endings else None


def image_ending(name: str) -> str | None:
    """The ending of an image file as it is written in the name; None if it is no image."""
    known = {ending for reader in READERS.values() for ending in reader.file_endings} | _FURTHER_ENDINGS
    fitting = [ending for ending in known if name.lower().endswith(ending)]
    return name[-len(max(fitting, key=len)) :] if fitting else None
