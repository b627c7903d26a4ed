"""The explanation of plans: what it says is what was planned."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from framework.commands.plan import main as fw_plan
from framework.preprocessing.explain import explain_plans, planned_otherwise
from framework.preprocessing.planner import plan_dataset
from framework.preprocessing.presets import load_preset, with_rules
from tests.builders import make_tiny_dataset, use_roots
from tests.interop.random_fingerprints import KINDS, RandomDataset, draw_dataset

STATISTICS = {
    "mean": 40.0, "median": 41.0, "std": 12.5, "min": -1024.0, "max": 3071.0,
    "percentile_00_5": -310.0, "percentile_99_5": 268.0,
}  # fmt: skip


def _dataset(spacing: list[float], shape: list[int], channels: tuple[str, ...] = ("CT",), left: float = 1.0) -> Any:
    """Ten equal cases, but for two that have half as long voxels along the first axis (if they have slices)."""
    finer = [spacing[0] / 2, *spacing[1:]] if shape[0] > 1 else spacing
    fingerprint = {
        "spacings": [finer, finer, *[spacing] * 8],
        "shapes_after_crop": [shape] * 10,
        "median_relative_size_after_cropping": left,
        "foreground_intensity_properties_per_channel": {str(each): STATISTICS for each in range(len(channels))},
    }
    dataset_json = {
        "labels": {"background": 0, "liver": 1},
        "channel_names": dict(enumerate(channels)),
        "numTraining": 10,
        "overwrite_image_reader_writer": "SimpleITKIO",
    }
    return RandomDataset("made", fingerprint, dataset_json)


def _text(dataset: RandomDataset, preset: str = "default", **rules: Any) -> str:
    lines = explain_plans(dataset.raw, dataset.fingerprint, with_rules(load_preset(preset), rules))
    return " ".join(" ".join(lines).split())


def test_a_large_ct_is_explained_with_its_numbers() -> None:
    text = _text(_dataset([2.5, 0.8, 0.8], [300, 512, 512]))
    assert "10 cases, 1 channel(s), 2 labels or regions: background, liver." in text
    assert (
        "channel 0 'CT', foreground: mean 40, deviation 12.5, from -1024 to 3071, 99 % of it from -310 to 268." in text
    )
    # 2.5 / 0.8 = 3.125; 300 / 512 = 0.586
    assert "axis 0 is the coarsest: 3.12 times the next one (more than 3), and 0.586 times as many voxels" in text
    assert "(not less than 1/3)" in text
    assert "channel 0 'CT': CTNormalization." in text
    assert "within the region with content if" not in text  # no channel has a z-score
    # 80 x 160 x 160 of 300 x 512 x 512 voxels
    assert "the patch of 3d_fullres covers 2.6 % of the median image, less than 25.0 %" in text
    assert "so it is planned, and with it 3d_cascade_fullres" in text


def test_an_anisotropic_axis_is_explained() -> None:
    text = _text(_dataset([6.0, 0.8, 0.7], [20, 300, 310], ("T2", "CT"), left=0.5))
    # The 10th percentile of two of 3 mm and eight of 6 mm is 3 mm.
    assert (
        "spacing 3 x 0.8 x 0.7 mm: the median (6 x 0.8 x 0.7 mm), but along axis 0 percentile 10 of all cases" in text
    )
    assert "7.5 times the next one (more than 3), and 0.0667 times as many voxels" in text
    assert (
        "channel 0 'T2': ZScoreNormalization within the region with content. channel 1 'CT': CTNormalization." in text
    )
    assert "leaves less than 75.0 %; here it leaves 50.0 %" in text
    assert "not planned: the patch of 3d_fullres covers" in text
    assert "spacing 2 x 1 x 1 mm, as asked for; the median is 6 x 0.8 x 0.7 mm." in _text(
        _dataset([6.0, 0.8, 0.7], [20, 300, 310]), target_spacing=[2.0, 1.0, 1.0]
    )


def test_a_compute_budget_and_single_slices_are_explained() -> None:
    text = _text(_dataset([1.0, 1.0, 1.0], [100, 100, 100]), "laptop")
    assert "thousand million multiply-adds an iteration; the budget is 15." in text
    assert "widest beginning between 12 and 16" in text
    assert "GB" not in text
    assert "3d not planned: the images are single slices." in _text(_dataset([999.0, 1.0, 1.0], [1, 200, 200]))


@pytest.mark.parametrize("seed", range(len(KINDS)))
def test_patches_batches_and_spacings_are_those_of_the_plans(seed: int) -> None:
    dataset = draw_dataset(seed)
    for properties in dataset.fingerprint["foreground_intensity_properties_per_channel"].values():
        properties.update(STATISTICS)
    for request in dataset.requests:
        preset = with_rules(load_preset(request.preset), request.rules)
        text = " ".join(" ".join(explain_plans(dataset.raw, dataset.fingerprint, preset)).split())
        for name, planned in plan_dataset(dataset.raw, dataset.fingerprint, preset)["configurations"].items():
            if name == "3d_cascade_fullres":
                assert name in text
                continue
            patch = " x ".join(f"{length:.4g}" for length in planned["patch_size"])
            assert f"patch {patch} voxels." in text
            assert f"batch {planned['batch_size']}. " in text
            assert " x ".join(f"{length:.4g}" for length in planned["spacing"]) in text
            features = planned["architecture"]["arch_kwargs"]["features_per_stage"]
            assert f"{len(features)} stages of {'-'.join(map(str, features))} channels" in text


def test_plans_that_say_something_else_are_told() -> None:
    dataset, preset = draw_dataset(0), load_preset("default")
    plans = plan_dataset(dataset.raw, dataset.fingerprint, preset)
    assert planned_otherwise(plans, dataset.raw, dataset.fingerprint, preset) == []
    plans["configurations"]["2d"]["batch_size"] += 1
    plans["configurations"]["mine"] = {"inherits_from": "2d"}  # an addition is no contradiction
    assert planned_otherwise(plans, dataset.raw, dataset.fingerprint, preset) == ["2d"]


def test_command_takes_the_options_of_nnunet_and_explains(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    use_roots(tmp_path, monkeypatch)
    make_tiny_dataset(tmp_path / "raw", num_cases=2)
    make_tiny_dataset(tmp_path / "raw", "Dataset008_More", num_cases=2)
    planner = ["-pl", "nnUNetPlannerResEncM", "-gpu_memory_target", "12"]
    spacing = ["-overwrite_target_spacing", "2", "1.5", "1.5", "-overwrite_plans_name", "coarse"]
    others = ["--verify_dataset_integrity", "-npfp", "1", "--no_pbar", "-preprocessor_name", "DefaultPreprocessor"]
    assert fw_plan(["-d", "7", "8", *planner, *spacing, *others, "--explain"]) == 0
    printed = " ".join(capsys.readouterr().out.split())
    assert printed.count("mm, as asked for") == 2
    assert "stand for 12 GB" in printed
    for name in ("Dataset007_Tiny", "Dataset008_More"):
        plans = json.loads((tmp_path / "preprocessed" / name / "coarse.json").read_text())
        assert plans["experiment_planner_used"] == "nnUNetPlannerResEncM"
        assert sorted(plans["configurations"]["3d_fullres"]["spacing"]) == [1.5, 1.5, 2.0]

    before = (tmp_path / "preprocessed/Dataset007_Tiny/coarse.json").read_text()
    different = ["7", "-overwrite_plans_name", "coarse", "-np", "1"]
    assert fw_plan(different) == 2  # not without being asked
    assert (tmp_path / "preprocessed/Dataset007_Tiny/coarse.json").read_text() == before
    assert fw_plan([*different, "--overwrite"]) == 0
    assert (tmp_path / "preprocessed/Dataset007_Tiny/coarse.json").read_text() != before
    capsys.readouterr()
    assert fw_plan(["7", "-pl", "nnUNetPlannerResEncS"]) == 2
    assert "resenc_m" in capsys.readouterr().err
    with pytest.raises(SystemExit) as raised:
        fw_plan(["7", "-preprocessor_name", "MyPreprocessor"])
    assert raised.value.code == 2
