"""What the command prints, writes and returns."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from matplotlib.image import imread

from framework.checking.check import check_dataset
from framework.checking.picture import MAX_ROWS, choose_cases, draw_overview
from framework.commands.check import main as fw_check
from framework.data.phantom import make_phantom_dataset
from framework.preprocessing.parallel import CasePool
from tests.framework.checking.builder import (
    build,
    change_both,
    change_image,
    change_label,
    draw_case,
    image_path,
    write,
)


@pytest.fixture
def raw(dataset: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("FW_RAW", str(dataset.parent))
    return dataset


def printed_json(capsys: pytest.CaptureFixture[str], *arguments: str) -> Any:
    capsys.readouterr()
    fw_check([*arguments, "--json"])
    return json.loads(capsys.readouterr().out)


def test_exit_codes_and_text(raw: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert fw_check(["1"]) == 0
    text = capsys.readouterr().out
    assert "nothing found; 12 of 12 cases are fine." in text
    assert "12 cases; channels: MRI0" in text
    assert "shape: median 18x20x22 voxels, all alike" in text
    change_both(raw, 5, lambda array: array[:, :, ::-1])
    assert fw_check(["Balls"]) == 0  # a warning is no error
    assert "WARNINGS: likely wrong" in capsys.readouterr().out
    change_image(raw, 3, lambda image: image * np.float32("nan"))
    assert fw_check(["-d", "1"]) == 2
    text = capsys.readouterr().out
    assert text.index("ERRORS") < text.index("nan-or-infinite") < text.index("WARNINGS") < text.index("flip-suspected")
    assert "1 error(s), 1 warning(s); 10 of 12 cases are fine." in text


def test_few_cases_are_named_and_the_others_counted(raw: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for index in range(7):
        change_image(raw, index, lambda image: image * 0)
    fw_check(["1"])
    text = capsys.readouterr().out
    assert text.count("every voxel is 0") == 4
    assert "and 3 more" in text


def test_json_says_everything_and_nothing_else_is_printed(raw: Path, capsys: pytest.CaptureFixture[str]) -> None:
    change_label(raw, 2, lambda labels: labels[1:])
    result = printed_json(capsys, "1")
    assert list(result) == ["format", "dataset", "folder", "counts", "findings", "summary"]
    assert result["format"] == 1
    assert result["counts"] == {"error": 1, "warning": 0, "note": 0}
    (finding,) = result["findings"]
    assert list(finding) == ["code", "severity", "cases", "message", "advice", "details"]
    assert (finding["code"], finding["severity"], finding["cases"]) == ("shape-mismatch", "error", ["case_02"])
    assert all(finding[key] for key in ("message", "advice", "details"))
    voxels = sum(int((draw_case(index)[1] == 1).sum()) for index in range(12))
    voxels -= int((draw_case(2)[1][0] == 1).sum())
    assert result["summary"]["labels"][0] == {"name": "large", "value": 1, "voxels": voxels, "cases": 12}
    assert result["summary"]["shape"] == {"min": [18, 20, 22], "median": [18, 20, 22], "max": [18, 20, 22]}


def test_number_of_processes_changes_nothing(raw: Path, capsys: pytest.CaptureFixture[str]) -> None:
    change_image(raw, 3, lambda image: image * 0)
    image_path(raw, 4).write_bytes(b"broken")
    assert printed_json(capsys, "1", "-np", "1") == printed_json(capsys, "1", "-np", "2")


def test_a_folder_anywhere_can_be_checked(dataset: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    moved = shutil.move(dataset, tmp_path / "elsewhere")
    assert printed_json(capsys, str(moved))["findings"][0]["code"] == "dataset-name"


def test_splits_of_the_preprocessed_data_are_checked(
    raw: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("FW_PREPROCESSED", str(tmp_path / "preprocessed"))
    splits = tmp_path / "preprocessed" / raw.name / "splits_final.json"
    splits.parent.mkdir(parents=True)
    splits.write_text("[]")
    assert fw_check(["1"]) == 2
    assert "splits-unreadable" in capsys.readouterr().out


def test_unknown_dataset_is_one_message(raw: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert fw_check(["Bals"]) == 2
    captured = capsys.readouterr()
    assert captured.err.startswith("error: dataset 'Bals' was not found")
    assert "Did you mean 'Balls'?" in captured.err
    assert captured.out == ""


@pytest.mark.parametrize("arguments", [["1", "--picture"], ["--picture", "1"], ["1", "--picture", "mine.png"]])
def test_picture_by_flag_or_by_name(raw: Path, arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert fw_check(arguments) == 0
    name = "mine.png" if "mine.png" in arguments else "Dataset001_Balls_check.png"
    assert [path.name for path in Path().glob("*.png")] == [name]
    assert f"picture of 12 cases: {name}" in capsys.readouterr().err


def test_picture_shows_labels_and_marks_cases_with_errors(dataset: Path, tmp_path: Path) -> None:
    change_label(dataset, 2, lambda labels: labels[1:])  # does not fit, and is not drawn
    image_path(dataset, 3).write_bytes(b"broken")
    with CasePool(1) as pool:
        assert draw_overview(tmp_path / "overview.png", check_dataset(dataset), pool) == 11
    picture = imread(tmp_path / "overview.png")[..., :3]
    assert picture.shape[1] > picture.shape[0] > 300
    assert has_colour(picture, "#ff6f59")  # the name of the case with an error
    assert has_colour(picture, "#f0a030")  # the second label


def has_colour(picture: np.ndarray, colour: str) -> bool:
    rgb = [int(colour[at : at + 2], 16) / 255 for at in (1, 3, 5)]
    return bool((np.abs(picture - rgb).max(-1) < 0.06).any())


@pytest.mark.parametrize("file_ending", [".png", ".nii.gz"])
def test_picture_of_2d_scans_with_several_channels(tmp_path: Path, file_ending: str) -> None:
    options: dict[str, Any] = {"shape": (30, 40), "spacing": (1, 1), "modality": "mr"}
    folder = make_phantom_dataset(
        tmp_path, "Dataset002_Flat", 3, dimensions=2, num_channels=2, file_ending=".nii.gz", **options
    )
    if file_ending == ".png":
        for path in [*folder.glob("imagesTr/*"), *folder.glob("labelsTr/*")]:
            import SimpleITK

            array = SimpleITK.GetArrayFromImage(SimpleITK.ReadImage(str(path)))
            write(Path(str(path).replace(".nii.gz", ".png")), np.clip(array, 0, 255).astype(np.uint8))
            path.unlink()
        content = json.loads((folder / "dataset.json").read_text())
        (folder / "dataset.json").write_text(json.dumps({**content, "file_ending": ".png"}))
    result = check_dataset(folder)
    assert result.findings == ()
    with CasePool(1) as pool:
        assert draw_overview(tmp_path / "flat.png", result, pool) == 3
    assert has_colour(imread(tmp_path / "flat.png")[..., :3], "#56b4e9")


def test_a_case_that_is_no_number_at_all_is_told_once(dataset: Path) -> None:
    change_image(dataset, 3, lambda image: image * np.float32("nan"))
    assert [finding.code for finding in check_dataset(dataset).findings] == ["nan-or-infinite"]


def test_nothing_to_draw_writes_no_picture(tmp_path: Path) -> None:
    folder = build(tmp_path / "Dataset001_Broken", num_cases=1)
    image_path(folder, 0).write_bytes(b"broken")
    with CasePool(1) as pool:
        assert draw_overview(tmp_path / "none.png", check_dataset(folder), pool) == 0
    assert not (tmp_path / "none.png").exists()


def test_of_many_cases_the_suspicious_and_some_others_are_drawn() -> None:
    names = [f"{index:03d}" for index in range(300)]
    flagged = {**dict.fromkeys(names[100:200], "constant-image"), "250": "flip-suspected"}
    chosen = choose_cases(names, flagged)
    assert len(chosen) == MAX_ROWS
    assert sorted(chosen) == chosen
    assert set(names[100:111]) | {"250"} <= set(chosen)
    assert {"000", "299"} <= set(chosen)
    assert choose_cases(names[:5], {}) == names[:5]


def test_a_case_that_could_not_be_looked_at_is_told_beside_all_others(
    dataset: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from framework.checking import check

    summarise = check.summarise_case

    def without_memory(case: Any, *arguments: Any) -> Any:
        if case.name == "case_05":
            raise MemoryError
        return summarise(case, *arguments)

    monkeypatch.setattr(check, "summarise_case", without_memory)
    change_image(dataset, 3, lambda image: image * 0)
    result = check_dataset(dataset)
    assert [(finding.code, finding.cases) for finding in result.findings] == [
        ("not-checked", ("case_05",)),
        ("constant-image", ("case_03",)),
    ]
    assert "not enough memory" in result.findings[0].details["case_05"]
