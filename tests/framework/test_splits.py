"""Cross-validation splits: equal to nnU-Net's, validated when read, safe when several folds start at once."""

from __future__ import annotations

import json
import multiprocessing
from pathlib import Path

import numpy as np
import pytest

from framework.data.splits import create_splits, fold_cases, load_or_create_splits
from framework.errors import DatasetError

TWELVE = [f"c{i:02d}" for i in range(12)]
# nnU-Net 2.8.1 with scikit-learn, for the same twelve names
VALIDATED = [
    ["c00", "c03", "c08"],
    ["c07", "c10", "c11"],
    ["c06", "c09"],
    ["c01", "c04"],
    ["c02", "c05"],
]
FOLD_SEVEN = ["c04", "c07", "c02", "c00", "c08", "c11", "c01", "c06", "c09"]


def test_splits_equal_those_of_nnunet() -> None:
    splits = create_splits(reversed(TWELVE))
    assert [split["val"] for split in splits] == VALIDATED
    assert all(split["train"] == [n for n in TWELVE if n not in split["val"]] for split in splits)


@pytest.mark.shared_data
def test_splits_of_a_real_dataset_equal_its_file(shared_data: Path) -> None:
    folder = shared_data / "nnunet_reference" / "preprocessed" / "Dataset004_Hippocampus"
    names = [
        path.name.removesuffix(".nii.gz") for path in (shared_data / "Dataset004_Hippocampus" / "labelsTr").iterdir()
    ]
    assert create_splits(names) == json.loads((folder / "splits_final.json").read_text())
    assert load_or_create_splits(folder, names) == create_splits(names)


@pytest.mark.parametrize("num_cases", [2, 3, 4, 5, 6, 23])
def test_every_case_is_validated_in_exactly_one_fold(num_cases: int) -> None:
    names = [f"c{i:02d}" for i in range(num_cases)]
    splits = create_splits(names)
    assert len(splits) == min(5, num_cases)
    assert sorted(name for split in splits for name in split["val"]) == names
    assert all(sorted(split["train"] + split["val"]) == names for split in splits)


def test_a_single_case_can_only_be_trained_on_as_fold_all(tmp_path: Path) -> None:
    splits = load_or_create_splits(tmp_path, ["only"])
    assert splits == []
    assert not list(tmp_path.iterdir())
    assert fold_cases(splits, "all", ["only"]) == (["only"], ["only"])
    with pytest.raises(DatasetError, match="fold 'all'"):
        fold_cases(splits, 0, ["only"])


def test_a_fold_beyond_the_file_is_the_random_split_of_nnunet() -> None:
    train, validation = fold_cases(create_splits(TWELVE), 7, TWELVE)
    assert train == FOLD_SEVEN
    assert validation == ["c03", "c05", "c10"]


def test_folds_that_do_not_exist_are_refused() -> None:
    splits = create_splits(TWELVE)
    assert fold_cases(splits, 2, TWELVE)[1] == ["c06", "c09"]
    for fold in (-1, "first"):
        with pytest.raises(DatasetError, match="Pass one of 0, 1, 2, 3, 4, or 'all'"):
            fold_cases(splits, fold, TWELVE)


def test_a_file_of_the_user_is_kept(tmp_path: Path) -> None:
    own = [{"train": ["c00", "c01"], "val": ["c02"]}]
    (tmp_path / "splits_final.json").write_text(json.dumps(own))
    assert load_or_create_splits(tmp_path, TWELVE) == own


def test_mistakes_in_a_file_are_told_together(tmp_path: Path) -> None:
    own = [
        {"train": ["c00", "gone"], "val": ["c00"]},
        {"train": ["c01"], "val": []},
        {"training": []},
    ]
    (tmp_path / "splits_final.json").write_text(json.dumps(own))
    with pytest.raises(DatasetError) as caught:
        load_or_create_splits(tmp_path, TWELVE)
    message = str(caught.value)
    for part in ("fold 0: 1 train case(s) do not exist: gone", "fold 0: in both train and val: c00"):
        assert part in message
    for part in ("fold 1: 'val' is empty", "fold 2: expected"):
        assert part in message


@pytest.mark.parametrize("content", ["{}", "[]", "[1"])
def test_a_file_that_is_no_list_of_folds_is_refused(tmp_path: Path, content: str) -> None:
    (tmp_path / "splits_final.json").write_text(content)
    with pytest.raises(DatasetError, match=r"splits_final.json"):
        load_or_create_splits(tmp_path, TWELVE)


def test_several_folds_may_create_the_file_at_once(tmp_path: Path) -> None:
    with multiprocessing.get_context("fork").Pool(4) as pool:
        results = pool.starmap(load_or_create_splits, [(tmp_path, TWELVE)] * 8)
    assert all(result == create_splits(TWELVE) for result in results)
    assert [path.name for path in tmp_path.iterdir()] == ["splits_final.json"]


def test_names_are_plain_text() -> None:
    splits = create_splits(np.array(TWELVE).tolist())
    assert all(type(name) is str for split in splits for name in split["train"])
