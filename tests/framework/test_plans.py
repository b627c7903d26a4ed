from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import pytest

from framework.errors import PlansError, UnknownNameError
from framework.plans import Plans


def small_plans(**configurations: Any) -> dict[str, Any]:
    return {
        "dataset_name": "Dataset001_Toy",
        "plans_name": "toy",
        "configurations": {
            "3d_fullres": {
                "data_identifier": "toy_3d_fullres",
                "batch_size": 2,
                "patch_size": [16, 16, 16],
                "spacing": [1, 1, 1],
                "training": {"num_epochs": 7, "initial_lr": 0.1},
            },
            **configurations,
        },
    }


def test_a_plans_file_of_nnunet_is_read_as_it_is(shared_data: Path):
    path = shared_data / "nnunet_reference/preprocessed/Dataset004_Hippocampus/nnUNetPlans.json"
    plans = Plans.from_file(path)
    configuration = plans.configuration("3d_fullres")
    assert configuration.patch_size == (40, 56, 40)
    assert configuration.batch_size == 7
    assert configuration.architecture is not None
    assert configuration.architecture.arch_kwargs["features_per_stage"] == [32, 64, 128, 256]
    assert configuration.training.num_epochs == 1000
    assert plans.to_dict() == json.loads(path.read_text())


def test_numbers_of_a_parent_are_kept_one_by_one():
    plans = Plans.from_dict(
        small_plans(
            quick={"inherits_from": "3d_fullres", "training": {"num_epochs": 3}},
            quicker={"inherits_from": "quick", "batch_size": 4},
        )
    )
    quicker = plans.configuration("quicker")
    assert (quicker.training.num_epochs, quicker.training.initial_lr, quicker.batch_size) == (3, 0.1, 4)
    assert quicker.patch_size == (16, 16, 16)


def test_top_level_blocks_hold_for_all_configurations():
    raw = small_plans(other={"patch_size": [8, 8]})
    raw["training"] = {"iterations_per_epoch": 11, "num_epochs": 99}
    plans = Plans.from_dict(raw)
    assert plans.configuration("other").training.num_epochs == 99
    assert plans.configuration("3d_fullres").training.num_epochs == 7
    assert plans.configuration("3d_fullres").training.iterations_per_epoch == 11


def test_inheritance_in_a_circle_is_told():
    with pytest.raises(PlansError, match="a -> b -> a"):
        Plans.from_dict(small_plans(a={"inherits_from": "b"}, b={"inherits_from": "a"}))


def test_unknown_configuration_lists_the_known_ones():
    with pytest.raises(
        UnknownNameError, match=r"'3d_fulres' is not known. Did you mean '3d_fullres'\? Known here: 3d_fullres"
    ):
        Plans.from_dict(small_plans()).configuration("3d_fulres")


def test_all_mistakes_are_reported_together_with_the_nearest_names():
    raw = small_plans(child={"inherits_from": "3d_fullres"})
    entry = raw["configurations"]["3d_fullres"]
    entry["batchsize"] = 4
    entry["training"] |= {"num_epoch": 5, "precision": "fp8", "initial_lr": -1, "num_workers": "many"}
    raw["dataset_nam"] = "x"
    with pytest.raises(PlansError) as caught:
        Plans.from_dict(raw, source="toy.json")
    text = str(caught.value)
    assert "toy.json: 'dataset_nam' is not a known field. Did you mean 'dataset_name'?" in text
    assert "'batchsize' is not a known field. Did you mean 'batch_size'?" in text
    assert "'num_epoch' is not a known field. Did you mean 'num_epochs'?" in text
    assert "precision: found 'fp8', expected one of 'auto', 'fp16', 'bf16', 'fp32'" in text
    assert "initial_lr: found -1, expected at least 0" in text
    assert "num_workers: found 'many', expected one of 'auto' or an integer" in text
    # The child inherits all of them; each is told once.
    assert text.count("batchsize") == 1
    assert len(text.splitlines()) == 6


def test_overrides_change_one_configuration_and_are_written_out():
    plans = Plans.from_dict(small_plans(other={"inherits_from": "3d_fullres"}))
    changed = plans.with_overrides(
        "other", {"training.num_epochs": "50", "batch_size": 3, "training.optimizer.name": "AdamW"}
    )
    other = changed.configuration("other")
    assert (other.training.num_epochs, other.batch_size) == (50, 3)
    assert other.training.optimizer == {"name": "AdamW"}
    assert changed.configuration("3d_fullres").training.num_epochs == 7
    assert "inherits_from" not in changed.to_dict()["configurations"]["other"]


def test_an_override_of_an_unknown_field_names_the_nearest():
    with pytest.raises(PlansError, match=r"'num_epoch' is not a known field. Did you mean 'num_epochs'"):
        Plans.from_dict(small_plans()).with_overrides("3d_fullres", {"training.num_epoch": 5})


def test_the_legacy_form_becomes_the_current_one(shared_data: Path):
    path = shared_data / "nnunet_reference/preprocessed/Dataset004_Hippocampus/nnUNetPlans.json"
    current = json.loads(path.read_text())
    legacy = copy.deepcopy(current)
    # The keys that nnU-Net wrote before there was an "architecture" object.
    statistics = legacy.pop("foreground_intensity_properties_per_channel")
    legacy["foreground_intensity_properties_by_modality"] = statistics
    del legacy["configurations"]["3d_cpu"]
    for name in ("2d", "3d_fullres"):
        entry = legacy["configurations"][name]
        arguments = entry.pop("architecture")["arch_kwargs"]
        entry |= {
            "UNet_class_name": "PlainConvUNet",
            "UNet_base_num_features": 32,
            "n_conv_per_stage_encoder": arguments["n_conv_per_stage"],
            "n_conv_per_stage_decoder": arguments["n_conv_per_stage_decoder"],
            "num_pool_per_axis": [3] * len(entry["patch_size"]),
            "pool_op_kernel_sizes": arguments["strides"],
            "conv_kernel_sizes": arguments["kernel_sizes"],
            "unet_max_num_features": 512 if name == "2d" else 320,
        }
    read, expected = Plans.from_dict(legacy), Plans.from_dict(current)
    assert read.configuration("2d") == expected.configuration("2d")
    assert read.configuration("3d_fullres") == expected.configuration("3d_fullres")
    assert read.foreground_intensity_properties == expected.foreground_intensity_properties


@pytest.mark.parametrize("raw", [[], {}, {"configurations": []}])
def test_something_else_than_plans_is_refused(raw: Any):
    with pytest.raises(PlansError, match="this is no plans file"):
        Plans.from_dict(raw)


def test_broken_json_is_one_message(tmp_path: Path):
    (tmp_path / "p.json").write_text('{"configurations": ')
    with pytest.raises(PlansError, match=r"p\.json is not valid JSON"):
        Plans.from_file(tmp_path / "p.json")


def test_the_json_schema_is_that_of_the_code():
    from framework.plans_schema import plans_schema
    from framework.preprocessing.presets import PRESET_FOLDER

    written = json.loads((PRESET_FOLDER / "plans.schema.json").read_text())
    assert written == json.loads(json.dumps(plans_schema())), "renew it: python -m framework.plans_schema"
    assert written["$defs"]["configuration"]["properties"]["training"]["properties"]["num_epochs"]["default"] == 1000
