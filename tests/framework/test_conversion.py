"""fw_convert: datasets of the Medical Segmentation Decathlon and of nnU-Net version 1."""

from __future__ import annotations

import gzip
import json
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import SimpleITK

from framework.commands.convert import main
from framework.data.conversion import open_old_dataset
from framework.data.raw_dataset import RawDataset
from framework.errors import DatasetError


@pytest.fixture
def raw(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of raw datasets."""
    monkeypatch.setenv("FW_RAW", str(tmp_path / "raw"))
    (tmp_path / "raw").mkdir()
    return tmp_path / "raw"


def save(path: Path, array: np.ndarray) -> None:
    image = SimpleITK.GetImageFromArray(array, isVector=False)
    image.SetSpacing((0.5, 0.75, 3.0, 1.0)[: array.ndim])
    image.SetOrigin((-10.0, 5.0, 7.5, 0.0)[: array.ndim])
    path.parent.mkdir(parents=True, exist_ok=True)
    SimpleITK.WriteImage(image, str(path))


def make_task(folder: Path, image: tuple[int, ...] = (4, 5, 6), suffix: str = "", **changes: Any) -> Path:
    """Two training cases and a test case; images of this shape, named CASE + suffix."""
    rng = np.random.default_rng(0)
    for place, case in (("imagesTr", "one"), ("imagesTr", "two"), ("imagesTs", "three")):
        save(folder / place / f"{case}{suffix}.nii.gz", rng.integers(-500, 500, image).astype(np.int16))
        if place == "imagesTr":
            save(folder / "labelsTr" / f"{case}.nii.gz", rng.integers(0, 3, (4, 5, 6)).astype(np.uint8))
            (folder / place / f"._{case}{suffix}.nii.gz").write_bytes(b"twin that macOS makes")
            (folder / "labelsTr" / f"._{case}.nii.gz").write_bytes(b"twin that macOS makes")
    old = {
        "name": "Thing", "reference": "somewhere", "licence": "CC", "tensorImageSize": "4D",
        "numTraining": 2, "numTest": 1,
        "modality": {"0": "CT"}, "labels": {"0": "Background", "1": "liver", "2": "tumour"},
        "training": [{"image": "./imagesTr/one.nii.gz", "label": "./labelsTr/one.nii.gz"}],
        "test": ["./imagesTs/three.nii.gz"], **changes,
    }  # fmt: skip
    (folder / "dataset.json").write_text(json.dumps(old))
    return folder


def files(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def test_decathlon_files_are_copied_and_get_a_channel_number(
    tmp_path: Path, raw: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source = make_task(tmp_path / "Task09_Thing")
    assert main([str(source)]) == 0
    target, before = files(raw / "Dataset009_Thing"), files(source)
    new = json.loads(target.pop("dataset.json"))
    assert target == {
        "imagesTr/one_0000.nii.gz": before["imagesTr/one.nii.gz"],
        "imagesTr/two_0000.nii.gz": before["imagesTr/two.nii.gz"],
        "imagesTs/three_0000.nii.gz": before["imagesTs/three.nii.gz"],
        "labelsTr/one.nii.gz": before["labelsTr/one.nii.gz"],
        "labelsTr/two.nii.gz": before["labelsTr/two.nii.gz"],
    }
    assert new == {
        "channel_names": {"0": "CT"},
        "labels": {"background": 0, "liver": 1, "tumour": 2},
        "numTraining": 2,
        "file_ending": ".nii.gz",
        "name": "Thing",
        "reference": "somewhere",
        "licence": "CC",
    }
    assert list(new["labels"]) == ["background", "liver", "tumour"]
    assert "has the layout of the Medical Segmentation Decathlon" in capsys.readouterr().out
    assert len(RawDataset.open(raw / "Dataset009_Thing").cases) == 2


@pytest.mark.parametrize("processes", ["1", "2"])
def test_channels_of_a_4d_file_become_files_without_a_changed_bit(tmp_path: Path, raw: Path, processes: str) -> None:
    source = make_task(tmp_path / "Task09_Thing", (2, 4, 5, 6), modality={"0": "T1", "1": "T2"})
    assert main(["-i", str(source), "-overwrite_id", "12", "-np", processes]) == 0
    whole = SimpleITK.ReadImage(str(source / "imagesTr" / "two.nii.gz"))
    array = SimpleITK.GetArrayFromImage(whole)
    voxels = gzip.decompress((source / "imagesTr" / "two.nii.gz").read_bytes())[352:]
    for channel in (0, 1):
        path = raw / "Dataset012_Thing" / "imagesTr" / f"two_000{channel}.nii.gz"
        image = SimpleITK.ReadImage(str(path))
        assert image.GetPixelID() == SimpleITK.sitkInt16
        np.testing.assert_array_equal(SimpleITK.GetArrayFromImage(image), array[channel])
        assert image.GetSpacing() == whole.GetSpacing()[:3]
        assert image.GetOrigin() == whole.GetOrigin()[:3]
        content = gzip.decompress(path.read_bytes())
        assert struct.unpack_from("<8h", content, 40) == (3, 6, 5, 4, 1, 1, 1, 1)
        assert content[352:] == voxels[channel * 240 : (channel + 1) * 240]  # 4*5*6 voxels of two bytes


def test_version_1_is_recognised_by_its_channel_numbers(
    tmp_path: Path, raw: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source = make_task(tmp_path / "Task123_Old", suffix="_0000")
    save(source / "labelsTs" / "three.nii.gz", np.zeros((4, 5, 6), np.uint8))
    assert main([str(source), "Dataset007_New"]) == 0
    target, before = files(raw / "Dataset007_New"), files(source)
    del target["dataset.json"], before["dataset.json"]
    assert target == {name: content for name, content in before.items() if "/._" not in name}
    assert "has the layout of nnU-Net version 1" in capsys.readouterr().out


def test_a_dataset_that_exists_is_replaced_only_if_asked(
    tmp_path: Path, raw: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source = make_task(tmp_path / "Task09_Thing")
    (raw / "Dataset009_Thing").mkdir()
    (raw / "Dataset009_Thing" / "precious").touch()
    assert main([str(source)]) == 2
    assert "Dataset009_Thing exists. Pass --overwrite" in capsys.readouterr().err
    assert (raw / "Dataset009_Thing" / "precious").exists()
    assert main([str(source), "--overwrite"]) == 0
    assert not (raw / "Dataset009_Thing" / "precious").exists()
    assert [path.name for path in raw.iterdir()] == ["Dataset009_Thing"]


def test_a_damaged_case_leaves_nothing_half_written(
    tmp_path: Path, raw: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source = make_task(tmp_path / "Task09_Thing")
    path = source / "imagesTr" / "two.nii.gz"
    path.write_bytes(path.read_bytes()[:-30])
    (raw / "Dataset009_Thing").mkdir()
    assert main([str(source), "--overwrite", "-np", "1"]) == 2
    assert "two.nii.gz is truncated" in capsys.readouterr().err
    assert [path.name for path in raw.iterdir()] == ["Dataset009_Thing"]
    assert not list((raw / "Dataset009_Thing").iterdir())


def test_wrong_channel_counts_are_told(tmp_path: Path, raw: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source = make_task(tmp_path / "Task09_Thing", (3, 4, 5, 6), modality={"0": "T1", "1": "T2"})
    assert main([str(source)]) == 2
    assert "one.nii.gz holds 3 channel(s), but dataset.json names 2" in capsys.readouterr().err
    assert not list(raw.iterdir())


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"labels": {"0": "background", "1": "a", "2": "a"}}, "two labels have the same name: 0=background, 1=a, 2=a"),
        ({"labels": {"background": 0}}, "expected value and name of each label"),
        ({"labels": []}, r"'labels' is \[\], expected"),
        ({"modality": {"1": "CT"}}, "'modality' has the keys 1; expected 0"),
        ({"file_ending": ".nii.gz"}, "has today's layout already"),
    ],
)
def test_what_is_wrong_in_dataset_json_is_told(tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(DatasetError, match=message):
        open_old_dataset(make_task(tmp_path / "Task09_Thing", **changes))


def test_scans_and_label_images_without_each_other_are_listed(tmp_path: Path) -> None:
    source = make_task(tmp_path / "Task09_Thing")
    (source / "labelsTr" / "two.nii.gz").rename(source / "labelsTr" / "zwei.nii.gz")
    with pytest.raises(DatasetError, match=r"no label image in labelsTr: two(.|\n)*no scan in imagesTr: zwei"):
        open_old_dataset(source)


def test_names_and_numbers_that_cannot_be_used_are_told(
    tmp_path: Path, raw: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source = make_task(tmp_path / "some_folder")
    (raw / "Dataset005_Other").mkdir()
    for arguments, message in (
        ([], "some_folder is not called TaskXX_Name"),
        (["Thing"], "'Thing' is no name of a dataset"),
        (["Dataset005_Thing"], "the number 005 is taken by Dataset005_Other"),
    ):
        assert main([str(source), *arguments]) == 2
        assert message in capsys.readouterr().err
    assert main([str(tmp_path / "nowhere")]) == 2
    assert "nowhere is not a folder" in capsys.readouterr().err
