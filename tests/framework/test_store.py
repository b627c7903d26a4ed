"""Preprocessed cases: written whole or not at all, and read alike in every mode."""

from __future__ import annotations

import multiprocessing
import os
import pickle
import resource
import signal
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from framework.data import store as store_module
from framework.data.store import CaseStore, Mode, complete_cases, list_cases, write_case
from framework.errors import CaseError, DatasetError, FoldwiseError, UnknownNameError

PATCH = (8, 16, 16)
MODES: tuple[Mode, ...] = ("packed", "unpacked", "memory")


def arrays(seed: int = 0, shape: tuple[int, ...] = (2, 12, 20, 18)) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    data = rng.normal(size=shape).astype(np.float32)
    return data, rng.integers(-1, 3, (1, *shape[1:])).astype(np.int16)


def properties(segmentation: np.ndarray) -> dict[str, Any]:
    locations: dict[Any, Any] = {label: np.argwhere(segmentation == label) for label in (1, 2)}
    return {
        "spacing": [1.0, 2.0, 3.0],
        "class_locations": {**locations, (1, 2): np.argwhere(segmentation > 0), 3: []},
    }


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Three cases and some stray files."""
    folder = tmp_path / "nnUNetPlans_3d_fullres"
    for seed, case in enumerate(("a", "b", "c_seg")):
        data, segmentation = arrays(seed)
        write_case(folder, case, data, segmentation, properties(segmentation), PATCH)
    for stray in (".DS_Store", "notes.json", "a.npy.bak", ".x.1234.tmp.b2nd"):
        (folder / stray).write_text("stray")
    return folder


@pytest.mark.parametrize("mode", MODES)
def test_every_mode_reads_what_was_written(folder: Path, mode: Mode) -> None:
    store = CaseStore(folder, mode=mode)
    assert store.case_names == ["a", "b", "c_seg"]
    store.prepare()
    for seed, case in enumerate(store.case_names):
        data, segmentation = arrays(seed)
        assert store.shape(case) == data.shape
        for found, expected in zip(store.read(case), (data, segmentation)):
            assert (found.dtype, type(found)) == (expected.dtype, np.ndarray)
            np.testing.assert_array_equal(found, expected)
        empty = (slice(0, 12), slice(3, 11), slice(18, 18))
        for box in ((slice(2, 9), slice(0, 20), slice(17, 18)), empty):
            found = store.read(case, box)
            np.testing.assert_array_equal(found[0], data[(slice(None), *box)])
            np.testing.assert_array_equal(found[1], segmentation[(slice(None), *box)])


@pytest.mark.parametrize("box", [(slice(-2, 5), slice(0, 5), slice(0, 5)), (slice(0, 5), slice(0, 5), slice(10, 19))])
def test_boxes_that_leave_the_image_are_refused(folder: Path, box: tuple[slice, ...]) -> None:
    with pytest.raises(ValueError, match="leaves case 'a'"):
        CaseStore(folder, mode="packed").read("a", box)


def test_class_locations_are_compact_and_keep_their_keys(folder: Path) -> None:
    _, segmentation = arrays(0)
    table = CaseStore(folder, mode="packed").class_locations("a")
    assert list(table) == [1, 2, (1, 2), 3]
    np.testing.assert_array_equal(table[(1, 2)], np.argwhere(segmentation > 0))
    assert table[1].dtype == np.int16
    assert table[3].shape == (0, 4)


def test_class_locations_of_huge_images_do_not_overflow(tmp_path: Path) -> None:
    rows = np.array([[0, 40_000, 1, 2]])
    write_case(tmp_path, "a", *arrays(), {"class_locations": {1: rows}}, PATCH)
    np.testing.assert_array_equal(CaseStore(tmp_path, mode="packed").class_locations("a")[1], rows)


def test_kept_class_locations_have_a_limit(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(store_module, "_MAX_LOCATION_BYTES", 1)
    store = CaseStore(folder, mode="packed")
    for case in ("a", "b", "a"):
        assert len(store.class_locations(case)) == 4
    assert len(store._locations) == 1


@pytest.mark.parametrize("method", ["fork", "spawn"])
@pytest.mark.parametrize("mode", MODES)
def test_workers_read_through_a_store_made_by_their_parent(folder: Path, mode: Mode, method: str) -> None:
    store = CaseStore(folder, mode=mode)
    store.prepare()
    store.read("a")
    with multiprocessing.get_context(method).Pool(1) as pool:
        data, segmentation = pool.apply(store.read, ("b",))
    np.testing.assert_array_equal(data, arrays(1)[0])
    np.testing.assert_array_equal(segmentation, arrays(1)[1])


def test_a_pickled_store_does_not_carry_the_voxels(folder: Path) -> None:
    store = CaseStore(folder, mode="memory")
    store.prepare()
    assert len(pickle.dumps(store)) < 5000


def test_handles_that_are_kept_open_have_a_limit(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(store_module, "_MAX_OPEN_CASES", 2)
    store = CaseStore(folder, mode="packed")
    for case in ("a", "b", "c_seg", "a"):
        store.read(case)
    assert list(store._opened.__dict__) == ["c_seg", "a"]


def test_packed_files_that_are_kept_open_have_a_limit_in_bytes(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # Their pages count as memory of every worker.
    monkeypatch.setattr("framework.data.store._MAX_OPEN_BYTES", 1)
    store = CaseStore(folder, mode="packed")
    whole = {case: CaseStore(folder, mode="memory").read(case)[0] for case in store.case_names}
    for case in [*store.case_names, *store.case_names]:
        np.testing.assert_array_equal(store.read(case)[0], whole[case])
        assert list(store._opened.__dict__) == [case]


def test_unpacked_copies_are_reused_until_the_packed_files_change(folder: Path) -> None:
    store = CaseStore(folder, mode="unpacked")
    store.prepare()
    copy = folder / "a.npy"
    first = copy.stat()
    assert CaseStore(folder, mode="unpacked").read("a")[0].shape == (2, 12, 20, 18)
    assert (copy.stat().st_ino, copy.stat().st_mtime_ns) == (first.st_ino, first.st_mtime_ns)
    data, segmentation = arrays(7)
    write_case(folder, "a", data, segmentation, properties(segmentation), PATCH)
    np.testing.assert_array_equal(CaseStore(folder, mode="unpacked").read("a")[0], data)
    # a copy of another shape, or half a copy, is made anew
    np.save(copy, np.zeros((2, 3, 4, 5), np.float32))
    np.testing.assert_array_equal(CaseStore(folder, mode="unpacked").read("a")[0], data)
    copy.write_bytes(copy.read_bytes()[:2000])
    np.testing.assert_array_equal(CaseStore(folder, mode="unpacked").read("a")[0], data)


def test_files_of_older_versions_are_read(tmp_path: Path) -> None:
    data, segmentation = arrays()
    np.savez_compressed(tmp_path / "a.npz", data=data, seg=segmentation.astype(np.int8))
    (tmp_path / "a.pkl").write_bytes(pickle.dumps(properties(segmentation)))
    for mode in MODES:
        store = CaseStore(tmp_path, mode=mode)
        store.check()
        assert store.shape("a") == data.shape
        np.testing.assert_array_equal(store.read("a")[0], data)
        np.testing.assert_array_equal(store.read("a")[1], segmentation)
    assert CaseStore(tmp_path, mode="packed").mode == "unpacked"
    (tmp_path / "a.npz").write_bytes((tmp_path / "a.npz").read_bytes()[:1000])
    with pytest.raises(CaseError, match=r"a.npz cannot be read"):
        CaseStore(tmp_path, mode="packed").shape("a")


def test_the_automatic_mode_follows_memory_and_disk(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    needed = 3 * 12 * 20 * 18 * (2 * 4 + 2)

    def decide(memory: int, disk: int) -> CaseStore:
        monkeypatch.setattr(store_module, "available_memory", lambda: memory)
        monkeypatch.setattr(store_module, "free_disk_space", lambda _: disk)
        return CaseStore(folder, mode="auto")

    assert decide(4 * needed, 0).mode == "memory"
    assert decide(4 * needed - 1, 2 * needed + 1).mode == "unpacked"
    assert decide(4 * needed - 1, 2 * needed).mode == "packed"
    store = decide(needed, 10 * needed)
    assert store.mode == "packed"
    assert store.num_bytes() == needed
    assert store.explain() == (
        "3 cases are read packed: 126.6 KiB unpacked, 126.6 KiB of memory free, 1.2 MiB of disk free."
    )


def test_broken_cases_are_found_before_training_and_listed_together(folder: Path) -> None:
    for case in ("d", "e", "f", "g"):
        data, segmentation = arrays()
        write_case(folder, case, data, segmentation, properties(segmentation), PATCH)
    (folder / "d.b2nd").write_bytes((folder / "d.b2nd").read_bytes()[:-100])
    (folder / "e_seg.b2nd").unlink()
    (folder / "f.pkl").write_bytes((folder / "f.pkl").read_bytes()[:-10])
    (folder / "g.pkl").unlink()
    (folder / "b_seg.b2nd").write_bytes((folder / "b.b2nd").read_bytes())
    assert list_cases(folder) == ["a", "b", "c_seg", "d", "e", "f", "g"]
    assert complete_cases(folder) == ["a", "b", "c_seg", "d", "f"]
    with pytest.raises(DatasetError) as caught:
        CaseStore(folder, [*list_cases(folder), "gone"], mode="packed").check()
    message = str(caught.value)
    assert "6 case(s)" in message
    for part in (
        "case 'd': ",
        "d.b2nd cannot be read: truncated or damaged",
        "e_seg.b2nd does not exist",
        "f.pkl is truncated",
        "g.pkl does not exist",
        "case 'b': ",
        "segmentation (2, 12, 20, 18)",
        "gone.b2nd does not exist",
    ):
        assert part in message
    with pytest.raises(DatasetError):
        CaseStore(folder, mode="auto")


@pytest.mark.parametrize("mode", MODES)
def test_damage_in_the_middle_of_a_file_names_the_case(folder: Path, mode: Mode) -> None:
    content = bytearray((folder / "b.b2nd").read_bytes())
    middle = slice(len(content) // 3, len(content) // 2)
    content[middle] = os.urandom(middle.stop - middle.start)
    (folder / "b.b2nd").write_bytes(content)
    with pytest.raises(CaseError, match="case 'b': "):
        CaseStore(folder, mode=mode).read("b")


def test_missing_and_empty_folders_are_told(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match=r"does not exist\. Preprocess"):
        CaseStore(tmp_path / "none")
    with pytest.raises(DatasetError, match="holds no preprocessed case"):
        CaseStore(tmp_path)
    with pytest.raises(UnknownNameError, match="Did you mean 'memory'"):
        CaseStore(tmp_path, mode="memroy")  # type: ignore[arg-type]


def test_wrong_shapes_are_refused(tmp_path: Path) -> None:
    data, segmentation = arrays()
    with pytest.raises(ValueError, match=r"expected \(C, X, Y, Z\)"):
        write_case(tmp_path, "a", data, segmentation[:, :5], {}, PATCH)


def _write_on_a_full_disk(folder: Path, limit: int) -> str:
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, resource.RLIM_INFINITY))
    data, segmentation = arrays(9)
    try:
        write_case(folder, "a", data, segmentation, properties(segmentation), PATCH)
    except FoldwiseError as error:
        return str(error)
    return "written"


@pytest.mark.parametrize("limit", [100, 10_000, 20_000])
def test_a_full_disk_leaves_the_old_case_whole_and_nothing_else(folder: Path, limit: int) -> None:
    before = sorted(path.name for path in folder.iterdir())
    with multiprocessing.get_context("fork").Pool(1) as pool:
        message = pool.apply(_write_on_a_full_disk, (folder, limit))
    assert "could not be written" in message
    assert sorted(path.name for path in folder.iterdir()) == before
    np.testing.assert_array_equal(CaseStore(folder, mode="packed").read("a")[0], arrays(0)[0])


@pytest.mark.shared_data
@pytest.mark.parametrize("mode", ["packed", "memory"])
@pytest.mark.parametrize("configuration", ["2d", "3d_fullres"])
def test_cases_of_nnunet_are_read(shared_data: Path, configuration: str, mode: Mode) -> None:
    root = shared_data / "nnunet_reference" / "preprocessed" / "Dataset004_Hippocampus"
    store = CaseStore(root / f"nnUNetPlans_{configuration}", mode=mode)
    store.check()
    assert len(store.case_names) == 8
    for case in store.case_names:
        data, segmentation = store.read(case)
        assert data.shape == store.shape(case) == (1, *segmentation.shape[1:])
        for label, rows in store.class_locations(case).items():
            assert (segmentation[tuple(rows.T)] == label).all()
            assert len(rows) == (segmentation == label).sum()  # all voxels: each label has fewer than 10000
