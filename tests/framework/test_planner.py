"""Plans from fingerprints, against those of nnU-Net 2.8.1; presets."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from framework.data.raw_dataset import RawDataset
from framework.errors import DatasetError, PlansError, UnknownNameError
from framework.plans import Plans
from framework.preprocessing.network_cost import feature_map_values, multiply_adds
from framework.preprocessing.planner import plan, plan_dataset
from framework.preprocessing.prepare import write_plans
from framework.preprocessing.presets import load_preset, preset_names, preset_of_plans
from framework.preprocessing.rules import PlannerRules
from framework.preprocessing.topology import topology_for

GOLDEN: list[dict[str, Any]] = json.loads((Path(__file__).parent / "golden" / "planner.json").read_text())


def _planned(case: dict[str, Any], preset_name: str) -> dict[str, Any]:
    preset = load_preset(preset_name)
    fingerprint = {
        "spacings": case["spacings"],
        "shapes_after_crop": case["shapes"],
        "median_relative_size_after_cropping": case["relative_size"],
        "foreground_intensity_properties_per_channel": {},
    }
    planned = plan(
        PlannerRules.from_block(preset["planner"], preset_name),
        fingerprint,
        channel_names=case["channels"],
        num_label_names=case["labels"],
        num_training=case["num_training"],
        image_reader_writer="SimpleITKIO",
        plans_name=preset["plans_name"],
    )
    return json.loads(json.dumps(planned))


@pytest.mark.parametrize("index", range(len(GOLDEN)))
def test_plans_for_random_fingerprints_equal_those_of_nnunet(index: int) -> None:
    for preset, expected in GOLDEN[index]["plans"].items():
        planned = _planned(GOLDEN[index], preset)
        for name, configuration in planned["configurations"].items():
            wanted = expected["configurations"][name]
            architecture = configuration.get("architecture", {}).get("arch_kwargs", {})
            for key, value in wanted.get("arch_kwargs", {}).items():
                assert architecture[key] == value, (preset, name, key)
            assert {key: configuration[key] for key in wanted if key != "arch_kwargs"} == {
                key: value for key, value in wanted.items() if key != "arch_kwargs"
            }
        assert list(planned["configurations"]) == list(expected["configurations"])
        for key in expected:
            if key != "configurations":
                assert planned[key] == expected[key], key


@pytest.mark.shared_data
@pytest.mark.parametrize(
    ("preset", "name"),
    [
        ("default", "nnUNetPlans"),
        ("resenc_m", "nnUNetResEncUNetMPlans"),
        ("resenc_l", "nnUNetResEncUNetLPlans"),
    ],
)
def test_plans_of_real_data_equal_the_file_of_nnunet(shared_data: Path, preset: str, name: str) -> None:
    folder = shared_data / "nnunet_reference" / "preprocessed" / "Dataset004_Hippocampus"
    expected = json.loads((folder / f"{name}.json").read_text())
    expected["configurations"].pop("3d_cpu", None)  # made by hand
    planned = plan_dataset(
        RawDataset.open(shared_data / "Dataset004_Hippocampus"),
        json.loads((folder / "dataset_fingerprint.json").read_text()),
        load_preset(preset),
    )
    assert json.dumps(planned) == json.dumps(expected)  # the order of keys included


def test_topology_leaves_a_coarse_axis_alone_until_the_others_are_as_coarse() -> None:
    topology = topology_for((4.0, 1.0, 1.0), (16, 64, 64))
    # 4:1 -> pool in plane twice, to 4:4; then all three axes, until the edge would fall below 4
    assert topology.strides == ((1, 1, 1), (1, 2, 2), (1, 2, 2), (2, 2, 2), (2, 2, 2))
    assert topology.kernel_sizes == ((1, 3, 3), (1, 3, 3), (3, 3, 3), (3, 3, 3), (3, 3, 3))
    assert topology.divisors == (4, 16, 16)
    assert topology_for((1.0, 1.0), (33, 50)).patch_size == (40, 56)


def test_cost_of_a_small_network_by_hand() -> None:
    arch_kwargs = {
        "features_per_stage": [2, 4],
        "kernel_sizes": [[3, 3], [3, 3]],
        "strides": [[1, 1], [2, 2]],
        "n_conv_per_stage": [2, 2],
        "n_conv_per_stage_decoder": [2],
    }
    # 8x8 at the top, 4x4 below. Maps: encoder 2*2*64 + 2*4*16, transposed 2*64, decoder 2*2*64, heads 3*64
    assert feature_map_values(arch_kwargs, (8, 8), 1, 3) == 256 + 128 + 128 + 256 + 192
    encoder = 9 * 64 * (1 * 2 + 2 * 2) + 9 * 16 * (2 * 4 + 4 * 4)
    decoder = 64 * 4 * 2 + 9 * 64 * (4 * 2 + 2 * 2) + 64 * 2 * 3
    assert multiply_adds(arch_kwargs, (8, 8), 1, 3) == encoder + decoder


def test_plans_carry_the_blocks_of_the_preset_and_can_be_read() -> None:
    case = GOLDEN[0]
    preset = {**load_preset("default"), "training": {"num_epochs": 7}, "augmentation": "none"}
    raw = RawDataset(
        folder=Path("Dataset001_X"),
        dataset_json={"labels": {"background": 0, "a": 1}, "numTraining": 3},
        labels=None,  # type: ignore[arg-type]
        channel_names=("MRI",),
        file_ending=".nii.gz",
        cases={},
    )
    fingerprint = {
        "spacings": case["spacings"],
        "shapes_after_crop": case["shapes"],
        "median_relative_size_after_cropping": 1.0,
        "foreground_intensity_properties_per_channel": {},
    }
    plans = Plans.from_dict(plan_dataset(raw, fingerprint, preset, plans_name="mine"))
    assert plans.name == "mine"
    configuration = plans.configuration("3d_fullres")
    assert configuration.training.num_epochs == 7
    assert configuration.augmentation == "none"
    assert configuration.data_identifier == "mine_3d_fullres"


def test_existing_plans_are_never_overwritten_unasked(tmp_path: Path) -> None:
    planned = {"plans_name": "p", "configurations": {"2d": {"batch_size": 2}}}
    path = tmp_path / "p.json"
    write_plans(path, planned)
    mine = json.loads(path.read_text())
    mine["configurations"]["mine"] = {"inherits_from": "2d", "batch_size": 4}
    path.write_text(json.dumps(mine))
    write_plans(path, planned)  # the same but for an addition: fine, and nothing changes
    assert json.loads(path.read_text()) == mine

    planned["configurations"]["2d"]["batch_size"] = 3
    with pytest.raises(DatasetError, match=r"configurations.2d.batch_size \(2 there, 3 now\)"):
        write_plans(path, planned)
    assert json.loads(path.read_text()) == mine
    write_plans(path, planned, overwrite=True)
    assert set(json.loads(path.read_text())["configurations"]) == {"2d", "mine"}


def test_presets_inherit_and_are_found_by_the_name_of_their_plans(tmp_path: Path) -> None:
    assert {"default", "laptop", "example"} <= set(preset_names())
    assert load_preset("laptop")["planner"]["min_feature_map_edge"] == 4  # from default
    assert preset_of_plans("nnUNetPlans") == "default"
    assert preset_of_plans("laptop") == "laptop"
    assert preset_of_plans("nobodysPlans") is None

    path = tmp_path / "mine.json"
    path.write_text('{"inherits_from": "laptop", "training": {"num_epochs": 3}}')
    mine = load_preset(path)
    assert mine["plans_name"] == "mine"
    assert mine["training"]["num_epochs"] == 3
    assert mine["planner"] == load_preset("laptop")["planner"]


def test_all_presets_that_come_along_are_valid() -> None:
    for name in preset_names():
        preset = load_preset(name)
        PlannerRules.from_block(preset["planner"], name)
        Plans.from_dict(
            {
                "configurations": {"2d": {}},
                **{k: preset[k] for k in ("training", "augmentation") if k in preset},
            }
        )


def test_mistakes_in_presets_are_named(tmp_path: Path) -> None:
    with pytest.raises(UnknownNameError, match="Did you mean 'laptop'"):
        load_preset("labtop")
    path = tmp_path / "wrong.json"
    path.write_text('{"inherits_from": "default", "trainig": {}}')
    with pytest.raises(PlansError, match="Did you mean 'training'"):
        load_preset(path)
    with pytest.raises(PlansError, match="Did you mean 'base_features'"):
        PlannerRules.from_block({"base_featurs": 8}, "preset 'x'")
    with pytest.raises(PlansError, match=r"compute_budget\.gmacs_per_iteration"):
        PlannerRules.from_block({"compute_budget": {"gmacs_per_iteration": {"3d": 0}}}, "preset 'x'")
    for one, other in (("a", "b"), ("b", "a")):
        (tmp_path / f"{one}.json").write_text(json.dumps({"inherits_from": f"{other}.json"}))
    with pytest.raises(PlansError, match="circle"):
        load_preset(tmp_path / "a.json")
