"""From raw scans to preprocessed cases."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from framework.data.labels import Labels
from framework.data.raw_dataset import RawDataset
from framework.data.store import CaseStore
from framework.errors import DatasetError, FoldwiseError, UnknownNameError
from framework.plans import Plans
from framework.preprocessing.class_sampling import keys_to_sample, sample_class_locations
from framework.preprocessing.parallel import CasePool
from framework.preprocessing.prepare import plan_dataset_folder, prepare_dataset, preprocess_dataset
from framework.preprocessing.preprocess import preprocess_array
from tests.framework.raw_builder import write_raw_dataset

LABELS = Labels({"background": 0, "a": 1, "b": 2})


def _plans(spacing: list[float], forward: tuple[int, ...] = (0, 1, 2), **more: Any) -> Plans:
    configuration = {
        "data_identifier": "data",
        "patch_size": [8] * len(spacing),
        "spacing": spacing,
        "normalization_schemes": ["ZScoreNormalization"],
        "use_mask_for_norm": [False],
        "median_image_size_in_voxels": [16] * len(spacing),
        **more,
    }
    return Plans.from_dict(
        {
            "plans_name": "test",
            "transpose_forward": list(forward),
            "transpose_backward": np.argsort(forward).tolist(),
            "configurations": {"some": configuration},
        }
    )


def _ball(shape: tuple[int, ...] = (12, 14, 16)) -> tuple[np.ndarray, np.ndarray]:
    """Image (1, X, Y, Z) with a rim of zeros, and labels (1, X, Y, Z): two halves of a ball in noise."""
    random = np.random.RandomState(0)
    image = np.zeros((1, *shape), np.float32)
    inner = tuple(slice(1, length - 2) for length in shape)
    image[0][inner] = random.uniform(1, 2, image[0][inner].shape)
    distance = np.linalg.norm(np.indices(shape).T - np.array(shape) / 2, axis=-1).T
    labels = (distance < 4).astype(np.int16)
    labels[:, :, shape[2] // 2 :] *= 2
    image[0] += labels * (image[0] != 0)
    return image, labels[None]


def _write_balls(folder: Path, num_cases: int = 3) -> Path:
    image, labels = _ball()
    cases = {f"ball_{index}": (image + index * (image != 0), labels[0]) for index in range(num_cases)}
    return write_raw_dataset(folder, cases, {"background": 0, "a": 1, "b": 2})


def test_case_is_transposed_cropped_normalised_and_resampled() -> None:
    image, labels = _ball()
    before = image.copy()
    plans = _plans([1.0, 2.0, 1.0], forward=(2, 0, 1))
    data, segmentation, properties = preprocess_array(
        image, labels, {"spacing": [2.0, 1.0, 1.0]}, plans, plans.configuration("some"), LABELS
    )
    assert np.array_equal(image, before)
    # the rim is one voxel before and two after: 12, 14, 16 -> 9, 11, 13; transposed 13, 9, 11;
    # spacing 1, 2, 1 is kept
    assert data.shape == (1, 13, 9, 11)
    assert properties["shape_before_cropping"] == (16, 12, 14)
    assert properties["bbox_used_for_cropping"] == [[1, 14], [1, 10], [1, 12]]
    assert properties["shape_after_cropping_and_before_resampling"] == (13, 9, 11)
    assert data.dtype == np.float32
    assert segmentation is not None
    assert segmentation.dtype == np.int16
    inner = image[0, 1:-2, 1:-2, 1:-2].transpose(2, 0, 1)
    assert np.allclose(data[0], (inner - inner.mean()) / inner.std(), atol=1e-5)
    assert np.array_equal(segmentation[0], labels[0, 1:-2, 1:-2, 1:-2].transpose(2, 0, 1))


def test_grid_follows_the_spacing_and_slices_keep_theirs_in_2d() -> None:
    image, labels = _ball()
    properties = {"spacing": [1.0, 1.0, 1.0]}
    fine = _plans([0.5, 1.0, 1.0])
    data, segmentation, _ = preprocess_array(image, labels, properties, fine, fine.configuration("some"), LABELS)
    assert data.shape == (1, 18, 11, 13)
    assert segmentation is not None
    assert set(np.unique(segmentation)) == {0, 1, 2}
    flat = _plans([2.0, 2.0])
    data, _, _ = preprocess_array(image, labels, properties, flat, flat.configuration("some"), LABELS)
    assert data.shape == (1, 9, 6, 6)  # 11 / 2 and 13 / 2, rounded to even


def test_prediction_needs_no_labels_and_gives_the_same_image() -> None:
    image, labels = _ball()
    plans = _plans([1.0, 0.7, 1.3], use_mask_for_norm=[True])
    configuration = plans.configuration("some")
    properties = {"spacing": [1.0, 1.0, 1.0]}
    with_labels, _, _ = preprocess_array(image, labels, properties, plans, configuration, LABELS)
    data, segmentation, found = preprocess_array(image, None, properties, plans, configuration, LABELS)
    assert segmentation is None
    assert "class_locations" not in found
    assert np.array_equal(data, with_labels)


def test_shapes_that_differ_are_refused() -> None:
    image, labels = _ball()
    plans = _plans([1.0, 1.0, 1.0])
    with pytest.raises(FoldwiseError, match="shape"):
        preprocess_array(image, labels[:, 1:], {"spacing": [1.0] * 3}, plans, plans.configuration("some"), LABELS)


def test_class_locations_lie_on_their_label_and_never_twice() -> None:
    segmentation = np.random.RandomState(0).choice([-1, 0, 1, 2, 4], (1, 40, 40, 40)).astype(np.int16)
    labels = Labels({"background": 0, "a": (1, 2), "b": 2, "c": 3, "ignore": 4}, (1, 2, 3))
    keys = keys_to_sample(labels)
    assert keys == ((1, 2), 2, 3, (-1, 0, 1, 2, 3))
    locations = sample_class_locations(segmentation, keys)
    assert list(locations) == list(keys)
    assert locations[3] == []
    for key, rows in locations.items():
        if key == 3:
            continue
        members = key if isinstance(key, tuple) else (key,)
        total = np.isin(segmentation, members).sum()
        assert rows.shape == (min(10_000, total), 4)  # type: ignore[union-attr]
        assert len(np.unique(rows, axis=0)) == len(rows)
        assert np.isin(segmentation[tuple(np.asarray(rows).T)], members).all()


def test_large_labels_give_one_percent() -> None:
    segmentation = np.ones((1, 110, 110, 110), np.int16)
    assert len(sample_class_locations(segmentation, [1])[1]) == 13_310  # of 1 331 000


def test_dataset_is_prepared_from_raw_files_and_then_left_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FW_RAW", str(tmp_path / "raw"))
    monkeypatch.setenv("FW_PREPROCESSED", str(tmp_path / "preprocessed"))
    monkeypatch.setattr("framework.preprocessing.fingerprint._NUM_SAMPLES", 30_000)
    raw = _write_balls(tmp_path / "raw" / "Dataset007_Ball")
    said: list[str] = []
    name, plans_file = prepare_dataset(7, ["3d_fullres"], preset="laptop", num_processes=2, say=said.append)
    assert name == "Dataset007_Ball"
    folder = tmp_path / "preprocessed" / name
    assert plans_file == folder / "laptop.json"
    store = CaseStore(folder / "laptop_3d_fullres", mode="packed")
    assert store.case_names == ["ball_0", "ball_1", "ball_2"]
    assert store.shape("ball_0") == (1, 9, 11, 13)
    assert sorted(store.class_locations("ball_0")) == [1, 2]
    assert json.loads((folder / "dataset.json").read_text()) == json.loads((raw / "dataset.json").read_text())
    assert sorted(path.name for path in (folder / "gt_segmentations").iterdir()) == [
        f"ball_{index}.nii.gz" for index in range(3)
    ]
    # nnU-Net tells the format of a data folder by the endings of its files, and allows no others
    assert {path.suffix for path in (folder / "laptop_3d_fullres").iterdir()} == {".b2nd", ".pkl"}

    written = {path: path.stat().st_mtime_ns for path in folder.rglob("*") if path.is_file()}
    said.clear()
    prepare_dataset("Ball", ["3d_fullres"], say=said.append)
    assert said == []
    assert {path: path.stat().st_mtime_ns for path in written} == written


def test_only_missing_and_changed_cases_are_done_again(tmp_path: Path) -> None:
    raw_folder = _write_balls(tmp_path / "Dataset007_Ball")
    out = tmp_path / "out"
    plans = _plans([1.0, 1.0, 1.0])
    with CasePool(1) as pool:
        preprocess_dataset(RawDataset.open(raw_folder), out, plans, ["some"], pool=pool)
        ages = {path.name: path.stat().st_mtime_ns for path in (out / "data").iterdir()}
        (out / "data" / "ball_0.b2nd").unlink()
        label = raw_folder / "labelsTr" / "ball_1.nii.gz"
        os.utime(label, ns=(1, label.stat().st_mtime_ns + 1))
        preprocess_dataset(RawDataset.open(raw_folder), out, plans, ["some"], pool=pool)
        redone = {path.name for path in (out / "data").iterdir() if path.stat().st_mtime_ns != ages[path.name]}
        assert redone == {f"ball_{index}{end}" for index in (0, 1) for end in (".b2nd", "_seg.b2nd", ".pkl")}
        # other settings under the same name: all of them
        preprocess_dataset(RawDataset.open(raw_folder), out, _plans([2.0, 2.0, 2.0]), ["some"], pool=pool)
    assert CaseStore(out / "data", mode="packed").shape("ball_2") == (1, 4, 6, 6)


def test_data_of_another_program_is_used_as_it_is(tmp_path: Path) -> None:
    raw_folder = _write_balls(tmp_path / "Dataset007_Ball")
    out = tmp_path / "out"
    plans = _plans([1.0, 1.0, 1.0])
    preprocess_dataset(RawDataset.open(raw_folder), out, plans, ["some"], num_processes=1)
    (out / "foldwise" / "data.json").unlink()
    (out / "data" / "ball_2.pkl").unlink()
    (out / "gt_segmentations" / "ball_0.nii.gz").unlink()
    ages = {path.name: path.stat().st_mtime_ns for path in (out / "data").iterdir()}
    preprocess_dataset(RawDataset.open(raw_folder), out, plans, ["some"], num_processes=1)
    kept = {name for name, age in ages.items() if (out / "data" / name).stat().st_mtime_ns == age}
    assert kept == {f"ball_{index}{end}" for index in (0, 1) for end in (".b2nd", "_seg.b2nd", ".pkl")}
    assert (out / "gt_segmentations" / "ball_0.nii.gz").is_file()
    with pytest.raises(DatasetError, match=r"another program.*spacing.*data_identifier"):
        preprocess_dataset(RawDataset.open(raw_folder), out, _plans([2.0, 2.0, 2.0]), ["some"], num_processes=1)


def test_bad_cases_are_listed_and_the_others_are_done(tmp_path: Path) -> None:
    raw_folder = _write_balls(tmp_path / "Dataset007_Ball", num_cases=4)
    scan = raw_folder / "imagesTr" / "ball_1_0000.nii.gz"
    scan.write_bytes(scan.read_bytes()[:200])
    image, labels = _ball()
    other = write_raw_dataset(tmp_path / "other", {"x": (image, labels[0] * 3)})
    (other / "labelsTr" / "x.nii.gz").rename(raw_folder / "labelsTr" / "ball_3.nii.gz")
    with pytest.raises(DatasetError) as caught:
        preprocess_dataset(RawDataset.open(raw_folder), tmp_path / "out", _plans([1.0] * 3), ["some"], num_processes=2)
    message = str(caught.value)
    assert "2 of 4 cases" in message
    assert "case 'ball_1'" in message
    assert "truncated" in message
    assert "case 'ball_3'" in message
    assert CaseStore(tmp_path / "out" / "data", mode="packed").case_names == ["ball_0", "ball_2"]


def test_without_raw_data_preprocessed_data_is_enough(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FW_RAW", str(tmp_path / "raw"))
    monkeypatch.setenv("FW_PREPROCESSED", str(tmp_path / "preprocessed"))
    monkeypatch.setattr("framework.preprocessing.fingerprint._NUM_SAMPLES", 30_000)
    raw = _write_balls(tmp_path / "raw" / "Dataset007_Ball")
    prepare_dataset(7, ["2d"], preset="default", say=lambda text: None)
    raw.rename(tmp_path / "elsewhere")
    name, plans_file = prepare_dataset(7, ["2d"], say=lambda text: None)
    assert plans_file.name == "nnUNetPlans.json"
    assert prepare_dataset(7, ["2d"], "default", say=lambda text: None) == (name, plans_file)
    with pytest.raises(DatasetError, match="FW_RAW"):
        prepare_dataset(7, ["3d_fullres"], say=lambda text: None)
    with pytest.raises(UnknownNameError, match="Did you mean '3d_fullres'"):
        prepare_dataset(7, ["3d_fulres"], say=lambda text: None)


def test_plans_can_be_named_by_preset_or_by_their_own_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FW_RAW", str(tmp_path / "raw"))
    monkeypatch.setenv("FW_PREPROCESSED", str(tmp_path / "preprocessed"))
    monkeypatch.setattr("framework.preprocessing.fingerprint._NUM_SAMPLES", 30_000)
    _write_balls(tmp_path / "raw" / "Dataset007_Ball")
    said: list[str] = []
    assert prepare_dataset(7, [], "nnUNetPlans", say=said.append)[1].stem == "nnUNetPlans"
    assert prepare_dataset(7, [], "laptop", say=said.append)[1].stem == "laptop"
    with pytest.raises(UnknownNameError, match="Did you mean 'laptop'"):
        prepare_dataset(7, [], "labtop", say=said.append)
    assert plan_dataset_folder(7, preset="default", say=said.append).stem == "nnUNetPlans"  # equal: no complaint


def test_splits_that_come_with_the_raw_data_are_taken_over(tmp_path: Path) -> None:
    raw_folder = _write_balls(tmp_path / "Dataset007_Ball")
    splits = [{"train": ["ball_0", "ball_1"], "val": ["ball_2"]}]
    (raw_folder / "splits_final.json").write_text(json.dumps(splits))
    out = tmp_path / "out"
    raw = RawDataset.open(raw_folder)
    preprocess_dataset(raw, out, _plans([1.0] * 3), ["some"], num_processes=1)
    assert json.loads((out / "splits_final.json").read_text()) == splits
    (raw_folder / "splits_final.json").write_text(json.dumps([{"train": ["ball_2"], "val": ["ball_0"]}]))
    with pytest.raises(DatasetError, match="differently"):
        preprocess_dataset(raw, out, _plans([1.0] * 3), ["some"], num_processes=1)


def test_names_that_do_not_exist_are_told_before_any_work(tmp_path: Path) -> None:
    raw = RawDataset.open(_write_balls(tmp_path / "Dataset007_Ball"))
    plans = _plans([1.0] * 3, resampling_fn_data="resample_torch_fornnunet")
    with pytest.raises(UnknownNameError, match="resample_data_or_seg_to_shape"):
        preprocess_dataset(raw, tmp_path / "out", plans, ["some"])
    with pytest.raises(UnknownNameError, match="DefaultPreprocessor"):
        preprocess_dataset(raw, tmp_path / "out", _plans([1.0] * 3, preprocessor_name="Mine"), ["some"])
    assert not (tmp_path / "out").exists()


@pytest.mark.shared_data
@pytest.mark.parametrize("configuration", ["2d", "3d_fullres"])
def test_preprocessed_cases_equal_those_of_nnunet(shared_data: Path, tmp_path: Path, configuration: str) -> None:
    reference = shared_data / "nnunet_reference" / "preprocessed" / "Dataset004_Hippocampus"
    expected = CaseStore(reference / f"nnUNetPlans_{configuration}", mode="packed")
    everything = RawDataset.open(shared_data / "Dataset004_Hippocampus")
    few = {name: everything.cases[name] for name in expected.case_names}
    raw = RawDataset(**{**everything.__dict__, "cases": few})
    preprocess_dataset(raw, tmp_path, Plans.from_file(reference / "nnUNetPlans.json"), [configuration], num_processes=1)
    found = CaseStore(tmp_path / f"nnUNetPlans_{configuration}", mode="packed")
    for case in expected.case_names:
        (data, segmentation), (wanted_data, wanted_segmentation) = found.read(case), expected.read(case)
        assert np.abs(data - wanted_data).max() < 1e-4
        assert np.array_equal(segmentation, wanted_segmentation)
        properties, wanted = found.properties(case), expected.properties(case)
        assert set(properties) == set(wanted)
        for key, rows in wanted["class_locations"].items():
            assert np.array_equal(properties["class_locations"][key], rows)
        for key in (
            "shape_before_cropping",
            "bbox_used_for_cropping",
            "shape_after_cropping_and_before_resampling",
        ):
            assert properties[key] == wanted[key]
