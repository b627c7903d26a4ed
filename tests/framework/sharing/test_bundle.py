"""What goes into a bundle, and in which form."""

from __future__ import annotations

import hashlib
import json
import pickle
import zipfile
from pathlib import Path

import pytest
import torch

from framework.commands.export import main as fw_export
from framework.errors import CheckpointError, FoldwiseError
from framework.sharing.bundle import write_bundle
from framework.sharing.machine_paths import text_without_machine_paths
from framework.sharing.selection import chosen_model, model_folder, model_folders
from tests.framework.sharing.builder import (
    DATASET,
    MODEL,
    checkpoint,
    contents,
    make_bundle,
    make_model,
    write_text,
)


def test_the_card_lists_size_and_checksum_of_every_other_member(tmp_path: Path):
    members = contents(make_bundle(tmp_path).path)
    card = json.loads(members.pop(f"{DATASET}/foldwise_model.json"))
    assert card["files"] == {
        name: {"sha256": hashlib.sha256(content).hexdigest(), "size": len(content)} for name, content in members.items()
    }
    assert set(members) == {
        f"{MODEL}/{name}"
        for name in (
            "plans.json",
            "dataset.json",
            "dataset_fingerprint.json",
            "fold_0/plans.json",
            "fold_0/checkpoint_final.pth",
        )
    }


def test_the_card_says_what_the_model_is_and_under_which_terms(tmp_path: Path):
    bundle = make_bundle(tmp_path, licence="CC-BY-4.0", citation="Doe 2024", authors=["J. Doe"], description="MR only")
    card = json.loads(contents(bundle.path)[f"{DATASET}/foldwise_model.json"])
    assert (card["format"], card["format_version"], card["dataset"]) == ("foldwise model", 1, DATASET)
    assert card["channels"] == {"0": "MRI"}
    assert card["labels"] == {"background": 0, "left": 1, "right": 2}
    assert (card["licence"], card["citation"], card["authors"]) == ("CC-BY-4.0", "Doe 2024", ["J. Doe"])
    assert set(card["made_with"]) == {"foldwise", "torch", "numpy", "python"}
    [model] = card["models"]
    assert (model["configuration"], model["folds"], model["checkpoints"]) == ("3d_fullres", ["0"], ["final"])
    assert (model["nnunet_trainer"], model["required_class"]) == ("nnUNetTrainer", None)


def test_checkpoints_hold_weights_only(tmp_path: Path):
    (tmp_path / "c.pth").write_bytes(contents(make_bundle(tmp_path).path)[f"{MODEL}/fold_0/checkpoint_final.pth"])
    state = torch.load(tmp_path / "c.pth", weights_only=True)
    original = checkpoint("3d_fullres", "0", 0)
    assert set(state) == {"network_weights", "trainer_name", "init_args", "inference_allowed_mirroring_axes"}
    assert state["init_args"] == {"configuration": "3d_fullres", "fold": 0}
    assert state["inference_allowed_mirroring_axes"] == (0, 1, 2)
    assert list(state["network_weights"]) == list(original["network_weights"])
    for name, tensor in original["network_weights"].items():
        assert torch.equal(state["network_weights"][name], tensor)
    # nnU-Net's second names of a tensor cost nothing
    storages = {tensor.untyped_storage().data_ptr() for tensor in state["network_weights"].values()}
    assert len(storages) == len({tensor.data_ptr() for tensor in original["network_weights"].values()})


def test_a_weight_that_is_a_view_takes_no_more_room_than_itself(tmp_path: Path):
    view = torch.arange(1_000_000.0)[:10]
    model = make_model(tmp_path / "made", state={"network_weights": {"w": view}})
    content = contents(make_bundle(tmp_path, model).path)[f"{MODEL}/fold_0/checkpoint_final.pth"]
    assert len(content) < 5000


def test_no_path_of_this_machine_and_no_patient_is_in_a_bundle(tmp_path: Path):
    results = tmp_path / "made"
    model = make_model(results, training={"hooks": ["/home/somebody/hooks.py:Mine", "EarlyStopping"]})
    scores = {"metric_per_case": [{"prediction_file": str(model / "fold_0/validation/a.nii.gz"), "metrics": {}}]}
    scores["metric_per_case"][0]["reference_file"] = "/home/somebody/labels/a.nii.gz"
    write_text(model / "fold_0/validation/summary.json", json.dumps(scores))
    chosen = [{"configuration": "3d_fullres", "trainer": "SegmentationTrainer", "plans_identifier": "tiny"}]
    best = {"selected_model_or_models": chosen, "postprocessing_file": str(model / "crossval/postprocessing.pkl")}
    write_text(model.parent / "inference_information.json", json.dumps({"best_model_or_ensemble": best}))
    write_text(
        model.parent / "inference_instructions.txt", f"fw_predict -i IN -m {model}\n/usr/bin/x -i /home/somebody/in"
    )
    members = contents(make_bundle(tmp_path, model).path)
    for name, content in members.items():
        for secret in (b"somebody", b"/home", b"/usr", b"secret", b"patient", str(tmp_path).encode()):
            assert secret not in content, name
    summary = json.loads(members[f"{MODEL}/fold_0/validation/summary.json"])["metric_per_case"][0]
    assert summary["prediction_file"] == f"{MODEL}/fold_0/validation/a.nii.gz"
    assert summary["reference_file"] == "a.nii.gz"
    assert b"fw_predict -i IN -m Dataset007_Tiny/Segm" in members[f"{DATASET}/inference_instructions.txt"]
    assert json.loads(members[f"{MODEL}/plans.json"])["training"]["hooks"] == ["EarlyStopping"]


@pytest.mark.parametrize(
    ("text", "cleaned"),
    [
        ("/results/Dataset004_A/plans.json", "Dataset004_A/plans.json"),
        ("/home/a b/c.nii.gz", "c.nii.gz"),
        (r"C:\Users\me\my.py:Wide", "my.py:Wide"),
        ("fw_predict -i /home/me/in -m '/results/D/T'", "fw_predict -i in -m 'D/T'"),
        ("see https://doi.org/10.1/x?a=/b/c, and/or 1 / 2", "see https://doi.org/10.1/x?a=/b/c, and/or 1 / 2"),
        ("mm", "mm"),
    ],
)
def test_absolute_paths_become_relative_or_names(text: str, cleaned: str):
    assert text_without_machine_paths(text, Path("/results")) == cleaned


def test_the_same_models_give_the_same_bytes(tmp_path: Path):
    first = make_bundle(tmp_path, make_model(tmp_path / "made", folds=("0", "1"))).path.read_bytes()
    for folder in (tmp_path / "made", tmp_path / "elsewhere"):
        bundle = make_bundle(tmp_path, make_model(folder, folds=("0", "1")))
        assert bundle.path.read_bytes() == first
    with zipfile.ZipFile(bundle.path) as archive:
        assert {info.date_time for info in archive.infolist()} == {(1980, 1, 1, 0, 0, 0)}


def test_the_previous_stage_of_a_cascade_comes_along(tmp_path: Path):
    cascade = make_model(tmp_path / "made", "3d_cascade_fullres")
    with pytest.raises(FoldwiseError, match=r"second stage of a cascade .* fw_train Dataset007_Tiny 3d_lowres 0"):
        make_bundle(tmp_path, cascade)
    make_model(tmp_path / "made", "3d_lowres")
    bundle = make_bundle(tmp_path, cascade)
    assert [model.configuration for model in bundle.card.models] == ["3d_lowres", "3d_cascade_fullres"]


def test_scores_postprocessing_and_ensembles_come_along_where_their_models_do(tmp_path: Path):
    model = make_model(tmp_path / "made", folds=("0", "1"))
    rule = b"cnnunetv2.postprocessing.remove_connected_components\nremove_all_but_largest_component_from_segmentation\n"
    for folder in ("crossval_results_folds_0_1", "crossval_results_folds_0_1_2_3_4"):
        write_text(model / folder / "summary.json", "{}")
        write_text(model / folder / "case.nii.gz", "")
        (model / folder / "postprocessing.pkl").write_bytes(b"(l" + rule + b"a(l(da\x86.")
        (model / folder / "case.pkl").write_bytes(pickle.dumps({}))
    name = model.name
    write_text(model.parent / f"ensembles/ensemble___{name}___{name}___0_1/postprocessing.json", "{}")
    write_text(model.parent / f"ensembles/ensemble___{name}___Other__tiny__2d___0_1/postprocessing.json", "{}")
    members = set(contents(make_bundle(tmp_path, model).path))
    inside = {member.removeprefix(f"{DATASET}/") for member in members if "crossval" in member or "ensem" in member}
    assert inside == {
        f"{name}/crossval_results_folds_0_1/summary.json",
        f"{name}/crossval_results_folds_0_1/postprocessing.pkl",
        f"ensembles/ensemble___{name}___{name}___0_1/postprocessing.json",
    }
    more = set(contents(make_bundle(tmp_path, model, with_predictions=True).path)) - members
    assert more == {f"{MODEL}/crossval_results_folds_0_1/case.nii.gz"}


def test_a_network_of_the_users_own_class_is_told(tmp_path: Path):
    own = {"trainer_name": "Wide", "foldwise": {"trainer": "/home/somebody/wide.py:Wide"}}
    model = make_model(tmp_path / "made", state=own)
    said: list[str] = []
    bundle = write_bundle([chosen_model(model, None)], tmp_path / "m.zip", report=said.append)
    assert bundle.card.models[0].required_class == "wide.py:Wide"
    assert any("only with the trainer class wide.py:Wide" in text for text in said)
    assert any("nnU-Net cannot predict with it" in text for text in said)


def test_a_missing_fold_is_an_error_or_left_out(tmp_path: Path):
    model = make_model(tmp_path, folds=("0", "1"))
    (model / "fold_1/checkpoint_final.pth").unlink()
    with pytest.raises(CheckpointError, match=r"fold 1 has no checkpoint_final\.pth.*--not_strict"):
        chosen_model(model, ["0", "1"])
    assert chosen_model(model, ["0", "1"], strict=False, report=lambda text: None).folds == ("0",)
    assert chosen_model(model, None, ["checkpoint_final.pth"], report=lambda text: None).folds == ("0",)
    with pytest.raises(CheckpointError, match=r"holds no fold with checkpoint_best\.pth"):
        chosen_model(model, None, ["best"])


def test_the_models_of_a_dataset_are_found_by_what_was_asked_for(tmp_path: Path):
    first, second = make_model(tmp_path), make_model(tmp_path, "3d_lowres")
    assert model_folders(first.parent, None, None, None) == [first, second]
    assert model_folders(first.parent, ["3d_lowres"], None, None) == [second]
    first.rename(first.with_name(f"{first.name}_before_1"))  # an earlier import that was moved aside
    assert model_folders(second.parent, None, None, None) == [second]
    second.rename(second.with_name("Other__tiny__3d_lowres"))
    make_model(tmp_path)
    with pytest.raises(FoldwiseError, match="-tr Other -p tiny; -tr SegmentationTrainer -p tiny"):
        model_folders(first.parent, None, None, None)
    with pytest.raises(FoldwiseError, match="configuration '2d' is not known"):
        model_folders(first.parent, ["2d"], "Other", None)
    with pytest.raises(FoldwiseError, match="is no model folder"):
        model_folder(tmp_path)


def test_the_command_exports_by_dataset_and_never_overwrites_silently(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    make_model(tmp_path / "results")
    monkeypatch.setenv("FW_RESULTS", str(tmp_path / "results"))
    target = tmp_path / "out.zip"
    write_text(tmp_path / "cite.txt", "Doe et al.")
    arguments = ["7", "-c", "3d_fullres", "-o", str(target), "--citation", str(tmp_path / "cite.txt")]
    assert fw_export(arguments) == 0
    assert "no licence was given" in capsys.readouterr().out
    assert json.loads(contents(target)[f"{DATASET}/foldwise_model.json"])["citation"] == "Doe et al."
    before = target.read_bytes()
    assert fw_export(arguments) == 2
    assert "Pass --overwrite" in capsys.readouterr().err
    assert fw_export(["-d", "Tiny", "-f", "3", "-o", str(target), "--overwrite"]) == 2
    assert target.read_bytes() == before
    assert zipfile.is_zipfile(target)
