"""``fw_postprocess``: deciding on post-processing and applying it, folder by folder."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from framework.commands.postprocess import main
from framework.data.image_io import read_segmentation, write_segmentation
from framework.evaluation.summary import read_summary
from tests.builders import summary_of_folders
from tests.interop.selection_cases import GEOMETRY

DATASET = {"labels": {"background": 0, "one": 1, "two": 2}, "file_ending": ".nii.gz"}


@pytest.fixture
def predictions(tmp_path: Path) -> Path:
    """Case "a" is right, case "b" has an island of label 1."""
    reference = np.zeros((4, 6, 12), np.uint8)
    reference[:, :, :4] = 1
    reference[1:3, 1:3, 4:8] = 2
    with_island = reference.copy()
    with_island[0, 0, 10] = 1
    for case, prediction in (("a", reference), ("b", with_island)):
        write_segmentation(reference, tmp_path / "references" / f"{case}.nii.gz", GEOMETRY)
        write_segmentation(prediction, tmp_path / "in" / f"{case}.nii.gz", GEOMETRY)
    (tmp_path / "in" / "dataset.json").write_text(json.dumps(DATASET))
    return tmp_path / "in"


def test_what_is_determined_is_written_and_can_be_applied(
    predictions: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    references = tmp_path / "references"
    assert main(["--determine", "-i", str(predictions), "-ref", str(references), "-np", "2"]) == 0
    assert "yes keep the largest component of all foreground" in capsys.readouterr().out
    written = read_summary(predictions / "postprocessed" / "summary.json")
    again = summary_of_folders(references, predictions / "postprocessed", [1, 2])
    assert written == again
    for steps in (predictions, predictions / "postprocessing.json", predictions / "postprocessing.pkl"):
        target = tmp_path / f"out_{steps.suffix}"
        assert main(["-i", str(predictions), "-o", str(target), "-pp_pkl_file", str(steps)]) == 0
        assert "1 of 2 cases changed" in capsys.readouterr().out
        for case in ("a", "b"):
            left = read_segmentation(target / f"{case}.nii.gz")[0]
            np.testing.assert_array_equal(left, read_segmentation(references / f"{case}.nii.gz")[0])
        assert (target / "dataset.json").is_file()


def test_post_processed_predictions_are_left_out_if_asked_for(predictions: Path, tmp_path: Path) -> None:
    options = ["--determine", "-i", str(predictions), "-ref", str(tmp_path / "references"), "--remove_postprocessed"]
    assert main(options) == 0
    assert not (predictions / "postprocessed").exists()
    assert (predictions / "postprocessing.json").is_file()


def test_dataset_json_may_lie_elsewhere(predictions: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    elsewhere = tmp_path / "elsewhere" / "dataset.json"
    elsewhere.parent.mkdir()
    (predictions / "dataset.json").rename(elsewhere)
    (tmp_path / "steps.json").write_text('{"steps": [{"keep_largest_component_of": [1]}]}')
    command = ["-i", str(predictions), "-o", str(tmp_path / "out"), "-pp_pkl_file", str(tmp_path / "steps.json")]
    assert main(command) == 2
    assert "-dataset_json" in capsys.readouterr().err
    assert main([*command, "-dataset_json", str(elsewhere)]) == 0


def test_case_with_an_unknown_label_fails_alone(
    predictions: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_segmentation(np.full((4, 6, 12), 7, np.uint8), predictions / "c.nii.gz", GEOMETRY)
    (predictions / "d.nii.gz").write_bytes(b"no image")
    (tmp_path / "steps.json").write_text('{"steps": [{"keep_largest_component_of": [1]}]}')
    out = tmp_path / "out"
    assert main(["-i", str(predictions), "-o", str(out), "-pp_pkl_file", str(tmp_path / "steps.json")]) == 2
    error = capsys.readouterr().err
    assert "failed for 2 of 4 case(s)" in error
    assert "c: " in error
    assert "7 (288 voxels)" in error
    assert sorted(path.name for path in out.glob("*.nii.gz")) == ["a.nii.gz", "b.nii.gz"]


def test_missing_references_are_named(predictions: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "references" / "b.nii.gz").unlink()
    assert main(["--determine", "-i", str(predictions), "-ref", str(tmp_path / "references")]) == 2
    assert "1 of 2 predictions" in capsys.readouterr().err


def test_predictions_are_not_overwritten(predictions: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "steps.json").write_text('{"steps": []}')
    steps = str(tmp_path / "steps.json")
    assert main(["-i", str(predictions), "-o", str(predictions), "-pp_pkl_file", steps]) == 2
    assert "would be lost" in capsys.readouterr().err


def test_output_that_cannot_be_written_is_one_message(
    predictions: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "steps.json").write_text('{"steps": [{"keep_largest_component_of": [1]}]}')
    (tmp_path / "file").write_text("no folder")
    target, steps = str(tmp_path / "file" / "out"), str(tmp_path / "steps.json")
    assert main(["-i", str(predictions), "-o", target, "-pp_pkl_file", steps]) == 2
    error = capsys.readouterr().err
    assert "could not be written" in error
    assert error.count("\n") == 1


@pytest.mark.parametrize("options", [["-i", "x"], ["-i", "x", "--determine"], ["-i", "x", "-o", "y"]])
def test_missing_options_are_usage_errors(options: list[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(options)
    assert ended.value.code == 2
