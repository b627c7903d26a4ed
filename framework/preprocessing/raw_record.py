"""Which raw files something was made from, so that a change of them is noticed and a copy is not."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from framework.data.raw_dataset import RawCase
from framework.preprocessing.parallel import CasePool, Progress

RawRecord = list[list[Any]]
"""For each file of a case, channels first: name, size in bytes, time of change in ns, hash of the content."""

_CHUNK_BYTES = 1 << 20


def raw_record(case: RawCase) -> RawRecord:
    """The record of a case, from its files. They are read whole, which leaves them in the system's cache.

    Size and time are taken before the content is read: a file that changes meanwhile is seen to have changed
    the next time.
    """
    return [[*_name_size_and_time(path), _hash(path)] for path in raw_files(case)]


def is_untouched(case: RawCase, record: RawRecord) -> bool:
    """Whether all files of a case have the size and the time that are on record; nothing is read."""
    try:
        return [_name_size_and_time(path) for path in raw_files(case)] == [entry[:3] for entry in record]
    except OSError:
        return False


def same_content(first: RawRecord, second: RawRecord) -> bool:
    """Whether two records tell of equal files, however often they were copied."""
    return [entry[3:] for entry in first] == [entry[3:] for entry in second]


TouchedCases = Mapping[str, tuple[RawCase, RawRecord]]
"""Case and old record, by the name of the case, of files that have another size or time than on record."""


def touched_but_equal(
    touched: Sequence[TouchedCases], pool: CasePool, progress: Progress | None
) -> list[dict[str, RawRecord]]:
    """For each of several sets of records, new records of the cases that hold what is on record all the same.

    Every file is read once, even if it is on record several times.
    """
    # A file of another size has other content; it need not be read to know that.
    candidates = {
        name: (case,)
        for records in touched
        for name, (case, record) in records.items()
        if _sizes(case) == [entry[1] for entry in record]
    }
    found = pool.run(_raw_record_if_readable, candidates, "comparing raw files", progress) if candidates else {}
    return [
        {
            name: found[name]
            for name, (_, record) in records.items()
            if found.get(name) is not None and same_content(found[name], record)
        }
        for records in touched
    ]


def raw_files(case: RawCase) -> list[Path]:
    """All files of a case: scans, label image, and the spacing that lies beside volumes in TIFF files."""
    images = [*case.images, *([case.label] if case.label else [])]
    folders = dict.fromkeys(path.parent for path in images if path.suffix.lower() in (".tif", ".tiff"))
    return images + [file for folder in folders if (file := folder / f"{case.name}.json").is_file()]


def _raw_record_if_readable(case: RawCase) -> RawRecord | None:
    try:
        return raw_record(case)
    except OSError:
        return None  # whoever reads the case next tells what is wrong with the file


def _name_size_and_time(path: Path) -> list[Any]:
    found = path.stat()
    return [path.name, found.st_size, found.st_mtime_ns]


def _sizes(case: RawCase) -> list[int]:
    try:
        return [path.stat().st_size for path in raw_files(case)]
    except OSError:
        return []


def _hash(path: Path) -> str:
    digest = hashlib.blake2b(digest_size=16)
    with open(path, "rb") as file:
        while chunk := file.read(_CHUNK_BYTES):
            digest.update(chunk)
    return digest.hexdigest()
