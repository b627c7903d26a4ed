"""``dataset_fingerprint.json`` of a dataset: made when it is missing or the raw data changed, else used as it is.

Beside it, ``foldwise/fingerprint.json`` records the raw files that it was made from. A fingerprint that nnU-Net
wrote has no such record and is trusted.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from framework.data.raw_dataset import RawCase, RawDataset
from framework.errors import DatasetError
from framework.files import read_json, write_json
from framework.preprocessing.case_reports import counted_cases
from framework.preprocessing.fingerprint import FILE_NAME, extract_fingerprint
from framework.preprocessing.parallel import CasePool, Progress
from framework.preprocessing.raw_record import RawRecord, is_untouched, touched_but_equal
from framework.preprocessing.run_log import RunLog, library_versions

_VERSION = 1


@dataclass(frozen=True)
class CurrentFingerprint:
    """A fingerprint that fits the raw data as they are."""

    values: dict[str, Any]
    raw_data_changed: bool
    """Whether it replaced one that was made from other raw data."""


def current_fingerprint(
    raw_dataset: RawDataset,
    folder: Path,
    pool: CasePool,
    log: RunLog,
    progress: Progress | None = None,
    clean: bool = False,
) -> CurrentFingerprint:
    """The fingerprint in the preprocessed folder of a dataset, made (again) if need be.

    Args:
        clean: extract it even if there is a current one.

    Raises:
        DatasetError: cases that cannot be used, or no foreground; see `extract_fingerprint`.
    """
    path, record_path = folder / FILE_NAME, folder / "foldwise" / "fingerprint.json"
    exists, recorded = path.is_file(), record_path.is_file()
    changes = ""
    if exists and not clean and not recorded:
        values = read_json(path, error_type=DatasetError)
        num_cases = len(values.get("spacings", ()))
        if num_cases != len(raw_dataset.cases):
            log.say(
                f"note: {path} was made by another program from {counted_cases(num_cases)} and is used as it is, "
                f"but there are {len(raw_dataset.cases)} now (--clean makes it again)"
            )
        return CurrentFingerprint(values, raw_data_changed=False)
    if exists and recorded:
        known = read_json(record_path, error_type=DatasetError)["cases"]
        changes, touched = _compared(raw_dataset.cases, known, pool, progress)
        if not changes and not clean:
            if touched:
                _save_record(record_path, {**known, **touched})
                log.say(
                    f"{counted_cases(len(touched))} were copied or touched, but hold what they held: same fingerprint"
                )
            return CurrentFingerprint(read_json(path, error_type=DatasetError), raw_data_changed=False)
        if changes:
            log.say(f"the raw data changed since the fingerprint was made ({changes}): making it again")
    with log.timed(f"fingerprint of {counted_cases(len(raw_dataset.cases))}"):
        records: dict[str, RawRecord] = {}
        values = extract_fingerprint(raw_dataset, pool, progress, records)
        # In this order: a crash in between leaves an old record, and then the fingerprint is made once more.
        write_json(path, values)
        _save_record(record_path, records)
    return CurrentFingerprint(values, raw_data_changed=bool(changes))


def _compared(
    cases: Mapping[str, RawCase], known: Mapping[str, RawRecord], pool: CasePool, progress: Progress | None
) -> tuple[str, dict[str, RawRecord]]:
    """What changed, in words, and new records of files that were only copied or touched."""
    added = [name for name in cases if name not in known]
    removed = [name for name in known if name not in cases]
    touched = {
        name: (case, known[name])
        for name, case in cases.items()
        if name in known and not is_untouched(case, known[name])
    }
    equal = {} if added or removed else touched_but_equal([touched], pool, progress)[0]
    counts = {"new": len(added), "gone": len(removed), "changed": len(touched) - len(equal)}
    return ", ".join(f"{count} {what}" for what, count in counts.items() if count), equal


def _save_record(path: Path, records: Mapping[str, RawRecord]) -> None:
    content = {"version": _VERSION, "made_with": library_versions(), "cases": dict(sorted(records.items()))}
    write_json(path, content, indent=1)
