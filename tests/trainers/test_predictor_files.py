"""Files in, files out: with networks whose labels can be worked out by hand."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import SimpleITK
from torch import Tensor

from framework.data.image_io import geometry_differences, read_images, read_segmentation
from framework.data.restricted_pickle import load_pickle
from framework.errors import CheckpointError, DatasetError, FoldwiseError
from framework.evaluation.picture import draw_case
from framework.files import atomic_write, read_json
from framework.inference import Predictor
from framework.inference.file_prediction import predict_to_files
from framework.inference.prediction_options import Observer, PredictionOptions
from framework.inference.prediction_report import FailedCases
from tests.framework.tiny_model import (
    LEVELS,
    SPACING,
    labels_by_hand,
    make_model,
    make_scan,
    read_labels,
    write_image,
)

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_model(tmp_path_factory.mktemp("model"))


@pytest.fixture(scope="module")
def predictor(model: Path) -> Predictor:
    return Predictor(model, device="cpu")


def _silent(text: str) -> None:
    pass


def _count_cases(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Fills with one entry for each case that goes through the network."""
    calls: list[int] = []
    original = Predictor.logits

    def counted(self: Predictor, *arguments: Any, **options: Any) -> Tensor:
        calls.append(1)
        return original(self, *arguments, **options)

    monkeypatch.setattr(Predictor, "logits", counted)
    return calls


def test_every_scan_gets_its_labels_on_its_own_grid(predictor: Predictor, tmp_path: Path):
    shapes = {"a": (10, 12, 9), "larger than the patch": (21, 9, 17), "smaller than the patch": (3, 5, 4)}
    scans = {
        name: make_scan(tmp_path / "in" / f"{name}_0000.nii.gz", seed, shape)
        for seed, (name, shape) in enumerate(shapes.items())
    }
    files = predictor.predict_files(tmp_path / "in", tmp_path / "out", report=_silent)
    assert files == [tmp_path / "out" / f"{name}.nii.gz" for name in sorted(scans)]
    for name, values in scans.items():
        labels, properties = read_segmentation(tmp_path / "out" / f"{name}.nii.gz")
        np.testing.assert_array_equal(labels[0], labels_by_hand(values))
        _, of_scan = read_images([tmp_path / "in" / f"{name}_0000.nii.gz"])
        assert geometry_differences(values.shape, of_scan, labels.shape[1:], properties) == []
    assert not list((tmp_path / "out").glob(".*"))  # no temporary file


def test_the_logits_of_folds_are_averaged(tmp_path: Path):
    model = make_model(tmp_path, folds={0: (10.0, 20.0), 1: (12.0, 26.0), "all": (1.0, 2.0)})
    values = make_scan(tmp_path / "in" / "a_0000.nii.gz")
    # Logits are linear in the levels, so the mean of two networks has the mean of their levels.
    for folds, levels in ((None, (11.0, 23.0)), ([1], (12.0, 26.0)), (["1", "0"], (11.0, 23.0)), (["all"], (1.0, 2.0))):
        predictor = Predictor(model, folds, device="cpu")
        assert len(predictor.networks) == len(predictor.model.checkpoints)
        np.testing.assert_array_equal(predictor.predict(values, SPACING), labels_by_hand(values, levels))
        predictor.predict_files(tmp_path / "in", tmp_path / "out", report=_silent)
        np.testing.assert_array_equal(read_labels(tmp_path / "out/a.nii.gz"), labels_by_hand(values, levels))


def test_probabilities_of_arrays_and_of_files_are_the_softmax_of_the_logits(predictor: Predictor, tmp_path: Path):
    values = make_scan(tmp_path / "in" / "a_0000.nii.gz")
    logits = np.stack([0 * values, values - LEVELS[0], 2 * values - sum(LEVELS)]).astype(np.float64)
    expected = np.exp(logits - logits.max(0))
    expected /= expected.sum(0)
    labels, probabilities = predictor.predict(values, SPACING, return_probabilities=True)
    assert probabilities.dtype == np.float32
    np.testing.assert_allclose(probabilities, expected, atol=1e-5)
    np.testing.assert_array_equal(labels, labels_by_hand(values))
    assert labels.dtype == np.uint8
    predictor.predict_files(tmp_path / "in", tmp_path / "out", save_probabilities=True, report=_silent)
    with np.load(tmp_path / "out/a.npz") as archive:
        np.testing.assert_allclose(archive["probabilities"], expected, atol=1e-5)
    assert load_pickle(tmp_path / "out/a.pkl")["shape_before_cropping"] == values.shape


def test_what_nnunet_looks_for_lies_beside_the_predictions(predictor: Predictor, model: Path, tmp_path: Path):
    make_scan(tmp_path / "in" / "a_0000.nii.gz")
    predictor.predict_files(tmp_path / "in", tmp_path / "out", report=_silent)
    for name in ("dataset.json", "plans.json"):
        assert read_json(tmp_path / "out" / name) == read_json(model / name)
    arguments = json.loads((tmp_path / "out/predict_from_raw_data_args.json").read_text())
    assert arguments["list_of_lists_or_source_folder"] == str(tmp_path / "in")
    assert (arguments["num_parts"], arguments["part_id"], arguments["save_probabilities"]) == (1, 0, False)
    assert arguments["foldwise"]["model"]["folds"] == ["0"]


# ---------------------------------------------------------------- one bad case among good ones


def test_bad_scans_are_named_with_their_reasons_and_the_others_are_predicted(predictor: Predictor, tmp_path: Path):
    folder = tmp_path / "in"
    good = {name: make_scan(folder / f"{name}_0000.nii.gz", seed) for seed, name in enumerate(("a", "z"))}
    make_scan(folder / "truncated_0000.nii.gz")
    content = (folder / "truncated_0000.nii.gz").read_bytes()
    (folder / "truncated_0000.nii.gz").write_bytes(content[: len(content) // 2])
    with_nan = np.full((8, 8, 8), 5, np.float32)
    with_nan[0, 0, 0] = np.nan
    write_image(folder / "nan_0000.nii.gz", with_nan)
    two_channels = SimpleITK.GetImageFromArray(np.ones((2, 8, 8, 8), np.float32), isVector=False)
    SimpleITK.WriteImage(two_channels, str(folder / "channels_0000.nii.gz"))
    (folder / "unnumbered.nii.gz").write_bytes(content)

    said: list[str] = []
    with pytest.raises(FailedCases) as failed:
        predictor.predict_files(folder, tmp_path / "out", report=said.append)
    for name, values in good.items():
        np.testing.assert_array_equal(read_labels(tmp_path / "out" / f"{name}.nii.gz"), labels_by_hand(values))
    table = {failure.case: failure for failure in failed.value.report.failures}
    assert set(table) == {"truncated", "nan", "channels", "unnumbered"}
    assert all(failure.step == "reading" for failure in table.values())
    assert "truncated_0000.nii.gz" in table["truncated"].message
    assert "has 1 NaN and 0 infinite voxels" in table["nan"].message
    assert "2 channel(s) were read" in table["channels"].message
    assert "dataset.json names 1" in table["channels"].message
    assert "lack the four-digit channel number" in table["unnumbered"].message
    assert not any(failure.is_defect for failure in table.values())
    message = str(failed.value)
    assert message.startswith("4 of 6 case(s) could not be predicted:")
    assert "Traceback" not in message + "".join(said)
    assert sorted(path.name for path in (tmp_path / "out").glob("*.nii.gz")) == ["a.nii.gz", "z.nii.gz"]


def test_a_case_without_one_of_its_channels_is_left_out(tmp_path: Path):
    predictor = Predictor(make_model(tmp_path, num_channels=2), device="cpu")
    for name in ("a_0000", "a_0001", "b_0000", "c_0000", "c_0001", "c_0002"):
        values = make_scan(tmp_path / "in" / f"{name}.nii.gz")
    with pytest.raises(FailedCases) as failed:
        predictor.predict_files(tmp_path / "in", tmp_path / "out", report=_silent)
    reasons = {failure.case: failure.message for failure in failed.value.report.failures}
    assert "lacks b_0001.nii.gz" in reasons["b"]
    assert "c_0002.nii.gz" in reasons["c"]
    np.testing.assert_array_equal(read_labels(tmp_path / "out/a.nii.gz"), labels_by_hand(values))


def test_a_constant_scan_is_predicted_and_said_to_show_nothing(predictor: Predictor, tmp_path: Path):
    write_image(tmp_path / "in/flat_0000.nii.gz", np.full((9, 9, 9), 15, np.float32))
    write_image(tmp_path / "in/empty_0000.nii.gz", np.zeros((9, 9, 9), np.float32))
    said: list[str] = []
    predictor.predict_files(tmp_path / "in", tmp_path / "out", report=said.append)
    assert (read_labels(tmp_path / "out/flat.nii.gz") == 1).all()
    assert (read_labels(tmp_path / "out/empty.nii.gz") == 0).all()
    assert any("case 'flat': every voxel of the scan has the value 15" in text for text in said)
    assert any("case 'empty': every voxel of the scan has the value 0" in text for text in said)


def test_running_out_of_memory_is_the_failure_of_that_case(
    predictor: Predictor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    for seed, name in enumerate("abc"):
        make_scan(tmp_path / "in" / f"{name}_0000.nii.gz", seed, (10, 12, 9 + seed))
    original = Predictor.logits

    def logits(self: Predictor, data: np.ndarray, *others: Any) -> Tensor:
        if data.shape[-1] == 10:
            raise MemoryError
        return original(self, data, *others)

    monkeypatch.setattr(Predictor, "logits", logits)
    with pytest.raises(FailedCases) as failed:
        predictor.predict_files(tmp_path / "in", tmp_path / "out", report=_silent)
    (failure,) = failed.value.report.failures
    assert (failure.case, failure.step) == ("b", "predicting")
    assert failure.message == "not enough memory for this case"
    assert {path.name for path in (tmp_path / "out").glob("*.nii.gz")} == {"a.nii.gz", "c.nii.gz"}


def test_an_output_that_cannot_be_written_is_the_failure_of_that_case(predictor: Predictor, tmp_path: Path):
    for name in "ab":
        make_scan(tmp_path / "in" / f"{name}_0000.nii.gz")
    (tmp_path / "out/a.nii.gz/occupied").mkdir(parents=True)
    with pytest.raises(FailedCases, match=r"a +writing +.*a\.nii\.gz could not be written"):
        predictor.predict_files(tmp_path / "in", tmp_path / "out", report=_silent)
    assert (tmp_path / "out/b.nii.gz").is_file()


# ---------------------------------------------------------------- going on where an earlier run was


def test_only_cases_whose_output_is_whole_and_fits_the_scan_are_kept(
    predictor: Predictor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    names = ["elsewhere", "forbidden", "good", "halfway", "missing", "no_npz", "other_grid", "torn_npz"]
    scans = {name: make_scan(tmp_path / "in" / f"{name}_0000.nii.gz", seed) for seed, name in enumerate(names)}
    out = tmp_path / "out"
    predictor.predict_files(tmp_path / "in", out, save_probabilities=True, report=_silent)

    content = (out / "halfway.nii.gz").read_bytes()
    (out / "halfway.nii.gz").write_bytes(content[: len(content) * 2 // 3])
    (out / "missing.nii.gz").unlink()
    (out / "no_npz.npz").unlink()
    (out / "torn_npz.npz").write_bytes((out / "torn_npz.npz").read_bytes()[:-2000])
    write_image(out / "other_grid.nii.gz", np.zeros((3, 4, 5), np.uint8))
    forbidden = read_labels(out / "forbidden.nii.gz")
    forbidden[0, 0, 0] = 7
    write_image(out / "forbidden.nii.gz", forbidden)
    shifted = SimpleITK.ReadImage(str(out / "elsewhere.nii.gz"))
    shifted.SetOrigin((0.0, 0.0, 0.0))
    SimpleITK.WriteImage(shifted, str(out / "elsewhere.nii.gz"))

    calls, said = _count_cases(monkeypatch), []
    kept_bytes = (out / "good.nii.gz").read_bytes()
    before = (out / "good.nii.gz").stat().st_mtime_ns
    files = predictor.predict_files(tmp_path / "in", out, save_probabilities=True, overwrite=False, report=said.append)
    assert len(calls) == len(names) - 1
    assert (out / "good.nii.gz").stat().st_mtime_ns == before
    assert (out / "good.nii.gz").read_bytes() == kept_bytes
    assert [file.name for file in files] == [f"{name}.nii.gz" for name in names]
    for name, values in scans.items():
        np.testing.assert_array_equal(read_labels(out / f"{name}.nii.gz"), labels_by_hand(values))
        with np.load(out / f"{name}.npz") as archive:
            assert archive["probabilities"].shape == (3, *values.shape)
    text = "\n".join(said)
    assert "1 of 8 case(s) were predicted before" in text
    for name, reason in (
        ("forbidden", "label values that dataset.json does not name: 7"),
        ("other_grid", r"does not lie on the grid of the scan: shape"),
        ("elsewhere", r"does not lie on the grid of the scan: origin"),
        ("no_npz", "no_npz.npz is missing"),
        ("torn_npz", "torn_npz.npz cannot be read"),
    ):
        assert any(f"case '{name}' is predicted again" in line and reason in line for line in said), name
    assert any("case 'halfway' is predicted again" in line for line in said)

    calls.clear()
    predictor.predict_files(tmp_path / "in", out, save_probabilities=True, overwrite=False, report=_silent)
    assert calls == []


def test_unfinished_files_of_a_killed_run_are_removed_and_those_of_other_cases_kept(
    predictor: Predictor, tmp_path: Path
):
    make_scan(tmp_path / "in/a.b_0000.nii.gz")
    (tmp_path / "out").mkdir()
    for name in ("a.b.nii.gz", "a.b.npz", "other.nii.gz"):
        with atomic_write(tmp_path / "out" / name) as temporary:
            temporary.write_bytes(b"half")
        (tmp_path / "out" / name).rename(temporary)  # as if the process had ended before
    predictor.predict_files(tmp_path / "in", tmp_path / "out", overwrite=False, report=_silent)
    left = [path.name for path in (tmp_path / "out").glob(".*")]
    assert len(left) == 1
    assert left[0].startswith(".other.")
    assert (tmp_path / "out/a.b.nii.gz").is_file()


def test_probabilities_and_pictures_count_only_if_they_are_asked_for(
    predictor: Predictor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    make_scan(tmp_path / "in/a_0000.nii.gz")
    predictor.predict_files(tmp_path / "in", tmp_path / "out", report=_silent)
    calls = _count_cases(monkeypatch)
    for wanted, expected in (({}, 0), ({"save_probabilities": True}, 1), ({"draw_picture": draw_case}, 2), ({}, 2)):
        predictor.predict_files(tmp_path / "in", tmp_path / "out", overwrite=False, report=_silent, **wanted)
        assert len(calls) == expected
    assert (tmp_path / "out/pictures/a.png").read_bytes().startswith(b"\x89PNG")


def test_nothing_is_loaded_where_everything_is_done(model: Path, predictor: Predictor, tmp_path: Path):
    make_scan(tmp_path / "in/a_0000.nii.gz")
    predictor.predict_files(tmp_path / "in", tmp_path / "out", report=_silent)
    lazy = Predictor(model, device="cpu", load=False)
    lazy.predict_files(tmp_path / "in", tmp_path / "out", overwrite=False, report=_silent)
    assert lazy.networks == []


def test_predictions_of_another_model_are_not_gone_on_with(predictor: Predictor, model: Path, tmp_path: Path):
    make_scan(tmp_path / "in/a_0000.nii.gz")
    predictor.predict_files(tmp_path / "in", tmp_path / "out", report=_silent)
    other = Predictor(model, device="cpu", mirror=False, step=0.25)
    with pytest.raises(FoldwiseError, match=r"made otherwise: mirroring True, now False; step_size 0.5, now 0.25"):
        other.predict_files(tmp_path / "in", tmp_path / "out", overwrite=False, report=_silent)
    other.predict_files(tmp_path / "in", tmp_path / "out", report=_silent)  # anew is fine


# ---------------------------------------------------------------- what goes in


def test_one_scan_may_be_named_by_any_of_its_files(tmp_path: Path):
    predictor = Predictor(make_model(tmp_path, num_channels=2), device="cpu")
    values = make_scan(tmp_path / "in/case_0000.nii.gz", 1)
    make_scan(tmp_path / "in/case_0001.nii.gz", 2)
    make_scan(tmp_path / "in/other_0000.nii.gz", 3)  # incomplete, and not asked for
    for number, source in enumerate(("case_0000.nii.gz", "case_0001.nii.gz")):
        out = tmp_path / f"out{number}"
        assert predictor.predict_files(tmp_path / "in" / source, out, report=_silent) == [out / "case.nii.gz"]
        np.testing.assert_array_equal(read_labels(out / "case.nii.gz"), labels_by_hand(values))


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("list.txt", "# two of three\n\nin/a_0000.nii.gz\nin/c_0000.nii.gz\n"),
        ("list.json", '["in/a_0000.nii.gz", "in/c_0000.nii.gz"]'),
        ("list.json", '[["in/a_0000.nii.gz"], ["in/c_0000.nii.gz"]]'),
        ("list.json", '{"a": "in/a_0000.nii.gz", "c": ["in/c_0000.nii.gz"]}'),
    ],
)
def test_lists_of_files_are_predicted(predictor: Predictor, tmp_path: Path, name: str, content: str):
    scans = {case: make_scan(tmp_path / f"in/{case}_0000.nii.gz", seed) for seed, case in enumerate("abc")}
    (tmp_path / name).write_text(content)
    files = predictor.predict_files(tmp_path / name, tmp_path / "out", report=_silent)
    assert [file.name for file in files] == ["a.nii.gz", "c.nii.gz"]
    np.testing.assert_array_equal(read_labels(files[1]), labels_by_hand(scans["c"]))


def test_a_list_may_name_cases_and_files_of_other_endings(predictor: Predictor, tmp_path: Path):
    values = make_scan(tmp_path / "in/scan of 2023.mha")
    (tmp_path / "list.json").write_text(json.dumps({"patient": str(tmp_path / "in/scan of 2023.mha")}))
    (file,) = predictor.predict_files(tmp_path / "list.json", tmp_path / "out", report=_silent)
    assert file.name == "patient.nii.gz"
    np.testing.assert_array_equal(read_labels(file), labels_by_hand(values))


def test_files_of_a_list_that_are_not_there_or_meet_are_failures(predictor: Predictor, tmp_path: Path):
    make_scan(tmp_path / "one/a_0000.nii.gz")
    make_scan(tmp_path / "two/b_0000.nii.gz")
    make_scan(tmp_path / "one/b_0000.nii.gz")
    paths = [tmp_path / text for text in ("one/a_0000.nii.gz", "one/b_0000.nii.gz", "two/b_0000.nii.gz", "gone.nii.gz")]
    with pytest.raises(FailedCases) as failed:
        predictor.predict_files(paths, tmp_path / "out", report=_silent)
    reasons = {failure.case: failure.message for failure in failed.value.report.failures}
    assert set(reasons) == {"b", "gone"}
    assert "are both channel 0000 of case 'b'" in reasons["b"]
    assert "gone.nii.gz does not exist" in reasons["gone"]
    with pytest.raises(DatasetError, match=r"nowhere does not exist. Give a folder with CASE_0000.nii.gz"):
        predictor.predict_files(tmp_path / "nowhere", tmp_path / "out")


def test_parts_share_the_cases_between_them(predictor: Predictor, tmp_path: Path):
    for number in range(5):
        make_scan(tmp_path / f"in/case{number}_0000.nii.gz", number)
    told: list[list[str]] = []
    for part in range(2):
        outcome = predict_to_files(
            predictor,
            tmp_path / "in",
            tmp_path / "out",
            PredictionOptions(part=part, num_parts=2),
            Observer(report=_silent),
        )
        told.append(list(outcome.files))
    assert told == [["case0", "case2", "case4"], ["case1", "case3"]]
    with pytest.raises(FoldwiseError, match="-part_id 2 with -num_parts 2: parts are counted from 0 to 1"):
        PredictionOptions(part=2, num_parts=2)


# ---------------------------------------------------------------- where it goes


def test_a_single_case_may_go_to_a_file(predictor: Predictor, tmp_path: Path):
    values = make_scan(tmp_path / "in/a_0000.nii.gz")
    target = tmp_path / "deep/labels.nii.gz"
    assert predictor.predict_files(tmp_path / "in", target, report=_silent) == [target]
    np.testing.assert_array_equal(read_labels(target), labels_by_hand(values))
    assert [path.name for path in target.parent.iterdir()] == ["labels.nii.gz"]
    make_scan(tmp_path / "in/b_0000.nii.gz")
    with pytest.raises(FoldwiseError, match="is one file, but there are 2 cases"):
        predictor.predict_files(tmp_path / "in", target, report=_silent)


def test_the_folder_of_the_images_is_refused(predictor: Predictor, tmp_path: Path):
    make_scan(tmp_path / "in/a_0000.nii.gz")
    with pytest.raises(FoldwiseError, match="is the folder of the images"):
        predictor.predict_files(tmp_path / "in", tmp_path / "in" / ".." / "in")
    make_scan(tmp_path / "in/scan.nii.gz")
    with pytest.raises(FoldwiseError, match="would replace the image"):
        predictor.predict_files(tmp_path / "in/scan.nii.gz", tmp_path / "in", report=_silent)
    assert sorted(path.name for path in (tmp_path / "in").iterdir()) == ["a_0000.nii.gz", "scan.nii.gz"]


def test_a_folder_that_cannot_be_written_is_told_before_anything_is_predicted(
    predictor: Predictor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    make_scan(tmp_path / "in/a_0000.nii.gz")
    (tmp_path / "file").touch()
    calls = _count_cases(monkeypatch)
    with pytest.raises(FoldwiseError, match=r"file is a file. Give a folder"):
        predictor.predict_files(tmp_path / "in", tmp_path / "file")
    with pytest.raises(FoldwiseError, match=r"out cannot be written to: Not a directory. Give another output folder"):
        predictor.predict_files(tmp_path / "in", tmp_path / "file" / "out")

    def read_only(*arguments: Any, **options: Any) -> None:
        raise OSError(30, "Read-only file system")

    monkeypatch.setattr("framework.files.tempfile.TemporaryFile", read_only)
    with pytest.raises(FoldwiseError, match="out cannot be written to: Read-only file system"):
        predictor.predict_files(tmp_path / "in", tmp_path / "out")
    assert calls == []


# ---------------------------------------------------------------- the model


def test_a_checkpoint_of_another_architecture_names_the_first_weights_that_differ(tmp_path: Path):
    model = make_model(tmp_path, folds={0: (1.0, 2.0, 3.0)})
    with pytest.raises(CheckpointError) as told:
        Predictor(model, device="cpu")
    message = str(told.value)
    assert "fold_0/checkpoint_final.pth does not fit the network" in message
    assert "1 of 1 weights differ, first levels ([3] in the checkpoint, [2] in the network)" in message


def test_a_network_that_does_not_fit_ends_the_prediction_of_files_with_one_message(tmp_path: Path):
    model = make_model(tmp_path, folds={0: (1.0, 2.0, 3.0)})
    make_scan(tmp_path / "in/a_0000.nii.gz")
    with pytest.raises(CheckpointError, match="does not fit the network"):
        Predictor(model, device="cpu", load=False).predict_files(tmp_path / "in", tmp_path / "out", report=_silent)


def test_missing_folds_checkpoints_and_folders_say_what_is_there(model: Path, tmp_path: Path):
    with pytest.raises(CheckpointError, match=r"fold_3.*Found there: fold_0/checkpoint_final.pth"):
        Predictor(model, [0, 3])
    with pytest.raises(CheckpointError, match=r"no fold with checkpoint_best.pth.*fold_0/checkpoint_final.pth"):
        Predictor(model, checkpoint="best")
    with pytest.raises(FoldwiseError, match=r"is not a folder. Give .*TRAINER__PLANS__CONFIG"):
        Predictor(tmp_path / "nowhere")
    (tmp_path / "empty").mkdir()
    with pytest.raises(CheckpointError, match=r"empty holds no fold with checkpoint_final.pth"):
        Predictor(tmp_path / "empty")
    with pytest.raises(FoldwiseError, match="found step 0, expected"):
        Predictor(model, step=0)
    for name in ("final", "checkpoint_final", "checkpoint_final.pth"):
        assert Predictor(model / "fold_0", checkpoint=name, load=False).model.fold_names == ["0"]


def test_a_picture_that_cannot_be_drawn_costs_no_segmentation(predictor: Predictor, tmp_path: Path):
    make_scan(tmp_path / "in/a_0000.nii.gz")

    def broken(*_: Any) -> None:
        raise RuntimeError("no fonts")

    said: list[str] = []
    (file,) = predictor.predict_files(tmp_path / "in", tmp_path / "out", draw_picture=broken, report=said.append)
    assert file.is_file()
    assert any("case 'a': no picture was drawn: RuntimeError: no fonts" in text for text in said)


def test_the_documented_python_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    model = make_model(tmp_path)
    make_scan(tmp_path / "scans/a_0000.nii.gz")
    (code,) = re.findall(
        r"^```python\n(.*?)^```", (ROOT / "docs/prediction.md").read_text("utf-8"), re.DOTALL | re.MULTILINE
    )
    names: dict[str, Any] = {"model_folder": model, "scans": tmp_path / "scans"}
    exec(compile(code, "docs", "exec"), names)
    assert names["labels"].shape == (20, 40, 40)
    assert names["probabilities"].shape == (3, 20, 40, 40)
    assert [path.name for path in names["files"]] == ["a.nii.gz"]
