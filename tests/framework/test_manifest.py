"""What is known about where preprocessed cases come from: raw files, settings, other programs."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest

from framework.data.raw_dataset import RawCase
from framework.errors import DatasetError
from framework.preprocessing.manifest import Manifest
from framework.preprocessing.parallel import CasePool
from framework.preprocessing.raw_record import is_untouched, raw_record, same_content, touched_but_equal

SETTINGS = {"spacing": (1.0, 1.0), "resampling_fn_data_kwargs": {"order": 3}}


@pytest.fixture
def case(tmp_path: Path) -> RawCase:
    """Two channels of one name in two folders, as a 'dataset' list in dataset.json may have them."""
    paths = [tmp_path / folder / "scan.nii.gz" for folder in ("t1", "t2", "labels")]
    for path in paths:
        path.parent.mkdir()
        path.write_bytes(path.parent.name.encode() * 1000)
    return RawCase("scan", tuple(paths[:2]), paths[2])


@pytest.fixture
def data_folder(tmp_path: Path) -> Path:
    """A folder with the files of one complete case; what is in them does not matter here."""
    folder = tmp_path / "preprocessed" / "data"
    folder.mkdir(parents=True)
    _write_case(folder, "scan")
    return folder


def _write_case(folder: Path, case: str) -> None:
    for ending in (".b2nd", "_seg.b2nd", ".pkl"):
        (folder / f"{case}{ending}").touch()


def _rewrite(path: Path, content: bytes) -> None:
    """New content with a later time of change, however coarse the clock of the disk is."""
    later = path.stat().st_mtime_ns + 1_000_000_000
    path.write_bytes(content)
    os.utime(path, ns=(later, later))


def _saved(data_folder: Path, case: RawCase, settings: dict[str, Any] = SETTINGS, labels: Any = (1, 2)) -> Path:
    manifest = Manifest(data_folder, settings, list(labels))
    manifest.forget(["scan"])
    manifest.add("scan", raw_record(case))
    manifest.save()
    return manifest.path


def test_a_copy_has_the_content_and_a_changed_file_of_equal_size_has_not(case: RawCase) -> None:
    record = raw_record(case)
    assert is_untouched(case, record)
    content = case.images[1].read_bytes()
    _rewrite(case.images[1], content)
    assert not is_untouched(case, record)
    assert same_content(raw_record(case), record)
    _rewrite(case.images[1], content[:-1] + b"x")
    assert not same_content(raw_record(case), record)


def test_channels_that_are_exchanged_are_noticed(case: RawCase) -> None:
    record = raw_record(case)
    exchanged = RawCase("scan", case.images[::-1], case.label)
    assert not same_content(raw_record(exchanged), record)


def test_only_files_of_unchanged_size_are_read(case: RawCase, monkeypatch: pytest.MonkeyPatch) -> None:
    record = raw_record(case)
    _rewrite(case.images[0], b"longer" * 2000)
    monkeypatch.setattr("framework.preprocessing.raw_record._hash", lambda path: pytest.fail("was read"))
    assert touched_but_equal([{"scan": (case, record)}], CasePool(1), None) == [{}]


def test_a_file_that_is_on_record_twice_is_read_once(case: RawCase, monkeypatch: pytest.MonkeyPatch) -> None:
    record = raw_record(case)
    for path in case.images:
        _rewrite(path, path.read_bytes())
    read: list[str] = []

    def run(function: Any, arguments: Any, *_: Any) -> dict[str, Any]:
        read.extend(arguments)
        return {name: function(*values) for name, values in arguments.items()}

    pool = CasePool(1)
    monkeypatch.setattr(pool, "run", run)
    first, second = touched_but_equal([{"scan": (case, record)}] * 2, pool, None)
    assert read == ["scan"]
    assert first == second == {"scan": raw_record(case)}


def test_a_missing_or_unreadable_file_is_a_change(case: RawCase) -> None:
    record = raw_record(case)
    case.images[0].unlink()
    assert not is_untouched(case, record)
    assert touched_but_equal([{"scan": (case, record)}], CasePool(1), None) == [{}]


def test_a_saved_case_is_current_until_a_file_of_it_is_touched(case: RawCase, data_folder: Path) -> None:
    _saved(data_folder, case)
    manifest = Manifest(data_folder, SETTINGS, [1, 2])
    assert manifest.is_current(case)
    assert manifest.touched([case]) == {}
    _rewrite(case.images[0], b"new")
    assert not manifest.is_current(case)
    assert list(manifest.touched([case])) == ["scan"]
    (data_folder / "scan_seg.b2nd").unlink()
    manifest = Manifest(data_folder, SETTINGS, [1, 2])
    assert not manifest.is_current(case)
    assert manifest.touched([case]) == {}  # there is nothing that could be kept


def test_a_complete_case_that_is_not_on_record_is_not_current(case: RawCase, data_folder: Path) -> None:
    _saved(data_folder, case)
    _write_case(data_folder, "late")  # written, but the run was killed before it was noted
    assert not Manifest(data_folder, SETTINGS, [1, 2]).is_current(RawCase("late", case.images, case.label))


def test_settings_that_differ_are_refused_as_long_as_a_case_is_there(case: RawCase, data_folder: Path) -> None:
    _saved(data_folder, case)
    other = {**SETTINGS, "resampling_fn_data_kwargs": {"order": 1}}
    with pytest.raises(DatasetError, match=r"1 case(.|\n)*the test now(.|\n)*kwargs.order \(3 there, 1 now\)"):
        Manifest(data_folder, other, [1, 2], "the test")
    for path in data_folder.iterdir():
        path.unlink()
    assert Manifest(data_folder, other, [1, 2]).cases == {}


def test_a_setting_that_the_record_does_not_know_is_no_reason_to_refuse(case: RawCase, data_folder: Path) -> None:
    _saved(data_folder, case)
    assert Manifest(data_folder, {**SETTINGS, "new_in_a_later_version": 1}, [1, 2]).is_current(case)


def test_other_labels_make_our_cases_stale_and_those_of_others_untouchable(case: RawCase, data_folder: Path) -> None:
    _saved(data_folder, case)
    manifest = Manifest(data_folder, SETTINGS, [1, 2, 3])
    assert manifest.labels_changed
    assert not manifest.is_current(case)
    assert Manifest(data_folder, SETTINGS, None).is_current(case)  # labels are not known: not compared
    _write_case(data_folder, "foreign")
    manifest.path.unlink()
    Manifest(data_folder, SETTINGS, [1, 2]).save()
    with pytest.raises(DatasetError, match=r"another program made for the labels \[1, 2\]"):
        Manifest(data_folder, SETTINGS, [1, 2, 3])


def test_the_record_names_the_versions_of_what_made_the_cases(case: RawCase, data_folder: Path) -> None:
    saved = json.loads(_saved(data_folder, case).read_text())
    assert set(saved["made_with"]) == {"foldwise", "numpy", "scipy", "SimpleITK", "blosc2"}
    assert saved["settings"] == {"spacing": [1.0, 1.0], "resampling_fn_data_kwargs": {"order": 3}}
