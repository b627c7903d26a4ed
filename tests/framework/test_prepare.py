"""From raw scans to a dataset that can be trained on: what is done, what is left alone, what is refused."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import threading
import time
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from framework.commands.plan import main as fw_plan
from framework.commands.preprocess import main as fw_preprocess
from framework.data.image_io import check_case
from framework.data.raw_dataset import RawDataset
from framework.data.store import CaseStore
from framework.errors import CaseWarning, DatasetError, UnknownNameError
from framework.files import read_json
from framework.plans import Plans
from framework.preprocessing.dataset_lock import dataset_lock
from framework.preprocessing.prepare import plan_dataset_folder, prepare_dataset, preprocess_dataset
from tests.framework.ball_dataset import ball, plans_of, write_balls
from tests.framework.raw_builder import write_raw_dataset


@pytest.fixture(autouse=True)
def _roots(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FW_RAW", str(tmp_path / "raw"))
    monkeypatch.setenv("FW_PREPROCESSED", str(tmp_path / "preprocessed"))
    monkeypatch.setattr("framework.preprocessing.fingerprint._NUM_SAMPLES", 30_000)


@pytest.fixture
def raw(tmp_path: Path) -> Path:
    """The folder of a raw dataset with three cases."""
    return write_balls(tmp_path / "raw" / "Dataset007_Ball")


@pytest.fixture
def out(tmp_path: Path) -> Path:
    return tmp_path / "preprocessed" / "Dataset007_Ball"


def _preprocess(raw: Path, out: Path, plans: Plans, configurations: tuple[str, ...] = ("some",)) -> list[str]:
    """With one process; returns what was said."""
    said: list[str] = []
    preprocess_dataset(RawDataset.open(raw), out, plans, configurations, num_processes=1, say=said.append)
    return said


def _contents(folder: Path) -> dict[str, tuple[int, bytes]]:
    """Age and content of the case files."""
    return {path.name: (path.stat().st_mtime_ns, path.read_bytes()) for path in folder.iterdir()}


def _redone(folder: Path, before: dict[str, tuple[int, bytes]]) -> set[str]:
    """Names of cases of which all three files are new; none may be new in part."""
    new = {name for name, found in _contents(folder).items() if found[0] != before.get(name, (0, b""))[0]}
    cases = {name.split(".")[0].removesuffix("_seg") for name in new}
    assert new == {f"{case}{end}" for case in cases for end in (".b2nd", "_seg.b2nd", ".pkl")}
    return cases


def _touch(path: Path) -> None:
    os.utime(path, ns=(1, path.stat().st_mtime_ns + 1))


def _change_image(raw: Path, case: str) -> None:
    """Another image in the place of the old one."""
    path = raw / "imagesTr" / f"{case}_0000.nii.gz"
    image, _ = ball()
    changed = image[:, ::-1] + 5 * (image[:, ::-1] != 0)
    write_raw_dataset(raw.parent / "other", {case: (changed, np.ones(image.shape[1:]))})
    shutil.copyfile(raw.parent / "other" / "imagesTr" / path.name, path)
    shutil.rmtree(raw.parent / "other")


def test_dataset_is_prepared_from_raw_files_and_then_left_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    raw = write_balls(tmp_path / "raw" / "Dataset007_Ball")
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


def test_without_raw_data_preprocessed_data_is_enough(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    raw = write_balls(tmp_path / "raw" / "Dataset007_Ball")
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
    write_balls(tmp_path / "raw" / "Dataset007_Ball")
    said: list[str] = []
    assert prepare_dataset(7, [], "nnUNetPlans", say=said.append)[1].stem == "nnUNetPlans"
    assert prepare_dataset(7, [], "laptop", say=said.append)[1].stem == "laptop"
    with pytest.raises(UnknownNameError, match="Did you mean 'laptop'"):
        prepare_dataset(7, [], "labtop", say=said.append)
    assert plan_dataset_folder(7, preset="default", say=said.append).stem == "nnUNetPlans"  # equal: no complaint


def test_splits_that_come_with_the_raw_data_are_taken_over(tmp_path: Path) -> None:
    raw_folder = write_balls(tmp_path / "Dataset007_Ball")
    splits = [{"train": ["ball_0", "ball_1"], "val": ["ball_2"]}]
    (raw_folder / "splits_final.json").write_text(json.dumps(splits))
    out = tmp_path / "out"
    raw = RawDataset.open(raw_folder)
    preprocess_dataset(raw, out, plans_of([1.0] * 3), ["some"], num_processes=1)
    assert json.loads((out / "splits_final.json").read_text()) == splits
    (raw_folder / "splits_final.json").write_text(json.dumps([{"train": ["ball_2"], "val": ["ball_0"]}]))
    with pytest.raises(DatasetError, match="differently"):
        preprocess_dataset(raw, out, plans_of([1.0] * 3), ["some"], num_processes=1)


def test_configurations_that_are_planned_for_some_datasets_only_are_passed_over(tmp_path: Path) -> None:
    write_balls(tmp_path / "raw" / "Dataset007_Ball")
    said: list[str] = []
    name, _ = prepare_dataset(7, ["2d", "3d_lowres"], preset="default", say=said.append)
    assert any("3d_lowres" in line and "passed over" in line for line in said)
    assert (tmp_path / "preprocessed" / name / "nnUNetPlans_2d").is_dir()
    with pytest.raises(UnknownNameError, match="3d_lowres"):
        prepare_dataset(7, ["3d_lowres"], say=said.append)


def test_names_that_do_not_exist_are_told_before_any_work(tmp_path: Path) -> None:
    raw = RawDataset.open(write_balls(tmp_path / "Dataset007_Ball"))
    plans = plans_of([1.0] * 3, resampling_fn_data="resample_torch_fornnunet")
    with pytest.raises(UnknownNameError, match="resample_data_or_seg_to_shape"):
        preprocess_dataset(raw, tmp_path / "out", plans, ["some"])
    with pytest.raises(UnknownNameError, match="DefaultPreprocessor"):
        preprocess_dataset(raw, tmp_path / "out", plans_of([1.0] * 3, preprocessor_name="Mine"), ["some"])
    assert not (tmp_path / "out").exists()


def test_only_missing_and_changed_cases_are_done_again(raw: Path, out: Path) -> None:
    plans = plans_of([1.0, 1.0, 1.0])
    _preprocess(raw, out, plans)
    before = _contents(out / "data")
    assert len(before) == 9
    (out / "data" / "ball_0.b2nd").unlink()
    _change_image(raw, "ball_1")
    assert _preprocess(raw, out, plans)[-1].startswith("preprocessing 2 cases for some")
    assert _redone(out / "data", before) == {"ball_0", "ball_1"}
    assert _contents(out / "data")["ball_1.b2nd"][1] != before["ball_1.b2nd"][1]


@pytest.mark.parametrize("ending", [".b2nd", "_seg.b2nd", ".pkl"])
def test_a_case_that_lacks_one_of_its_files_is_made_again(raw: Path, out: Path, ending: str) -> None:
    plans = plans_of([1.0, 1.0, 1.0])
    _preprocess(raw, out, plans)
    before = _contents(out / "data")
    (out / "data" / f"ball_2{ending}").unlink()
    _preprocess(raw, out, plans)
    assert _redone(out / "data", before) == {"ball_2"}
    assert {name: content for name, (_, content) in _contents(out / "data").items()} == {
        name: content for name, (_, content) in before.items()
    }


def test_raw_files_that_were_copied_or_touched_are_read_once_and_nothing_is_done(raw: Path, out: Path) -> None:
    plans = plans_of([1.0, 1.0, 1.0])
    _preprocess(raw, out, plans)
    before = _contents(out / "data")
    _touch(raw / "imagesTr" / "ball_0_0000.nii.gz")
    _touch(raw / "labelsTr" / "ball_1.nii.gz")
    assert _preprocess(raw, out, plans) == ["2 cases were copied or touched, but hold what they held: not done again"]
    assert _contents(out / "data") == before
    assert _preprocess(raw, out, plans) == []


def test_a_crash_between_noticing_and_redoing_a_change_does_not_hide_it(
    raw: Path, out: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plans = plans_of([1.0, 1.0, 1.0])
    _preprocess(raw, out, plans)
    original = raw / "imagesTr" / "ball_1_0000.nii.gz"
    kept = raw.parent / "kept.nii.gz"
    shutil.copy2(original, kept)
    right = _contents(out / "data")["ball_1.b2nd"][1]
    _change_image(raw, "ball_1")

    def killed(*_: Any) -> None:
        raise SystemExit

    with monkeypatch.context() as patch:
        patch.setattr("framework.preprocessing.manifest.Manifest.add", killed)
        with pytest.raises(SystemExit):
            _preprocess(raw, out, plans)
    assert _contents(out / "data")["ball_1.b2nd"][1] != right
    shutil.copy2(kept, original)  # the old scan is put back, with its old age
    _preprocess(raw, out, plans)
    assert _contents(out / "data")["ball_1.b2nd"][1] == right


def test_other_settings_for_the_same_folder_are_refused_and_named(raw: Path, out: Path) -> None:
    _preprocess(raw, out, plans_of([1.0, 1.0, 1.0]))
    before = _contents(out / "data")
    changed = plans_of([2.0, 1.0, 1.0], normalization_schemes=["NoNormalization"])
    with pytest.raises(DatasetError) as caught:
        _preprocess(raw, out, changed)
    message = str(caught.value)
    assert "3 cases" in message
    assert "configuration 'some'" in message
    assert "spacing ([1.0, 1.0, 1.0] there, [2.0, 1.0, 1.0] now)" in message
    assert 'normalization_schemes (["ZScoreNormalization"] there, ["NoNormalization"] now)' in message
    assert "data_identifier" in message
    assert _contents(out / "data") == before
    # either way out works: another name, or an empty folder
    _preprocess(raw, out, plans_of([2.0, 1.0, 1.0], data_identifier="other"))
    assert CaseStore(out / "other", mode="packed").shape("ball_0") == (1, 4, 11, 13)
    shutil.rmtree(out / "data")
    _preprocess(raw, out, changed)
    assert CaseStore(out / "data", mode="packed").shape("ball_0") == (1, 4, 11, 13)


def test_what_does_not_change_the_data_is_not_refused_and_two_plans_share_them(raw: Path, out: Path) -> None:
    _preprocess(raw, out, plans_of([1.0, 1.0, 1.0]))
    assert _preprocess(raw, out, plans_of([1.0, 1.0, 1.0], patch_size=[4, 4, 4], batch_size=7)) == []


def test_ct_statistics_count_only_where_they_are_used(raw: Path, out: Path) -> None:
    def plans(mean: float, scheme: str) -> Plans:
        described = plans_of([1.0] * 3, normalization_schemes=[scheme], data_identifier=scheme).to_dict()
        statistics = {"mean": mean, "std": 1.0, "percentile_00_5": 0.0, "percentile_99_5": 9.0}
        return Plans.from_dict({**described, "foreground_intensity_properties_per_channel": {"0": statistics}})

    for scheme in ("CTNormalization", "ZScoreNormalization"):
        _preprocess(raw, out, plans(3.0, scheme))
    assert _preprocess(raw, out, plans(4.0, "ZScoreNormalization")) == []
    with pytest.raises(DatasetError, match=r"intensity_properties_per_channel\.0\.mean \(3.0 there, 4.0 now"):
        _preprocess(raw, out, plans(4.0, "CTNormalization"))


def test_two_configurations_cannot_have_one_folder_for_different_data(raw: Path, out: Path) -> None:
    plans = plans_of([1.0, 1.0, 1.0]).to_dict()
    plans["configurations"]["coarse"] = {"inherits_from": "some", "spacing": [2.0, 2.0, 2.0]}
    with pytest.raises(DatasetError, match=r"'some' and 'coarse' both have the data_identifier 'data'.*spacing"):
        _preprocess(raw, out, Plans.from_dict(plans), ("some", "coarse"))
    assert not out.exists()


def test_a_label_that_is_added_to_the_dataset_makes_all_cases_again(raw: Path, out: Path) -> None:
    # Which labels there are is said by dataset.json, for all plans alike: nobody wants the old lists of voxels.
    plans = plans_of([1.0, 1.0, 1.0])
    _preprocess(raw, out, plans)
    before = _contents(out / "data")
    dataset_json = json.loads((raw / "dataset.json").read_text())
    dataset_json["labels"]["c"] = 3
    (raw / "dataset.json").write_text(json.dumps(dataset_json))
    said = _preprocess(raw, out, plans)
    assert said[0].startswith("dataset.json names other labels")
    assert _redone(out / "data", before) == {"ball_0", "ball_1", "ball_2"}
    assert sorted(CaseStore(out / "data", mode="packed").class_locations("ball_0")) == [1, 2, 3]
    assert _preprocess(raw, out, plans) == []


def _as_of_another_program(out: Path) -> None:
    shutil.rmtree(out / "foldwise")


def test_data_of_another_program_is_used_as_it_is(raw: Path, out: Path) -> None:
    plans = plans_of([1.0, 1.0, 1.0])
    _preprocess(raw, out, plans)
    _as_of_another_program(out)
    (out / "data" / "ball_2.pkl").unlink()
    (out / "gt_segmentations" / "ball_0.nii.gz").unlink()
    before = _contents(out / "data")
    _change_image(raw, "ball_1")
    _preprocess(raw, out, plans)
    assert _redone(out / "data", before) == {"ball_2"}
    assert (out / "gt_segmentations" / "ball_0.nii.gz").is_file()


def test_data_of_another_program_are_as_safe_as_ours_from_their_first_use_on(raw: Path, out: Path) -> None:
    _preprocess(raw, out, plans_of([1.0, 1.0, 1.0]))
    _as_of_another_program(out)
    assert _preprocess(raw, out, plans_of([1.0, 1.0, 1.0])) == []
    with pytest.raises(DatasetError, match=r"spacing(.|\n)*data_identifier"):
        _preprocess(raw, out, plans_of([2.0, 2.0, 2.0]))
    dataset_json = json.loads((raw / "dataset.json").read_text())
    dataset_json["labels"]["c"] = 3
    (raw / "dataset.json").write_text(json.dumps(dataset_json))
    with pytest.raises(DatasetError, match="another program made for the labels"):
        _preprocess(raw, out, plans_of([1.0, 1.0, 1.0]))


def test_data_without_their_raw_dataset_are_refused_to_other_settings_too(raw: Path, tmp_path: Path) -> None:
    _, plans_file = prepare_dataset(7, ["3d_fullres"], preset="laptop", say=lambda text: None)
    plans = json.loads(plans_file.read_text())
    plans["configurations"]["3d_fullres"]["spacing"] = [3.0, 3.0, 3.0]
    plans_file.write_text(json.dumps(plans))
    raw.rename(tmp_path / "elsewhere")
    with pytest.raises(DatasetError, match=r"spacing \(.*3.0, 3.0, 3.0"):
        prepare_dataset(7, ["3d_fullres"], say=lambda text: None)


def _damage(raw: Path, case: str) -> None:
    scan = raw / "imagesTr" / f"{case}_0000.nii.gz"
    scan.write_bytes(scan.read_bytes()[:200])


def test_bad_cases_are_listed_and_the_others_are_done(tmp_path: Path, out: Path) -> None:
    raw = write_balls(tmp_path / "raw" / "Dataset007_Ball", num_cases=4)
    _damage(raw, "ball_1")
    image, labels = ball()
    other = write_raw_dataset(tmp_path / "other", {"x": (image, labels[0] * 3)})
    (other / "labelsTr" / "x.nii.gz").rename(raw / "labelsTr" / "ball_3.nii.gz")
    with pytest.raises(DatasetError) as caught:
        preprocess_dataset(RawDataset.open(raw), out, plans_of([1.0] * 3), ["some"], num_processes=2)
    message = str(caught.value)
    assert "2 of 4 cases" in message
    assert "case 'ball_1'" in message
    assert "truncated" in message
    assert "case 'ball_3'" in message
    assert CaseStore(out / "data", mode="packed").case_names == ["ball_0", "ball_2"]
    log = (out / "foldwise" / "preprocessing.log").read_text()
    assert "case 'ball_3'" in log


def test_the_command_ends_with_2_and_a_repaired_dataset_is_completed(
    raw: Path, out: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    whole = (raw / "imagesTr" / "ball_1_0000.nii.gz").read_bytes()
    plan_dataset_folder(7, preset="laptop", say=lambda text: None)
    _damage(raw, "ball_1")
    options = ["-d", "7", "-c", "3d_fullres", "-np", "2", "--verify_dataset_integrity"]
    assert fw_preprocess(options) == 2
    message = capsys.readouterr().err
    assert "1 of 3 cases cannot be used" in message
    assert "Traceback" not in message
    before = _contents(out / "laptop_3d_fullres")
    (raw / "imagesTr" / "ball_1_0000.nii.gz").write_bytes(whole)
    assert fw_preprocess(options) == 0
    assert _redone(out / "laptop_3d_fullres", before) == {"ball_1"}


def test_the_command_takes_several_datasets_and_a_bad_one_does_not_stop_the_next(
    raw: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_balls(tmp_path / "raw" / "Dataset008_Other")
    plan_dataset_folder(8, preset="laptop", say=lambda text: None)
    (raw / "dataset.json").write_text("{")
    assert fw_preprocess(["-d", "7", "8", "-plans_name", "laptop", "-c", "2d", "3d_fullres", "-np", "2", "1"]) == 2
    assert "dataset.json" in capsys.readouterr().err
    for configuration in ("2d", "3d_fullres"):
        folder = tmp_path / "preprocessed" / "Dataset008_Other" / f"laptop_{configuration}"
        assert CaseStore(folder, mode="packed").case_names == ["ball_0", "ball_1", "ball_2"]


@pytest.mark.parametrize(
    ("command", "arguments", "right"),
    [
        (fw_preprocess, ["7", "3d_fullres", "2d"], "fw_preprocess 7 -c 3d_fullres 2d ?"),
        (fw_preprocess, ["3d_fullres", "-d", "7", "8"], "fw_preprocess 7 8 -c 3d_fullres ?"),
        (fw_plan, ["7", "2d"], "fw_plan 7 ?"),
    ],
)
def test_a_configuration_in_the_place_of_a_dataset_is_told_before_anything_is_done(
    command: Any, arguments: list[str], right: str, raw: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(SystemExit) as caught:
        command(arguments)
    assert caught.value.code == 2
    assert right in capsys.readouterr().err
    assert sorted(tmp_path.rglob("*")) == before


@pytest.mark.parametrize("numbers", [["0"], ["1", "2", "3"]])
def test_numbers_of_processes_that_make_no_sense_are_refused(numbers: list[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        fw_preprocess(["7", "-c", "2d", "3d_fullres", "-np", *numbers])
    assert caught.value.code == 2


def test_temporary_files_of_a_killed_run_are_removed_and_no_others(raw: Path, out: Path) -> None:
    plans = plans_of([1.0, 1.0, 1.0])
    _preprocess(raw, out, plans)
    (out / "data" / "ball_0.pkl").unlink()
    ours = [
        out / "data" / ".ball_0.0a1b2c3d.tmp.b2nd",
        out / "data" / ".ball_0.0a1b2c3d.tmp.pkl",
        out / "gt_segmentations" / ".ball_0.0a1b2c3d.tmp.nii.gz",
        out / "foldwise" / ".data.0a1b2c3d.tmp.json",
    ]
    others = [
        out / "data" / ".ball_0.0a1b2c3d.tmp.npy",  # a training unpacks cases there
        out / "data" / ".ball_0.b2nd",
        out / "data" / ".nfs0a1b2c3d",
        out / ".splits_final.0a1b2c3d.tmp.json",
    ]
    for path in (*ours, *others):
        path.touch()
    _preprocess(raw, out, plans)
    assert not any(path.exists() for path in ours)
    assert all(path.exists() for path in others)


def test_where_there_are_no_locks_nothing_is_cleaned_up(raw: Path, out: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("framework.preprocessing.dataset_lock.fcntl", None)
    temporary = out / "gt_segmentations" / ".ball_0.0a1b2c3d.tmp.nii.gz"
    temporary.parent.mkdir(parents=True)
    temporary.touch()  # perhaps of another run that is at work
    _preprocess(raw, out, plans_of([1.0, 1.0, 1.0]))
    assert temporary.exists()
    assert CaseStore(out / "data", mode="packed").case_names == ["ball_0", "ball_1", "ball_2"]


def test_a_second_run_waits_for_the_first_and_then_finds_everything_done(raw: Path, out: Path) -> None:
    said: list[str] = []
    arguments = (RawDataset.open(raw), out, plans_of([1.0] * 3), ["some"])
    options = {"num_processes": 1, "say": said.append}
    second = threading.Thread(target=preprocess_dataset, args=arguments, kwargs=options)
    with dataset_lock(out, print) as alone:
        assert alone
        second.start()
        while not said:
            time.sleep(0.01)
        assert not (out / "data").exists()
    second.join()
    assert said[0].startswith("waiting for another run that prepares Dataset007_Ball (process ")
    assert str(os.getpid()) in said[0]
    assert CaseStore(out / "data", mode="packed").case_names == ["ball_0", "ball_1", "ball_2"]


def test_the_log_has_settings_versions_and_times_of_runs_that_did_something(raw: Path, out: Path) -> None:
    log = out / "foldwise" / "preprocessing.log"
    _preprocess(raw, out, plans_of([1.0, 1.0, 1.0]))
    text = log.read_text()
    assert f"numpy {np.__version__}" in text
    assert '"spacing": [1.0, 1.0, 1.0]' in text
    assert "case 'ball_2': 0." in text
    assert "preprocessing 3 cases for some: 0." in text
    _preprocess(raw, out, plans_of([1.0, 1.0, 1.0]))
    assert log.read_text() == text


def test_the_fingerprint_is_made_again_only_if_raw_data_changed_and_plans_are_kept(raw: Path, out: Path) -> None:
    said: list[str] = []
    plans_file = plan_dataset_folder(7, say=said.append)
    fingerprint, plans = (out / "dataset_fingerprint.json").read_bytes(), plans_file.read_bytes()
    _touch(raw / "imagesTr" / "ball_0_0000.nii.gz")
    said.clear()
    plan_dataset_folder(7, say=said.append)
    assert not any(line.startswith("fingerprint of") for line in said)
    assert "same fingerprint" in said[0]
    assert (out / "dataset_fingerprint.json").read_bytes() == fingerprint

    _change_image(raw, "ball_0")
    said.clear()
    assert plan_dataset_folder(7, say=said.append) == plans_file
    assert "the raw data changed since the fingerprint was made (1 changed)" in said[0]
    assert "kept as it is" in said[-1]
    assert "foreground_intensity_properties_per_channel.0.mean" in said[-1]
    assert plans_file.read_bytes() == plans
    changed = (out / "dataset_fingerprint.json").read_bytes()
    assert changed != fingerprint
    plan_dataset_folder(7, overwrite=True, say=said.append)
    assert plans_file.read_bytes() != plans
    assert (out / "dataset_fingerprint.json").read_bytes() == changed


def test_a_fingerprint_of_another_program_is_trusted_with_a_note_if_cases_were_added(raw: Path, out: Path) -> None:
    said: list[str] = []
    plan_dataset_folder(7, say=said.append)
    _as_of_another_program(out)
    fingerprint = read_json(out / "dataset_fingerprint.json")
    fingerprint["spacings"], fingerprint["shapes_after_crop"] = [[[1.0, 1.0, 1.0]]] * 2, [[9, 11, 13]] * 2
    fingerprint["spacings"] = [[1.0, 1.0, 1.0]] * 2
    (out / "dataset_fingerprint.json").write_text(json.dumps(fingerprint))
    said.clear()
    plan_dataset_folder(7, plans_name="again", say=said.append)
    assert "made by another program from 2 cases" in said[0]
    assert "there are 3 now" in said[0]
    assert read_json(out / "dataset_fingerprint.json") == fingerprint
    plan_dataset_folder(7, plans_name="again", clean=True, overwrite=True, say=said.append)
    assert len(read_json(out / "dataset_fingerprint.json")["spacings"]) == 3


def test_rules_of_the_planner_can_be_given_beside_the_preset(raw: Path, out: Path) -> None:
    rules = {"target_spacing": [2.0, 1.0, 1.0]}
    plans_file = plan_dataset_folder(7, plans_name="coarse", rules=rules, say=lambda text: None)
    assert Plans.from_file(plans_file).configuration("3d_fullres").spacing == (2.0, 1.0, 1.0)


def test_what_is_odd_about_cases_is_told_once_for_all_of_them(
    raw: Path, out: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def odd(images: Any, label: Any, labels: Any, case: str, *more: Any) -> Any:
        warnings.warn(CaseWarning(f"{images[0]}: its origin is ignored"), stacklevel=2)
        return check_case(images, label, labels, case, *more)

    for module in ("fingerprint", "preprocess"):
        monkeypatch.setattr(f"framework.preprocessing.{module}.check_case", odd)
    said: list[str] = []
    prepare_dataset(7, ["3d_fullres"], preset="laptop", num_processes=2, say=said.append)
    told = [line for line in said if "origin" in line]
    assert len(told) == 1
    assert told[0].startswith(f"warning: {raw / 'imagesTr' / 'ball_'}")
    assert "(likewise 2 cases more: " in told[0]
    log = (out / "foldwise" / "preprocessing.log").read_text()
    assert all(f"warning: {raw / 'imagesTr' / f'ball_{index}'}_0000.nii.gz: its" in log for index in range(3))


def test_a_run_with_nothing_to_do_imports_neither_torch_nor_image_libraries(raw: Path) -> None:
    prepare_dataset(7, ["3d_fullres"], preset="laptop", num_processes=1, say=lambda text: None)
    code = (
        "import sys; from framework.commands.preprocess import main; code = main(['7', '-c', '3d_fullres']); "
        "print({'torch', 'SimpleITK', 'blosc2', 'scipy'} & set(sys.modules)); sys.exit(code)"
    )
    result = subprocess.run([sys.executable, "-c", code], cwd=Path(__file__).parents[2], capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    assert result.stdout == "set()\n"
