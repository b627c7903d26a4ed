"""Ensembles of probabilities, and ``fw_ensemble``."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import pytest

from framework.commands.ensemble import main
from framework.data.image_io import read_segmentation, write_segmentation
from framework.data.labels import Labels
from framework.data.restricted_pickle import dumps
from framework.selection.ensembling import ensembled_label_maps, opened
from framework.selection.probability_files import ProbabilityFile
from tests.interop.selection_cases import GEOMETRY

PLAIN = {"background": 0, "one": 1, "two": 2}
REGIONS = {"background": 0, "whole": [1, 2], "core": 2}
SHAPE = (3, 4, 5)


def random_probabilities(seed: int, num_heads: int, softmax: bool = True) -> np.ndarray:
    values = np.random.default_rng(seed).random((num_heads, *SHAPE), np.float32)
    return values / values.sum(0) if softmax else values


def write_member(folder: Path, labels: Mapping[str, object], seed: int, cases: tuple[str, ...] = ("a", "b")) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    order = {"regions_class_order": [1, 2]} if labels is REGIONS else {}
    (folder / "dataset.json").write_text(json.dumps({"labels": labels, "file_ending": ".nii.gz", **order}))
    (folder / "plans.json").write_text(json.dumps({"image_reader_writer": "SimpleITKIO", "who": folder.name}))
    for number, case in enumerate(cases):
        heads = random_probabilities(10 * seed + number, 2 if labels is REGIONS else 3, labels is PLAIN)
        np.savez_compressed(folder / f"{case}.npz", probabilities=heads)
        (folder / f"{case}.pkl").write_bytes(dumps(GEOMETRY))
        write_segmentation(np.zeros(SHAPE, np.uint8), folder / f"{case}.nii.gz", GEOMETRY)
    return folder


@pytest.mark.parametrize("block", [PLAIN, REGIONS], ids=["labels", "regions"])
def test_label_map_is_that_of_the_mean(block: Mapping[str, object], tmp_path: Path) -> None:
    folders = [write_member(tmp_path / name, block, seed) for seed, name in enumerate("ABC")]
    assert main(["-i", *map(str, folders), "-o", str(tmp_path / "out"), "-np", "2", "--save_npz"]) == 0
    for case in ("a", "b"):
        stacked = [np.load(folder / f"{case}.npz")["probabilities"] for folder in folders]
        mean = (stacked[0] + stacked[1] + stacked[2]) / 3
        if block is PLAIN:
            expected = mean.argmax(0)
        else:
            expected = np.where(mean[1] > 0.5, 2, np.where(mean[0] > 0.5, 1, 0))
        label_map, properties = read_segmentation(tmp_path / "out" / f"{case}.nii.gz")
        np.testing.assert_array_equal(label_map[0], expected)
        assert properties["sitk_stuff"]["origin"] == GEOMETRY["sitk_stuff"]["origin"]
        written = np.load(tmp_path / "out" / f"{case}.npz")["probabilities"]
        assert written.dtype == np.float32
        np.testing.assert_array_equal(written, mean)
        assert (tmp_path / "out" / f"{case}.pkl").is_file()
    assert json.loads((tmp_path / "out" / "plans.json").read_text())["who"] == "A"
    assert (tmp_path / "out" / "dataset.json").is_file()


def test_validation_folders_of_two_models_can_be_ensembled(plain: Path, tmp_path: Path) -> None:
    folders = [plain / f"nnUNetTrainer__nnUNetPlans__{name}" / "fold_0" / "validation" for name in ("2d", "3d_fullres")]
    assert main(["-i", *map(str, folders), "-o", str(tmp_path / "out"), "-np", "1"]) == 0
    assert len(list((tmp_path / "out").glob("*.nii.gz"))) == 2
    assert (tmp_path / "out" / "dataset.json").is_file()


def test_several_combinations_are_answered_from_one_reading(tmp_path: Path) -> None:
    labels = Labels.from_dataset_json({"labels": PLAIN})
    stacked = [random_probabilities(seed, 3) for seed in range(3)]
    for number, heads in enumerate(stacked):
        np.savez_compressed(tmp_path / f"{number}.npz", probabilities=heads)
    files = opened([tmp_path / f"{number}.npz" for number in range(3)], labels)
    maps = ensembled_label_maps(files, [(0, 1), (0, 2), (1, 2)], labels)
    for (first, second), label_map in zip([(0, 1), (0, 2), (1, 2)], maps):
        np.testing.assert_array_equal(label_map, ((stacked[first] + stacked[second]) / 2).argmax(0))


def test_first_label_wins_a_tie(tmp_path: Path) -> None:
    labels = Labels.from_dataset_json({"labels": PLAIN})
    heads = np.full((3, *SHAPE), 1 / 3, np.float32)
    np.savez_compressed(tmp_path / "tie.npz", probabilities=heads)
    files = opened([tmp_path / "tie.npz"] * 2, labels)
    assert not ensembled_label_maps(files, [(0, 1)], labels)[0].any()


def test_arrays_of_other_kinds_are_read_too(tmp_path: Path) -> None:
    heads = random_probabilities(0, 3)
    for name, stored in (("half", heads.astype(np.float16)), ("turned", np.asfortranarray(heads))):
        np.savez(tmp_path / f"{name}.npz", probabilities=stored)
        read = np.stack(list(ProbabilityFile(tmp_path / f"{name}.npz").heads()))
        assert read.dtype == np.float32
        np.testing.assert_array_equal(read, stored.astype(np.float32))


def damaged(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 0xFF
    path.write_bytes(bytes(content))


def shortened(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-100])


def not_finite(path: Path) -> None:
    np.savez_compressed(path, probabilities=np.full((3, *SHAPE), np.nan, np.float32))


def of_another_shape(path: Path) -> None:
    np.savez_compressed(path, probabilities=np.zeros((3, 3, 4, 6), np.float32))


def with_a_channel_more(path: Path) -> None:
    np.savez_compressed(path, probabilities=np.zeros((4, *SHAPE), np.float32))


def of_another_name(path: Path) -> None:
    np.savez_compressed(path, softmax=np.zeros((3, *SHAPE), np.float32))


@pytest.mark.parametrize(
    ("harm", "message"),
    [
        (damaged, "cannot be read"),
        (shortened, "cannot be read"),
        (not_finite, "not finite"),
        (of_another_shape, r"has shape \(3, 4, 6\), but .* has \(3, 4, 5\)"),
        (with_a_channel_more, "has 4 channels, but dataset.json asks for 3"),
        (of_another_name, "no array 'probabilities'"),
    ],
)
def test_case_that_cannot_be_used_does_not_stop_the_others(
    harm: Callable[[Path], None], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folders = [write_member(tmp_path / name, PLAIN, seed) for seed, name in enumerate("AB")]
    harm(folders[1] / "a.npz")
    assert main(["-i", *map(str, folders), "-o", str(tmp_path / "out"), "-np", "1"]) == 2
    error = capsys.readouterr().err
    assert "failed for 1 of 2 case(s)" in error
    assert re.search(message, error)
    assert [path.name for path in sorted((tmp_path / "out").glob("*.nii.gz"))] == ["b.nii.gz"]


def test_another_grid_is_a_failure_of_the_case(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folders = [write_member(tmp_path / name, PLAIN, seed) for seed, name in enumerate("AB")]
    (folders[1] / "b.pkl").write_bytes(dumps({**GEOMETRY, "spacing": [2.0, 1.0, 0.7]}))
    assert main(["-i", *map(str, folders), "-o", str(tmp_path / "out")]) == 2
    assert "spacing (2, 1, 0.7) instead of (2, 1, 0.5) mm" in capsys.readouterr().err


def test_folders_with_other_cases_are_refused_with_their_names(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    first = write_member(tmp_path / "A", PLAIN, 0, ("a", "b", "c"))
    second = write_member(tmp_path / "B", PLAIN, 1, ("b", "d"))
    assert main(["-i", str(first), str(second), "-o", str(tmp_path / "out")]) == 2
    error = capsys.readouterr().err
    assert f"{first} lacks 1 of 4 cases that other folders have: d." in error
    assert f"{second} lacks 2 of 4 cases that other folders have: a, c." in error
    assert not (tmp_path / "out").exists()


def test_folder_without_probabilities_says_how_to_get_them(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folders = [write_member(tmp_path / name, PLAIN, seed) for seed, name in enumerate("AB")]
    for file in folders[1].glob("*.npz"):
        file.unlink()
    assert main(["-i", *map(str, folders), "-o", str(tmp_path / "out")]) == 2
    error = capsys.readouterr().err
    assert f"{folders[1]} holds no probabilities" in error
    assert "--save_probabilities" in error


@pytest.mark.parametrize(
    ("labels", "what"), [(REGIONS, "labels is"), ({"background": 0, "two": 1, "one": 2}, "labels is")]
)
def test_folders_of_different_datasets_are_refused(
    labels: Mapping[str, object], what: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    first, second = write_member(tmp_path / "A", PLAIN, 0), write_member(tmp_path / "B", labels, 1)
    assert main(["-i", str(first), str(second), "-o", str(tmp_path / "out")]) == 2
    error = capsys.readouterr().err
    assert "belong to different datasets" in error
    assert what in error


def test_result_is_not_written_over_a_member(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folders = [write_member(tmp_path / name, PLAIN, seed) for seed, name in enumerate("AB")]
    assert main(["-i", *map(str, folders), "-o", str(folders[0])]) == 2
    assert "would be lost" in capsys.readouterr().err
    shutil.rmtree(folders[1])
    assert main(["-i", *map(str, folders), "-o", str(tmp_path / "out")]) == 2
    assert f"not found: {folders[1]}" in capsys.readouterr().err
