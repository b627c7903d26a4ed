"""Check a raw dataset: list it, read every case once in worker processes, and put all findings together."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from framework.checking.across_checks import check_across, check_swapped_labels
from framework.checking.case_checks import check_cases, wrong_channel_counts
from framework.checking.case_summary import CaseSummary, summarise_case
from framework.checking.evidence import Evidence, stated_ignore_label
from framework.checking.findings import Finding, Severity, by_severity, finding_if_any
from framework.checking.listing_checks import (
    check_file_endings,
    check_listing,
    findings_of_problems,
    guess_file_ending,
)
from framework.checking.splits_checks import check_splits
from framework.checking.suspicions import check_suspicions
from framework.data.image_io import reader_name_for
from framework.data.raw_dataset import ListingProblem, RawCase, RawListing, list_raw_dataset, list_scans
from framework.errors import FoldwiseError
from framework.preprocessing.case_reports import CasesError
from framework.preprocessing.parallel import CasePool, Progress
from framework.preprocessing.raw_size import values_of_largest

_TEST_PREFIX = "imagesTs/"
_BYTES_PER_VALUE = 16  # of an image in work: up to 8 as it was read, its label, and masks


@dataclass(frozen=True)
class CheckResult:
    """What was found, errors first, and what was looked at."""

    findings: tuple[Finding, ...]
    evidence: Evidence
    reader: str | None
    """Name of the image reader; None if no reader knows the files, and so nothing was read."""

    def codes_by_case(self) -> dict[str, list[tuple[str, Severity]]]:
        """Errors and warnings about cases themselves, errors first; what splits say about them is left out."""
        codes: dict[str, list[tuple[str, Severity]]] = {}
        for finding in self.findings:
            if finding.severity is not Severity.NOTE and not finding.code.startswith("splits-"):
                for case in finding.cases:
                    codes.setdefault(case, []).append((finding.code, finding.severity))
        return codes

    @property
    def has_errors(self) -> bool:
        return any(finding.severity is Severity.ERROR for finding in self.findings)


def check_dataset(
    folder: Path | str,
    splits_folders: Sequence[Path] = (),
    pool: CasePool | None = None,
    progress: Progress | None = None,
) -> CheckResult:
    """All findings about a raw dataset; what is wrong in one place does not stop the checks of the others.

    Args:
        folder: with dataset.json, imagesTr and labelsTr; test images in imagesTs are looked at as well.
        splits_folders: where a ``splits_final.json`` may be, beside the folder itself.

    Raises:
        DatasetError: the folder does not exist.
    """
    listing, ending = _listing(folder)
    findings = check_listing(listing)
    if ending:
        findings += check_file_endings(listing, ending)
    tests, test_problems = _test_cases(listing, ending)
    findings += findings_of_problems(test_problems, Severity.WARNING, "imagesTs: ")

    summaries: dict[str, CaseSummary] = {}
    cases = {**listing.cases, **{_TEST_PREFIX + name: case for name, case in tests.items()}}
    reader = _reader(listing, ending, list(cases.values()), findings)
    if reader is not None:
        summaries, not_checked = _summaries(cases, reader, listing, pool or CasePool(1), progress)
        findings += not_checked
    evidence = Evidence(
        listing,
        tuple(summaries[name] for name in listing.cases if name in summaries),
        tuple(summaries[_TEST_PREFIX + name] for name in tests if _TEST_PREFIX + name in summaries),
    )
    # Before the shapes that differ because of it, whose advice would be wrong here.
    findings += check_swapped_labels(evidence.cases)
    findings += check_cases(evidence)
    findings += _check_test_images(evidence, {name for problem in test_problems for name in problem.cases})
    findings += check_across(evidence)
    findings += check_suspicions(evidence)
    if listing.cases:
        findings += check_splits([listing.folder, *splits_folders], list(listing.cases))
    return CheckResult(tuple(by_severity(findings)), evidence, reader)


def _listing(folder: Path | str) -> tuple[RawListing, str]:
    """The listing, and the ending of the images; a wrong one in dataset.json does not hide the cases."""
    listing = list_raw_dataset(folder)
    ending = guess_file_ending(listing.folder)
    if listing.cases or "dataset" in listing.dataset_json or ending in (None, listing.file_ending):
        return listing, listing.file_ending
    assert ending is not None
    guessed = list_raw_dataset(folder, ending)
    told = {problem.code for problem in listing.problems}
    further = tuple(problem for problem in guessed.problems if problem.code not in told)
    return replace(guessed, problems=listing.problems + further), ending


def _reader(listing: RawListing, ending: str, cases: list[RawCase], findings: list[Finding]) -> str | None:
    """Name of the reader, the one for the file ending where dataset.json asks for one that does not exist."""
    if not cases:
        return None
    example = cases[0].images[0]
    ending = ending or "".join(example.suffixes[-2:])
    # The first file may be a broken one; and the reader that dataset.json asks for may not exist.
    reasons = []
    for dataset_json, file in (listing.dataset_json, example), (listing.dataset_json, None), ({}, None):
        try:
            reader = reader_name_for(ending, dataset_json, file)
        except FoldwiseError as error:
            reasons.append(str(error))
        else:
            break
    else:
        reader = None
    if len(reasons) > 1:
        findings.append(Finding("unknown-format", Severity.ERROR, reasons[1]))
    return reader


def _test_cases(listing: RawListing, ending: str) -> tuple[dict[str, RawCase], list[ListingProblem]]:
    folder = listing.folder / "imagesTs"
    if not ending or not folder.is_dir() or not any(folder.iterdir()):
        return {}, []
    return list_scans(folder, ending, len(listing.channel_names) or None)


def _summaries(
    cases: dict[str, RawCase], reader: str, listing: RawListing, pool: CasePool, progress: Progress | None
) -> tuple[dict[str, CaseSummary], list[Finding]]:
    ignore_label = stated_ignore_label(listing.dataset_json)
    done: dict[str, CaseSummary] = {}
    arguments = {name: (case, reader, ignore_label) for name, case in cases.items()}
    memory = values_of_largest(cases.values()) * _BYTES_PER_VALUE
    try:
        pool.run(summarise_case, arguments, "check", progress, done.__setitem__, bytes_per_case=memory)
    except CasesError as error:
        # Not for what is in the files, which the summaries tell.
        advice = "Close other programs, use fewer processes (-np 1), or correct the permissions of the files."
        return done, finding_if_any(
            error.reasons, "not-checked", Severity.ERROR, "Cases could not be looked at.", advice
        )
    return done, []


def _check_test_images(evidence: Evidence, told: set[str]) -> list[Finding]:
    return [
        *finding_if_any(
            {case.name: "; ".join(case.unreadable.values()) for case in evidence.test_cases if case.unreadable},
            "test-images-unreadable",
            Severity.WARNING,
            "Files in imagesTs cannot be read.",
            "Copy or export them again.",
        ),
        *finding_if_any(
            wrong_channel_counts(
                [case for case in evidence.test_cases if case.name not in told], evidence.num_channels
            ),
            "test-images-channel-count",
            Severity.WARNING,
            f"Scans in imagesTs hold another number of channels than the {evidence.num_channels} of the dataset.",
            "They cannot be predicted so.",
        ),
    ]
