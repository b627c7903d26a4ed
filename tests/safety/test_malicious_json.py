"""plans.json, dataset.json and splits_final.json from elsewhere: broken, boundless, and with names that are paths."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from framework.data.raw_dataset import RawDataset
from framework.data.splits import load_or_create_splits
from framework.errors import DatasetError, FoldwiseError, PlansError
from framework.experiment import Experiment
from framework.file_names import is_file_ending, why_no_file_name
from framework.files import read_json
from framework.inference.model_folder import TrainedModel
from framework.networks.build import build_network
from framework.plans import Plans
from framework.preprocessing.resampling import new_shape
from tests.framework.sharing.builder import DATASET_JSON, make_model, tiny_plans
from tests.safety.bounds import at_most

MIB = 1 << 20
BROKEN = {
    "empty": b"",
    "cut off": b'{"configurations": {"3d',
    "no UTF-8": b'{"configurations": "\xff\xfe"}',
    "UTF-16": '{"a": 1}'.encode("utf-16"),
    "nested": b"[" * 100_000 + b"]" * 100_000,
    "nested a little": b'{"configurations": ' + b"[" * 200 + b"]" * 200 + b"}",
    "a number without end": b'{"batch_size": ' + b"9" * 10_000 + b"}",
    "a key twice": b'{"labels": {"background": 0, "liver": 1, "liver": 2}}',
    "another language": b"import os",
}
PATHS = ["../../outside", "..", ".", "/outside", "a/b", "a\\b", "a\x00b", "a\nb", "x" * 300, "\ud800"]


@pytest.mark.parametrize("what", BROKEN)
def test_a_file_that_is_no_json_is_one_message(what: str, tmp_path: Path):
    path = tmp_path / "plans.json"
    path.write_bytes(BROKEN[what])
    with at_most(60 * MIB), pytest.raises(PlansError, match=r"plans.json is not valid JSON"):
        Plans.from_file(path)


def test_what_is_no_file_or_larger_than_any_is_one_message(tmp_path: Path):
    (tmp_path / "folder.json").mkdir()
    with open(tmp_path / "huge.json", "wb") as file:
        file.truncate(1 << 40)
    for name, message in (("folder.json", "is no file"), ("huge.json", "more than 512 MiB"), ("no.json", "not exist")):
        with at_most(20 * MIB), pytest.raises(PlansError, match=message):
            Plans.from_file(tmp_path / name)


@pytest.mark.parametrize("value", [[], "text", 3, None, True])
def test_json_of_another_kind_is_told(value: Any, tmp_path: Path):
    model = make_model(tmp_path / "results")
    (tmp_path / "dataset.json").write_text(json.dumps(value))
    for read in (lambda path: Plans.from_file(path), lambda path: RawDataset.open(path.parent)):
        with pytest.raises(FoldwiseError, match=r"dataset.json"):
            read(tmp_path / "dataset.json")
    (model / "dataset.json").write_text(json.dumps(value))
    with pytest.raises(DatasetError, match=r"expected an object"):
        TrainedModel.open(model)


@pytest.mark.parametrize("name", PATHS)
def test_names_in_plans_stay_in_their_folder(name: str):
    for key in ("dataset_name", "plans_name"):
        with pytest.raises(PlansError, match=rf"{key}: .*(leads to|no file name|at most)"):
            Plans(tiny_plans() | {key: name})
    for key, value in (("data_identifier", name), ("previous_stage", name), ("next_stage", name)):
        plans = tiny_plans()
        plans["configurations"]["3d_fullres"][key] = value
        with pytest.raises(PlansError, match=rf"{key}: .*(leads to|no file name|at most)"):
            Plans(plans)
    plans = tiny_plans()
    plans["configurations"][name] = plans["configurations"].pop("3d_lowres")
    with pytest.raises(PlansError, match=r"the name .*(leads to|no file name|at most)"):
        Plans(plans)


@pytest.mark.parametrize("name", PATHS)
def test_cases_of_splits_and_of_dataset_json_stay_in_their_folder(name: str, tmp_path: Path):
    (tmp_path / "splits_final.json").write_text(json.dumps([{"train": ["a"], "val": [name]}]))
    with pytest.raises(DatasetError, match=r"1 val case\(s\) do not exist"):
        load_or_create_splits(tmp_path, ["a", "b"])
    listed = {"images": ["a.nii.gz"], "label": "b.nii.gz"}
    (tmp_path / "dataset.json").write_text(json.dumps(DATASET_JSON | {"dataset": {name: listed}}))
    with pytest.raises(DatasetError, match="'dataset' has a case"):
        RawDataset.open(tmp_path)


@pytest.mark.parametrize(
    "ending", ["/../x", "../.nii", ".nii/../../x", "nii", ".", "", ".a\x00b", 3, None, "." + "n" * 300]
)
def test_an_ending_is_an_ending(ending: Any, tmp_path: Path):
    assert not is_file_ending(ending)
    (tmp_path / "dataset.json").write_text(json.dumps(DATASET_JSON | {"file_ending": ending}))
    with pytest.raises(DatasetError, match="'file_ending' is"):
        RawDataset.open(tmp_path)
    model = make_model(tmp_path / "results")
    (model / "dataset.json").write_text(json.dumps(DATASET_JSON | {"file_ending": ending}))
    with pytest.raises(DatasetError, match="'file_ending' is"):
        _ = TrainedModel.open(model).file_ending


def test_names_that_people_use_are_names():
    for name in (
        "Dataset001_Herz (neu)",
        "case 1",
        "3d_fullres",
        "Fall_Ä",
        "a..b",
        "-x",
        "nnUNetPlans_3d_fullres",
        "é" * 100,
    ):
        assert why_no_file_name(name) is None
    for ending in (".nii.gz", ".nii", ".tif", ".ome.tiff", ".png"):
        assert is_file_ending(ending)


def architecture(**arguments: Any) -> Any:
    plans = tiny_plans()
    plans["configurations"]["3d_fullres"]["architecture"]["arch_kwargs"] |= arguments
    return Plans(plans).configuration("3d_fullres").architecture


@pytest.mark.parametrize(
    "arguments",
    [
        {"n_stages": 10**9},
        {"features_per_stage": [10**9, 10**9]},
        {"features_per_stage": [60_000, 60_000]},
        {"features_per_stage": "many"},
        {"n_conv_per_stage": [10**9, 1]},
        {"n_conv_per_stage_decoder": 10**9},
        {"kernel_sizes": [[999, 999, 999], [999, 999, 999]]},
        {"strides": [[0, 1, 1], [1, 1, 1]]},
        {"strides": [["1", 1, 1], [1, 1, 1]]},
        {"n_stages": -2},
        {"n_stages": None},
        {"n_stages": True},
        {"norm_op_kwargs": [1]},
        {"nonlin": "torch.nn.Transformer"},
        {"conv_op": 3},
    ],
)
def test_a_network_that_no_computer_holds_is_not_built(arguments: dict[str, Any]):
    with at_most(100 * MIB), pytest.raises(PlansError, match="architecture"):
        build_network(architecture(**arguments), 1, 3)


@pytest.mark.parametrize(
    "changes",
    [
        {"patch_size": [10**9, 10**9, 10**9]},
        {"patch_size": [0, 8, 8]},
        {"batch_size": 10**12},
        {"spacing": [1.0, float("nan"), 1.0]},
        {"spacing": [1.0, float("inf"), 1.0]},
        {"inherits_from": ["3d_lowres"]},
        {"inherits_from": "3d_fullres"},
        {"training": {"initial_lr": float("nan")}},
        {"training": {"num_epochs": 10**400}},
        {"training": {"weight_decay": 10**400}},
    ],
)
def test_numbers_without_end_are_refused(changes: dict[str, Any], tmp_path: Path):
    plans = tiny_plans()
    plans["configurations"]["3d_fullres"] |= changes
    (tmp_path / "plans.json").write_text(json.dumps(plans))
    with pytest.raises(PlansError, match=next(iter(changes)) + "|inherit"):
        Plans.from_file(tmp_path / "plans.json")


def test_a_chain_of_configurations_ends():
    for length, message in ((40, "inherit over more than 20 steps"), (3000, "found 3004 configurations")):
        plans = tiny_plans()
        for number in range(length):
            plans["configurations"][f"c{number}"] = {"inherits_from": f"c{number + 1}"}
        plans["configurations"][f"c{length}"] = {"inherits_from": "3d_fullres"}
        with pytest.raises(PlansError, match=message):
            Plans(plans)


def test_labels_beyond_what_is_stored_are_refused(tmp_path: Path):
    for value in (10**12, 2**15):
        (tmp_path / "dataset.json").write_text(json.dumps(DATASET_JSON | {"labels": {"background": 0, "a": value}}))
        with at_most(20 * MIB), pytest.raises(DatasetError, match="above 32767"):
            RawDataset.open(tmp_path)


def test_resampling_to_a_spacing_without_end_is_refused():
    for spacing in ((1e-300, 1.0, 1.0), (1e-9, 1e-9, 1e-9)):
        with pytest.raises(FoldwiseError, match=r"resampling from .* would take"):
            new_shape((100, 100, 100), (1.0, 1.0, 1.0), spacing)


def test_a_model_folder_reads_nothing_but_its_own_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    model = make_model(tmp_path / "results")
    monkeypatch.setenv("FW_PREPROCESSED", str(tmp_path / "preprocessed"))
    experiment = Experiment.of_run_folder(model / "fold_0")
    assert experiment.preprocessed_folder.parent == tmp_path / "preprocessed"


def test_json_of_a_reasonable_size_and_depth_is_read(tmp_path: Path):
    value: Any = {"a": [1.5, None, "ü"]}
    for _ in range(25):
        value = {"a": [value]}
    (tmp_path / "a.json").write_text(json.dumps(value))
    assert read_json(tmp_path / "a.json") == value
