"""The validation of a whole fold: what is kept and what is put aside, what is drawn, and how it is stopped."""

from __future__ import annotations

import csv
import json
import math
import os
import shutil
import signal
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

import trainers.fold_validation as fold_validation
from framework.data.image_io import read_segmentation
from framework.errors import CaseError, FoldwiseError, WriteError
from framework.evaluation.summary import read_summary
from framework.inference.scan_grid import ScanGrid
from framework.preprocessing.resampling import RESAMPLING
from tests.builders import TINY, make_tiny_dataset, use_roots
from trainers import SegmentationTrainer, validation_pictures
from trainers.validation_pictures import ScanOfPreprocessed

SHORT = TINY | {"training.num_epochs": 1}


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny dataset with a fold that is trained, but not validated."""
    folder = tmp_path_factory.mktemp("trained")
    with pytest.MonkeyPatch.context() as patch:
        use_roots(folder, patch)
        make_tiny_dataset(folder / "raw")
        trainer_of({"training.final_validation": False}).run_training()
    return folder


@pytest.fixture
def messages() -> list[str]:
    return []


@pytest.fixture
def fold(trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, messages: list[str]) -> SegmentationTrainer:
    """The trained fold, as ``fw_train --val`` opens it, in results of its own."""
    use_roots(trained, monkeypatch)
    shutil.copytree(trained / "results", tmp_path / "results")
    monkeypatch.setenv("FW_RESULTS", str(tmp_path / "results"))
    return opened(messages)


@pytest.fixture
def predicted(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Names of the cases that are predicted and written, one after the other in this thread; nothing is drawn."""
    names: list[str] = []
    original = fold_validation._write_case

    def noting(trainer: SegmentationTrainer, case: str, *more: Any) -> None:
        original(trainer, case, *more)
        names.append(case)

    monkeypatch.setattr(fold_validation, "predict_cases", partial(fold_validation.predict_cases, num_writers=0))
    monkeypatch.setattr(fold_validation, "_write_case", noting)
    monkeypatch.setattr(fold_validation, "draw_validation_pictures", lambda *arguments: [])
    return names


def trainer_of(overrides: dict[str, Any] | None = None, **options: Any) -> SegmentationTrainer:
    options = {"report": lambda message: None} | options
    return SegmentationTrainer.from_dataset(
        7, "3d_fullres", plans="laptop", device="cpu", overrides=SHORT | (overrides or {}), **options
    )


def opened(messages: list[str]) -> SegmentationTrainer:
    return SegmentationTrainer.from_dataset(
        7, "3d_fullres", plans="laptop", device="cpu", resume="final", report=messages.append
    )


def validation_of(trainer: SegmentationTrainer) -> Path:
    assert trainer.run_folder is not None
    return trainer.run_folder.validation


def names_in(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


def worst_first(trainer: SegmentationTrainer, summary: dict[str, Any]) -> set[str]:
    """What the pictures of all validation cases are called."""
    means = {}
    for case, entry in zip(trainer.validation_cases, summary["metric_per_case"], strict=True):
        dice = [scores["Dice"] for scores in entry["metrics"].values() if not math.isnan(scores["Dice"])]
        means[case] = sum(dice) / len(dice)
    ranked = sorted(means, key=lambda case: means[case])
    return {f"{place:03d}_{case}.png" for place, case in enumerate(ranked, start=1)}


def test_scores_tables_and_pictures_are_written(fold: SegmentationTrainer, messages: list[str]) -> None:
    summary = fold.validate_fold()
    folder = validation_of(fold)
    assert read_summary(folder / "summary.json")["mean"] == summary["mean"]
    with open(folder / "metrics.csv", newline="") as file:
        rows = {(row["case"], int(row["label"])): row for row in csv.DictReader(file)}
    assert {case for case, _ in rows} == set(fold.validation_cases)
    for case, entry in zip(fold.validation_cases, summary["metric_per_case"]):
        prediction = read_segmentation(folder / f"{case}.nii.gz")[0]
        reference = read_segmentation(entry["reference_file"])[0]
        for label, name in ((1, "organ"), (2, "kidney")):
            overlap = 2 * ((prediction == label) & (reference == label)).sum()
            dice = overlap / ((prediction == label).sum() + (reference == label).sum())
            assert entry["metrics"][label]["Dice"] == pytest.approx(dice)
            assert float(rows[case, label]["Dice"]) == pytest.approx(dice, abs=1e-5)
            assert rows[case, label]["name"] == name
    assert names_in(folder / "pictures") == worst_first(fold, summary)
    assert f"mean validation Dice: {summary['foreground_mean']['Dice']:.4f}" in messages


def test_predictions_of_other_cases_are_put_aside_and_not_scored(
    fold: SegmentationTrainer, messages: list[str]
) -> None:
    fold.validate_fold()
    folder = validation_of(fold)
    case, stranger = fold.validation_cases[0], fold.training_cases[0]
    for ending in (".nii.gz", ".npz"):
        shutil.copy(folder / f"{case}.nii.gz", folder / f"{stranger}{ending}")
    (folder / "notes.txt").write_text("mine")
    summary = fold.validate_fold()
    assert len(summary["metric_per_case"]) == 2
    aside = folder.with_name("validation_before_1")
    assert names_in(aside) == {f"{stranger}.nii.gz", f"{stranger}.npz"}
    assert (folder / "notes.txt").read_text() == "mine"
    assert any("held 2 file(s) of another validation" in message and str(aside) in message for message in messages)


def test_predictions_of_other_weights_are_put_aside(fold: SegmentationTrainer, predicted: list[str]) -> None:
    fold.validate_fold()
    folder = validation_of(fold)
    old = {case: (folder / f"{case}.nii.gz").read_bytes() for case in fold.validation_cases}
    next(iter(fold.network.parameters())).data += 1e-3
    for number in (1, 2):
        fold.validate_fold()
        aside = folder.with_name(f"validation_before_{number}")
        assert {"summary.json", "metrics.csv"} <= names_in(aside)
        assert predicted == fold.validation_cases * (1 + number)
        next(iter(fold.network.parameters())).data += 1e-3
    first = folder.with_name("validation_before_1")
    assert {case: (first / f"{case}.nii.gz").read_bytes() for case in old} == old


def test_predictions_of_unknown_origin_are_put_aside(fold: SegmentationTrainer, predicted: list[str]) -> None:
    """As nnU-Net leaves them, or a copy: nothing says which weights made them."""
    folder = validation_of(fold)
    folder.mkdir()
    (folder / f"{fold.validation_cases[0]}.nii.gz").write_bytes(b"somebody's")
    (folder / "summary.json").write_text("{}")
    fold.validate_fold()
    assert predicted == fold.validation_cases
    assert names_in(folder.with_name("validation_before_1")) == {f"{fold.validation_cases[0]}.nii.gz", "summary.json"}


def test_a_completed_validation_is_done_again_in_place_when_asked_for(
    fold: SegmentationTrainer, predicted: list[str]
) -> None:
    first = fold.validate_fold()
    assert fold.validate_fold() == first
    assert predicted == fold.validation_cases * 2
    assert not list(validation_of(fold).parent.glob("validation_before_*"))


def stop_after_first(trainer: SegmentationTrainer, monkeypatch: pytest.MonkeyPatch) -> None:
    writing = fold_validation._write_case

    def stopping(trainer: SegmentationTrainer, case: str, *more: Any) -> None:
        writing(trainer, case, *more)
        os.kill(os.getpid(), signal.SIGTERM)

    with monkeypatch.context() as patch:
        patch.setattr(fold_validation, "_write_case", stopping)
        assert trainer.validate_fold() == {}
    assert trainer.interrupted


@pytest.mark.parametrize("harm", ["none", "truncated", "deleted", "no probabilities"])
def test_a_signal_stops_the_validation_and_only_whole_cases_are_kept(
    fold: SegmentationTrainer,
    predicted: list[str],
    monkeypatch: pytest.MonkeyPatch,
    messages: list[str],
    harm: str,
) -> None:
    before = signal.getsignal(signal.SIGTERM)
    stop_after_first(fold, monkeypatch)
    assert signal.getsignal(signal.SIGTERM) is before
    first, second = fold.validation_cases
    assert predicted == [first]
    folder = validation_of(fold)
    assert not (folder / "summary.json").exists()
    file = folder / f"{first}.nii.gz"
    if harm == "truncated":
        file.write_bytes(file.read_bytes()[:-9])
    elif harm == "deleted":
        file.unlink()
    resumed = opened(messages)
    resumed.save_probabilities = harm == "no probabilities"
    assert len(resumed.validate_fold()["metric_per_case"]) == 2
    assert predicted == ([first, second] if harm == "none" else [first, first, second])
    assert (folder / f"{first}.npz").exists() == resumed.save_probabilities


def test_a_signal_in_the_middle_of_a_case_does_not_wait_for_its_end(
    fold: SegmentationTrainer, predicted: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    original = fold_validation.sliding_window_logits

    def told(network: Any, data: Any, patch_size: Any, *, progress: Any, **options: Any) -> Any:
        def on_tile(done: int, total: int) -> None:
            if done == 2:
                fold.request_stop("test", immediately=True)
            assert done <= 2
            progress(done, total)

        return original(network, data, patch_size, progress=on_tile, batch_size=1, **options)

    monkeypatch.setattr(fold_validation, "sliding_window_logits", told)
    assert fold.validate_fold() == {}
    assert predicted == []


def test_a_case_that_fails_is_named_and_the_others_go_on(
    fold: SegmentationTrainer, predicted: list[str], monkeypatch: pytest.MonkeyPatch, messages: list[str]
) -> None:
    first, second = fold.validation_cases
    reading = fold_validation._read_case

    def failing(trainer: SegmentationTrainer, case: str) -> Any:
        if case == first:
            raise CaseError(case, "its file is damaged")
        return reading(trainer, case)

    with monkeypatch.context() as patch:
        patch.setattr(fold_validation, "_read_case", failing)
        with pytest.raises(FoldwiseError) as caught:
            fold.validate_fold()
    assert "1 of 2 validation cases could not be predicted and scored" in str(caught.value)
    assert f"{first}  reading  its file is damaged" in str(caught.value)
    assert f"validation case '{first}' failed while reading: its file is damaged" in messages
    assert predicted == [second]
    assert not (validation_of(fold) / "summary.json").exists()
    opened(messages).validate_fold()
    assert predicted == [second, first]
    assert (validation_of(fold) / "summary.json").exists()


def test_scores_that_cannot_be_written_after_a_training_are_told_with_the_way_to_go_on(
    fold: SegmentationTrainer, predicted: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(summary: Any, path: Path) -> None:
        raise WriteError(path, "No space left on device", "Run the same command again.")

    monkeypatch.setattr(fold_validation, "write_summary", full)
    # Without --c the same command would train the fold again.
    with pytest.raises(WriteError, match=r"summary\.json .*No space left.*the same command with --c goes on"):
        fold_validation.FoldValidation().on_train_end(fold)


def test_a_reference_of_another_shape_fails_its_case_only(
    fold: SegmentationTrainer, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    first, second = fold.validation_cases
    files = fold_validation._reference_files(fold)
    monkeypatch.setattr(fold_validation, "_reference_files", lambda trainer: files | {first: files[second]})
    with pytest.raises(FoldwiseError, match=rf"(?s)1 of 2 validation cases.*{first}  scoring"):
        fold.validate_fold()


def test_pictures_never_replace_the_predictions_of_png_datasets(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    use_roots(tmp_path, monkeypatch)
    make_tiny_dataset(tmp_path / "raw", dimensions=2, shape=(24, 28), spacing=(1, 1), file_ending=".png")
    overrides = {
        "training.num_epochs": 1, "training.iterations_per_epoch": 1, "training.validation_iterations_per_epoch": 1,
        "training.num_workers": 0, "batch_size": 2, "patch_size": [16, 16],
    }  # fmt: skip
    messages: list[str] = []
    trainer = SegmentationTrainer.from_dataset(
        7, "2d", plans="laptop", overrides=overrides, device="cpu", report=messages.append
    )
    trainer.run_training()
    folder = validation_of(trainer)
    summary = read_summary(folder / "summary.json")
    for case in trainer.validation_cases:
        prediction, _ = read_segmentation(folder / f"{case}.png")
        assert prediction.shape[0] == prediction.shape[1] == 1
        assert set(np.unique(prediction)) <= {0, 1, 2}
    assert names_in(folder / "pictures") == worst_first(trainer, summary)
    assert not [message for message in messages if "could not be drawn" in message]


def test_pictures_of_an_earlier_validation_are_removed_and_others_stay(fold: SegmentationTrainer) -> None:
    folder = validation_of(fold) / "pictures"
    folder.mkdir(parents=True)
    for name in ("001_somebody.png", "012_else.png", "mine.png"):
        (folder / name).touch()
    summary = fold.validate_fold()
    assert names_in(folder) == {*worst_first(fold, summary), "mine.png"}


def test_a_signal_ends_the_drawing_and_the_pictures_come_with_the_next_start(
    fold: SegmentationTrainer, monkeypatch: pytest.MonkeyPatch
) -> None:
    draw = validation_pictures._draw

    def draw_one(*arguments: Any) -> None:
        draw(*arguments)
        fold.request_stop("test", immediately=True)

    monkeypatch.setattr(validation_pictures, "_draw", draw_one)
    fold.validate_fold()
    folder = validation_of(fold)
    assert len(names_in(folder / "pictures")) == 1
    predicted = {case: (folder / f"{case}.nii.gz").stat().st_mtime_ns for case in fold.validation_cases}
    monkeypatch.undo()
    fold.interrupted = False
    fold.validate_fold()
    assert len(names_in(folder / "pictures")) == len(fold.validation_cases)
    assert predicted == {case: (folder / f"{case}.nii.gz").stat().st_mtime_ns for case in fold.validation_cases}


def on_scan_grid(data: np.ndarray, properties: dict[str, Any], plans: Any, configuration: Any) -> np.ndarray:
    """A preprocessed image (C, X, Y, Z) on the grid of its scan, whole; 0 where it was cropped."""
    grid = ScanGrid.of(properties, plans, configuration)
    whole = np.zeros((len(data), *grid.scan_shape), np.float32)
    resample = RESAMPLING[configuration.resampling_fn_probabilities]
    arguments = (grid.shape, grid.network_spacing, grid.spacing)
    grid.box_of(whole)[...] = resample(data, *arguments, **configuration.resampling_fn_probabilities_kwargs)
    return whole


def test_preprocessed_scans_are_shown_where_they_lie_in_the_scan(fold: SegmentationTrainer) -> None:
    case = fold.validation_cases[0]
    data, properties = fold.store.read(case)[0], fold.store.properties(case)
    # A box in the scan, other axes, and another resolution than the scan's.
    x, y, z = data.shape[1:]
    changed = properties | {
        "shape_before_cropping": (x + 9, 2 * y + 5, z + 3),
        "bbox_used_for_cropping": [(4, x + 5), (3, 2 * y + 1), (0, z)],
        "shape_after_cropping_and_before_resampling": (x + 1, 2 * y - 2, z),
    }
    plans: Any = SimpleNamespace(source="plans", transpose_forward=(2, 0, 1), transpose_backward=(1, 2, 0))
    whole = on_scan_grid(data[:1] + 10, changed, plans, fold.configuration)[0]
    view = ScanOfPreprocessed(data[0] + 10, ScanGrid.of(changed, plans, fold.configuration))
    assert view.shape == whole.shape == (2 * y + 5, z + 3, x + 9)
    for axis, length in enumerate(whole.shape):
        for position in (0, 3, length // 2, length - 1):
            index = tuple(position if each == axis else slice(None) for each in range(3))
            shown, expected = view[index], whole[index]
            surround = expected == 0
            np.testing.assert_allclose(shown[~surround], expected[~surround], atol=1e-3)
            assert (shown[surround] == (data[0] + 10).min()).all()


def test_the_summary_of_a_fold_is_json_that_every_reader_takes(fold: SegmentationTrainer) -> None:
    fold.validate_fold()

    def refuse(token: str) -> None:
        raise AssertionError(f"{token} is no JSON")

    json.loads((validation_of(fold) / "summary.json").read_text(), parse_constant=refuse)
