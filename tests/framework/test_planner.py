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
from framework.preprocessing.normalisation import SCHEMES, scheme_for_channel
from framework.preprocessing.planner import plan_dataset
from framework.preprocessing.prepare import write_plans
from framework.preprocessing.presets import (
    load_preset,
    preset_names,
    preset_of_planner,
    preset_of_plans,
    with_rules,
)
from framework.preprocessing.rules import PlannerRules
from framework.preprocessing.topology import topology_for
from tests.interop.random_fingerprints import KINDS, PRESETS, RandomDataset, Request, our_plans, summary

GOLDEN: list[dict[str, Any]] = json.loads((Path(__file__).parent / "golden" / "planner.json").read_text())
DATASETS = [RandomDataset(*(entry[key] for key in ("kind", "fingerprint", "dataset_json"))) for entry in GOLDEN]
CT = next(dataset for dataset in DATASETS if dataset.kind == "large")


@pytest.mark.parametrize("index", range(len(GOLDEN)))
def test_plans_for_random_fingerprints_equal_those_of_nnunet(index: int) -> None:
    """The golden file is written by ``python -m tests.interop.compare_planner --golden``."""
    entry, dataset = GOLDEN[index], DATASETS[index]
    for request, expected in zip(entry["requests"], entry["plans"], strict=True):
        found = summary(our_plans(dataset, Request(**request)))
        if expected is None:  # nnU-Net fails
            assert min(min(numbers) for numbers in found["configurations"].values()) >= 1
            continue
        # without the digest of all fields first, for a message that can be read
        assert found["configurations"] == expected["configurations"], request
        assert found == expected, request


def test_golden_plans_take_every_turn() -> None:
    names = [set(plans["configurations"]) for entry in GOLDEN for plans in entry["plans"] if plans]
    assert {"2d"} in names
    assert {"2d", "3d_fullres"} in names
    assert {"2d", "3d_lowres", "3d_fullres"} in names
    assert {entry["kind"] for entry in GOLDEN} == set(KINDS)
    shares = [entry["fingerprint"]["median_relative_size_after_cropping"] for entry in GOLDEN]
    assert min(shares) < 0.75  # masked normalisation sets in below
    assert 0.75 in shares
    assert max(shares) > 0.75
    channels = {name for dataset in DATASETS for name in dataset.raw.channel_names}
    assert {scheme_for_channel(name) for name in channels} == set(SCHEMES)


def test_a_spacing_so_coarse_that_nothing_is_left_keeps_a_voxel() -> None:
    # nnU-Net fails here: 3 voxels of 0.3 mm are less than half a voxel of 2 mm
    fingerprint = {**CT.fingerprint, "spacings": [[1.0, 1.0, 0.3]], "shapes_after_crop": [[40, 40, 3]]}
    preset = with_rules(load_preset("default"), {"target_spacing": [2.0, 2.0, 2.0]})
    configuration = plan_dataset(CT.raw, fingerprint, preset)["configurations"]["3d_fullres"]
    assert configuration["median_image_size_in_voxels"] == [20.0, 20.0, 1.0]
    assert configuration["patch_size"] == [20, 20, 1]


def test_data_of_a_spacing_that_was_asked_for_are_kept_apart() -> None:
    def identifier(preset: dict[str, Any], plans_name: str | None = None) -> Any:
        plans = plan_dataset(CT.raw, CT.fingerprint, preset, plans_name)
        return plans["configurations"]["3d_fullres"]["data_identifier"]

    resenc = load_preset("resenc_l")
    # The residual encoder plans share the data of the default ones, as in nnU-Net ...
    assert identifier(load_preset("default")) == identifier(resenc) == "nnUNetPlans_3d_fullres"
    # ... but only at the spacing that both plan.
    asked = with_rules(resenc, {"target_spacing": [2.0, 1.0, 0.75]})
    assert identifier(asked) == "nnUNetResEncUNetLPlans_3d_fullres_2x1x0.75mm"
    assert identifier(asked, "nnUNetPlans") == "nnUNetPlans_3d_fullres_2x1x0.75mm"
    assert identifier(asked, "mine") == "mine_3d_fullres"


def test_rules_that_cannot_be_followed_are_refused() -> None:
    def planned(preset_name: str, **rules: Any) -> None:
        plan_dataset(CT.raw, CT.fingerprint, with_rules(load_preset(preset_name), rules))

    with pytest.raises(PlansError, match=r"no patch fits into 1e-06 GB"):
        planned("default", memory_gb=1e-6)
    with pytest.raises(PlansError, match=r"target_spacing: found \[1.0, 0.0, 1.0\], expected lengths above 0"):
        planned("default", target_spacing=[1.0, 0.0, 1.0])
    with pytest.raises(PlansError, match=r"target_spacing: found \[inf, 1.0, 1.0\]"):
        planned("default", target_spacing=[float("inf"), 1.0, 1.0])
    with pytest.raises(PlansError, match=r"found 2 number\(s\), expected 3"):
        planned("default", target_spacing=[1.0, 1.0])
    with pytest.raises(PlansError, match=r"'laptop' plans from a compute budget"):
        planned("laptop", memory_gb=24)


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


def test_one_stage_has_no_head_to_count() -> None:
    arch_kwargs = {
        "features_per_stage": [2],
        "kernel_sizes": [[3, 3]],
        "strides": [[1, 1]],
        "n_conv_per_stage": [2],
        "n_conv_per_stage_decoder": [],
    }
    assert feature_map_values(arch_kwargs, (4, 4), 1, 3) == 2 * 2 * 16


def test_plans_carry_the_blocks_of_the_preset_and_can_be_read() -> None:
    preset = {**load_preset("default"), "training": {"num_epochs": 7}, "augmentation": "none"}
    plans = Plans.from_dict(plan_dataset(CT.raw, CT.fingerprint, preset, plans_name="mine"))
    assert plans.name == "mine"
    configuration = plans.configuration("3d_fullres")
    assert configuration.training.num_epochs == 7
    assert configuration.augmentation == "none"
    assert configuration.data_identifier == "mine_3d_fullres"


@pytest.mark.parametrize("name", ["", "a/b", "../plans", "two__parts", ".hidden"])
def test_names_that_would_confuse_files_and_run_folders_are_refused(name: str) -> None:
    with pytest.raises(PlansError, match="cannot be the name of plans"):
        plan_dataset(CT.raw, CT.fingerprint, load_preset("default"), name)


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
    assert {name: preset_of_planner(planner) for name, planner in PRESETS.items()} == {name: name for name in PRESETS}
    assert preset_of_planner("LaptopPlanner") == "laptop"
    assert preset_of_planner("default") is None

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
