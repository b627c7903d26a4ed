"""What an import changes, what it refuses because of its content, and what it leaves when it fails."""

from __future__ import annotations

import hashlib
import io
import json
import os
import pickle
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from framework.commands.import_model import main as fw_import
from framework.errors import FoldwiseError
from framework.inference import Predictor
from framework.sharing.installation import install_bundle
from tests.framework.sharing.builder import (
    DATASET,
    MODEL,
    checkpoint,
    contents,
    make_bundle,
    make_model,
    tree,
    write_text,
    write_zip,
)

CHECKPOINT = f"{MODEL}/fold_0/checkpoint_final.pth"
CARD = f"{DATASET}/foldwise_model.json"


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    return make_bundle(tmp_path / "source", licence="CC-BY-4.0").path


def install(path: Path, results: Path, **options: Any) -> Path:
    """The folder of the last model."""
    return install_bundle(path, results, report=lambda text: None, **options)[-1].folder


def repacked(bundle: Path, target: Path, changes: dict[str, bytes | None], card: bool = True) -> Path:
    """The bundle with other members, and a card that fits them; None takes a member out."""
    members = {name: content for name, content in (contents(bundle) | changes).items() if content is not None}
    described = json.loads(members.pop(CARD))
    described["files"] = {
        name: {"sha256": hashlib.sha256(content).hexdigest(), "size": len(content)} for name, content in members.items()
    }
    if card:
        members[CARD] = json.dumps(described).encode()
    return write_zip(target, members.items())


def saved(state: dict[str, Any]) -> bytes:
    buffer = io.BytesIO()
    torch.save(state, buffer)
    return buffer.getvalue()


def assert_refused(path: Path, message: str, results: Path | None = None, **options: Any) -> None:
    results = results or path.parent / "results" / "deep"
    before = tree(path.parent)
    with pytest.raises(FoldwiseError, match=message):
        install(path, results, **options)
    assert tree(path.parent) == before


def test_an_imported_model_predicts_what_the_original_does(tmp_path: Path):
    model = make_model(tmp_path / "made", folds=("0", "1"))
    for file in model.rglob("checkpoint_final.pth"):  # the trainer of the original is not there
        state = torch.load(file, weights_only=True)
        torch.save(state | {"foldwise": {"trainer": "trainers.segmentation:SegmentationTrainer"}}, file)
    image = np.random.default_rng(0).normal(size=(12, 13, 9))
    expected = Predictor(model, device="cpu").predict(image)
    assert len(np.unique(expected)) == 3
    imported = install(make_bundle(tmp_path, model).path, tmp_path / "elsewhere")
    shutil.rmtree(tmp_path / "made")
    assert np.array_equal(Predictor(imported, device="cpu").predict(image), expected)


def test_the_card_stays_with_the_model_and_goes_into_the_next_bundle(tmp_path: Path, bundle: Path):
    model = install(bundle, tmp_path / "results")
    assert tree(model) == {
        "plans.json", "dataset.json", "dataset_fingerprint.json", "foldwise_model.json",
        "fold_0", "fold_0/plans.json", "fold_0/checkpoint_final.pth",
    }  # fmt: skip
    card = json.loads((model / "foldwise_model.json").read_text())
    assert card["licence"] == "CC-BY-4.0"
    assert card["bundle_sha256"] == hashlib.sha256(bundle.read_bytes()).hexdigest()
    again = make_bundle(tmp_path / "again", model, authors=["A. Second"])
    assert (again.card.licence, again.card.authors) == ("CC-BY-4.0", ["A. Second"])


def test_the_command_shows_the_card_and_the_next_command(
    tmp_path: Path, bundle: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    monkeypatch.setenv("FW_RESULTS", str(tmp_path / "results"))
    assert fw_import([str(bundle)]) == 0
    shown = capsys.readouterr().out
    assert "licence:       CC-BY-4.0" in shown
    assert f"fw_predict -i IMAGES -o SEGMENTATIONS -m {tmp_path / 'results' / MODEL}" in shown


def test_nothing_is_overwritten_unasked(tmp_path: Path, bundle: Path):
    results = tmp_path / "results"
    model = install(bundle, results)
    write_text(model / "fold_0/note.txt", "mine")
    before = {path: path.read_bytes() for path in results.rglob("*") if path.is_file()}
    with pytest.raises(FoldwiseError, match=r"holds already: SegmentationTrainer__tiny__3d_fullres\..*--overwrite"):
        install(bundle, results)
    assert {path: path.read_bytes() for path in results.rglob("*") if path.is_file()} == before
    for number in (1, 2):
        install(bundle, results, overwrite=True)
        kept = model.with_name(f"{model.name}_before_{number}")
        assert (kept / "fold_0/note.txt").exists() == (number == 1)
    assert (model / "fold_0/checkpoint_final.pth").is_file()


def test_a_model_comes_beside_others_of_its_dataset(tmp_path: Path, bundle: Path):
    other = make_model(tmp_path / "results", "3d_lowres")
    kept = tree(other)
    install(bundle, tmp_path / "results")
    assert tree(other) == kept
    assert sorted(path.name[-10:] for path in other.parent.iterdir()) == ["3d_fullres", "_3d_lowres"]


def test_a_dataset_gets_another_name(tmp_path: Path):
    model = make_model(tmp_path / "made")
    chosen = [{"configuration": "3d_fullres", "trainer": "SegmentationTrainer", "plans_identifier": "tiny"}]
    best = {"selected_model_or_models": chosen, "postprocessing_file": str(model / "postprocessing.pkl")}
    write_text(model.parent / "inference_information.json", json.dumps({"best_model_or_ensemble": best}))
    path = make_bundle(tmp_path, model).path
    said: list[str] = []
    install_bundle(path, tmp_path / "results", report=said.append)
    install_bundle(path, tmp_path / "results", dataset="Dataset007_Copy", report=said.append)
    assert any("Dataset007_Tiny has the same number as Dataset007_Copy" in text for text in said)
    copy = tmp_path / "results/Dataset007_Copy"
    assert json.loads((copy / model.name / "plans.json").read_text())["dataset_name"] == "Dataset007_Copy"
    information = json.loads((copy / "inference_information.json").read_text())["best_model_or_ensemble"]
    assert information["postprocessing_file"] == f"Dataset007_Copy/{model.name}/postprocessing.pkl"
    assert Predictor(copy / model.name, device="cpu").predict(np.zeros((8, 8, 8))).shape == (8, 8, 8)
    assert_refused(path, "no name of a dataset", dataset="Tiny")
    assert_refused(path, "no name of a dataset", dataset="../Dataset001_A")


def test_the_stages_of_a_cascade_are_listed_in_order(tmp_path: Path):
    make_model(tmp_path / "made", "3d_lowres")
    bundle = make_bundle(tmp_path, make_model(tmp_path / "made", "3d_cascade_fullres"))
    models = install_bundle(bundle.path, tmp_path / "results", report=lambda text: None)
    assert [model.configuration for model in models] == ["3d_lowres", "3d_cascade_fullres"]


# ---------------------------------------------------------------- the card and the members


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda card: card.update(format_version=2), "has format version 2; .* reads version 1. Install a newer"),
        (lambda card: card.update(format="other"), "is no description of a model"),
        (lambda card: card.update(licence=7), "licence: found 7, expected text"),
        (lambda card: card.update(models=[]), "'models' lists no model"),
        (lambda card: card.pop("files"), "lists no 'files'"),
        (lambda card: card["files"].pop(f"{MODEL}/plans.json"), "plans.json': it is not listed in the bundle's card"),
        (lambda card: card["files"].update({f"{MODEL}/x.json": {"sha256": "", "size": 1}}), "are missing, such as"),
        (lambda card: card["files"][CHECKPOINT].update(size=3), r"checkpoint_final.pth': it has \d+ bytes, but .* 3"),
        (lambda card: card["files"][CHECKPOINT].update(sha256="0" * 64), "checkpoint_final.pth': its SHA-256 differs"),
        (lambda card: card["models"][0].update(folder="A__B__C"), "lists the models A__B__C, it holds Segm"),
        (lambda card: card.update(dataset="Dataset001_A"), "its card is of Dataset001_A, its files of Dataset007"),
        (lambda card: card["labels"].update(left=2, right=1), "channels or labels on its card are not those of"),
    ],
)
def test_a_card_that_does_not_fit_is_refused(
    change: Callable[[dict[str, Any]], object], message: str, tmp_path: Path, bundle: Path
):
    members = contents(bundle)
    card = json.loads(members[CARD])
    change(card)
    members[CARD] = json.dumps(card).encode()
    assert_refused(write_zip(tmp_path / "m.zip", members.items()), message)


def test_texts_of_a_card_cannot_repaint_the_terminal(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    bundle = make_bundle(tmp_path, licence="free\x1b[2J\x1b]0;title\x07")
    assert fw_import([str(bundle.path), "--into", str(tmp_path / "results")]) == 0
    shown = capsys.readouterr().out
    assert "free?[2J?]0;title?" in shown
    assert "\x1b" not in shown


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({f"{MODEL}/plans.json": None}, "lacks plans.json, so it cannot predict"),
        ({CHECKPOINT: None}, "lacks a checkpoint"),
        ({f"{MODEL}/plans.json": b"{"}, "plans.json is not valid JSON"),
        ({f"{MODEL}/plans.json": b"[" * 100_000}, "plans.json is not valid JSON"),
        ({f"{MODEL}/plans.json": b'{"a": ' + b"9" * 5000 + b"}"}, "plans.json is not valid JSON"),
        ({f"{MODEL}/plans.json": b"[]"}, "plans.json: this is no plans file"),
        (
            {f"{MODEL}/plans.json": b'{"configurations": {"3d_fullres": {"UNet_class_name": 1}}}'},
            "UNet_class_name: found 1, expected text",
        ),
        ({f"{MODEL}/plans.json": b'{"configurations": {"2d": {}}}'}, "configuration '3d_fullres' is not known"),
        ({f"{MODEL}/dataset.json": b'{"labels": {"background": 0}}'}, "nothing but background"),
        ({f"{MODEL}/fold_0/more.pth": b""}, "expected as fold_X/checkpoint_NAME.pth"),
        ({f"{DATASET}/checkpoint_final.pth": b""}, "expected in a model's folder"),
        ({f"{DATASET}/notes.txt": b""}, "belongs to no model"),
    ],
)
def test_content_that_is_no_model_is_refused(
    changes: dict[str, bytes | None], message: str, tmp_path: Path, bundle: Path
):
    for card in (True, False):
        assert_refused(repacked(bundle, tmp_path / "m.zip", changes, card), message)


# ---------------------------------------------------------------- what could run code


class _Evil:
    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return (Path.touch, (self.path,))


def test_pickles_that_run_code_are_refused_and_not_run(tmp_path: Path, bundle: Path):
    touched = tmp_path / "touched"
    evil = pickle.dumps([_Evil(touched)])
    for name in ("crossval_results_folds_0/postprocessing.pkl", "fold_0/validation/case.pkl"):
        path = repacked(bundle, tmp_path / "m.zip", {f"{MODEL}/{name}": evil})
        assert_refused(path, r"\.pkl is refused: it names pathlib")
    state = checkpoint("3d_fullres", "0", 0)
    for changed in ({"network_weights": state["network_weights"] | {"x": _Evil(touched)}}, {"y": _Evil(touched)}):
        path = repacked(bundle, tmp_path / "m.zip", {CHECKPOINT: saved(state | changed)})
        assert_refused(path, "checkpoint_final.pth cannot be read: .*not safe to load")
    assert_refused(repacked(bundle, tmp_path / "m.zip", {CHECKPOINT: evil}), "no checkpoint of torch 1.6 or later")
    assert not touched.exists()


def test_the_rule_of_nnunets_postprocessing_is_the_only_function_a_pickle_may_name(tmp_path: Path, bundle: Path):
    home, rule = "nnunetv2.postprocessing.remove_connected_components", "remove_all_but_largest_component"
    good = f"(lc{home}\n{rule}_from_segmentation\na(l(da\x86.".encode("latin-1")
    name = f"{MODEL}/crossval_results_folds_0/postprocessing.pkl"
    model = install(repacked(bundle, tmp_path / "good.zip", {name: good}), tmp_path / "good")
    assert (model / "crossval_results_folds_0/postprocessing.pkl").read_bytes() == good
    for bad in (good.replace(b"_from_segmentation", b""), good.replace(b"\na(l", b"\n(d\x81a(l"), good[:-1]):
        assert_refused(repacked(bundle, tmp_path / "m.zip", {name: bad}), "postprocessing.pkl")


@pytest.mark.parametrize(
    ("location", "message"),
    [
        ("my_trainers.py:Wide", "names a Python file, and code does not travel"),
        ("/tmp/my_trainers.py:Wide", "names a Python file"),
        ("not_installed_here.trainers:Wide", "the package 'not_installed_here' .* is not installed"),
        ("code:interact", "the package 'code' .* is not installed"),  # the standard library has no networks
        ("working_folder_module:Wide", "is not installed"),
        ("a b:c", "is no name of a class"),
    ],
)
def test_a_trainer_class_must_come_from_an_installed_package(
    location: str, message: str, tmp_path: Path, bundle: Path, monkeypatch: pytest.MonkeyPatch
):
    write_text(tmp_path / "here/working_folder_module.py", "raise SystemExit('imported')")
    monkeypatch.chdir(tmp_path / "here")
    state = checkpoint("3d_fullres", "0", 0) | {"trainer_name": "Wide", "foldwise": {"trainer": location}}
    assert_refused(repacked(bundle, tmp_path / "m.zip", {CHECKPOINT: saved(state)}), message)


def test_the_user_can_name_the_class_that_a_model_needs(tmp_path: Path):
    wide = {"trainer_name": "Wide", "foldwise": {"trainer": "/home/somebody/wide.py:Wide"}}
    bundle = make_bundle(tmp_path, make_model(tmp_path / "made", state=wide))
    write_text(tmp_path / "mine.py", "from trainers import SegmentationTrainer\nclass Wide(SegmentationTrainer): ...\n")
    options = ["--into", str(tmp_path / "results")]
    assert fw_import([str(bundle.path), *options]) == 2
    assert fw_import([str(bundle.path), *options, "--trainer", f"{tmp_path}/mine.py:Wide"]) == 0
    labels = Predictor(tmp_path / "results" / MODEL, device="cpu").predict(np.zeros((8, 8, 8)))
    assert labels.shape == (8, 8, 8)


def test_a_plain_network_cannot_hide_a_trainer_class(tmp_path: Path, bundle: Path):
    hidden = checkpoint("3d_fullres", "0", 0) | {"foldwise": {"trainer": "evil.py:Evil"}}
    model = install(repacked(bundle, tmp_path / "m.zip", {CHECKPOINT: saved(hidden)}), tmp_path / "results")
    assert "foldwise" not in torch.load(model / "fold_0/checkpoint_final.pth", weights_only=True)


@pytest.mark.parametrize(
    ("place", "value"),
    [
        (("trainer",), "evil.py:Evil"),
        (("training",), {"hooks": [{"name": "working_folder_module:Hook"}]}),
        (("training",), {"hooks": ["../evil.py:Hook"]}),
        (("augmentation",), {"evil.py:Transform": {}}),
        (("architecture", "network_class_name"), "evil.Net"),
        (("architecture", "network_class_name"), "evil.py:Net"),
        (("architecture", "arch_kwargs", "nonlin"), "os.system"),
    ],
)
def test_plans_name_classes_of_installed_packages_only(
    place: tuple[str, ...], value: Any, tmp_path: Path, bundle: Path
):
    plans = json.loads(contents(bundle)[f"{MODEL}/plans.json"])
    block = plans["configurations"]["3d_fullres"]
    for key in place[:-1]:
        block = block[key]
    block[place[-1]] = value
    for name in ("plans.json", "fold_0/plans.json"):
        path = repacked(bundle, tmp_path / "m.zip", {f"{MODEL}/{name}": json.dumps(plans).encode()})
        assert_refused(path, rf"{name}: .*(names a Python file|is not installed)")


# ---------------------------------------------------------------- checkpoints


def test_checkpoints_that_cannot_predict_are_refused(tmp_path: Path, bundle: Path):
    state = checkpoint("3d_fullres", "0", 0)
    weights = state["network_weights"]
    first = next(iter(weights))
    huge = torch.zeros(1).expand(1_000_000, 1_000_000)
    for changed, message in (
        ({"network_weights": {}}, "holds no weights"),
        ({"network_weights": weights | {"x": "text"}}, "'x' among the weights is no tensor"),
        ({"network_weights": weights | {first: torch.full_like(weights[first], float("nan"))}}, "not finite, such as"),
        ({"network_weights": weights | {"x": huge}}, r"\[1000000, 1000000\] is larger than what is stored"),
        ({"init_args": {"configuration": "2d"}}, "trained with configuration '2d', but lies in the folder of '3d_full"),
        ({"init_args": None}, "trained with configuration None"),
        ({"trainer_name": "a.b"}, "trainer_name is 'a.b'"),
        ({"inference_allowed_mirroring_axes": (0, 7)}, "expected axes 0 to 2"),
    ):
        path = repacked(bundle, tmp_path / "m.zip", {CHECKPOINT: saved(state | changed)})
        assert_refused(path, f"{CHECKPOINT}.*{message}")
    only_weights = repacked(bundle, tmp_path / "m.zip", {CHECKPOINT: saved({"state_dict": {}})})
    assert_refused(only_weights, "no entry 'network_weights'")


def test_a_packed_checkpoint_is_refused_before_it_fills_the_memory(tmp_path: Path, bundle: Path):
    state = checkpoint("3d_fullres", "0", 0)
    state["network_weights"]["zeros"] = torch.zeros(5_000_000)
    packed = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(saved(state))) as source, zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as to:
        for info in source.infolist():
            to.writestr(info.filename, source.read(info))
    assert_refused(repacked(bundle, tmp_path / "m.zip", {CHECKPOINT: packed.getvalue()}), "is packed; .* bytes unpack")


def test_a_zip_as_nnunet_exports_it_is_installed(tmp_path: Path, bundle: Path):
    state = checkpoint("3d_fullres", "0", 0)
    del state["foldwise"]
    old = state | {
        "_best_ema": np.float32(0.5),
        "logging": {"lrs": [np.float64(0.1)]},
        "trainer_name": "nnUNetTrainerX",
    }
    old["init_args"] |= {"device": torch.device("cpu")}
    others = {
        f"{MODEL}/fold_0/progress.png": b"",
        f"{MODEL}/fold_0/debug.json": b"{}",
        f"{MODEL}/fold_0/plans.json": None,
    }
    path = repacked(bundle, tmp_path / "m.zip", {CHECKPOINT: saved(old)} | others, card=False)
    said: list[str] = []
    [model] = install_bundle(path, tmp_path / "results", report=said.append)
    assert "There are no checksums to compare with" in said[0]
    loaded = torch.load(model.folder / "fold_0/checkpoint_final.pth", weights_only=True)
    assert set(loaded) == {"network_weights", "trainer_name", "init_args", "inference_allowed_mirroring_axes"}
    assert loaded["trainer_name"] == "nnUNetTrainerX"
    card = json.loads((model.folder / "foldwise_model.json").read_text())
    assert (card["licence"], card["models"][0]["nnunet_trainer"]) == (None, "nnUNetTrainerX")
    assert Predictor(model.folder, device="cpu").predict(np.zeros((8, 8, 8))).shape == (8, 8, 8)


def test_what_other_programs_add_to_a_zip_is_left_out(tmp_path: Path, bundle: Path):
    litter = {"__MACOSX/._x": b"", f"{DATASET}/.DS_Store": b"", f"{MODEL}/": b""}
    path = repacked(bundle, tmp_path / "m.zip", litter, card=False)
    install(path, tmp_path / "results")
    assert not any("DS_Store" in name or "MACOSX" in name for name in tree(tmp_path / "results"))


# ---------------------------------------------------------------- failures on the way


def test_a_full_disk_leaves_nothing_behind(tmp_path: Path, bundle: Path):
    results = tmp_path / "results"
    code = (
        "import resource, sys; resource.setrlimit(resource.RLIMIT_FSIZE, (5000, 5000));"
        "from framework.commands.import_model import main; sys.exit(main(sys.argv[1:]))"
    )
    command = [sys.executable, "-c", code, str(bundle), "--into", str(results)]
    root = str(Path(__file__).resolve().parents[3])
    result = subprocess.run(command, capture_output=True, text=True, env=os.environ | {"PYTHONPATH": root})
    assert result.returncode == 2, result.stderr
    assert "checkpoint_final.pth could not be written" in result.stderr
    assert "Traceback" not in result.stderr
    assert not results.exists()


def test_too_little_space_is_told_before_anything_is_written(
    tmp_path: Path, bundle: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(shutil, "disk_usage", lambda path: shutil._ntuple_diskusage(100, 90, 10))
    assert_refused(bundle, "unpacks to .* GB, but .* has 0.00 GB free", tmp_path / "results")


def test_what_was_moved_aside_comes_back_when_a_later_step_fails(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    lowres = make_model(tmp_path / "made", "3d_lowres")
    path = make_bundle(tmp_path, lowres, make_model(tmp_path / "made")).path
    results = tmp_path / "results"
    install(path, results)
    before = {file: file.read_bytes() for file in results.rglob("*") if file.is_file()}
    rename, count = Path.rename, 0

    def fails_at_the_end(self: Path, target: Path) -> Path:
        nonlocal count
        count += 1
        if count == 4:
            raise OSError(5, "Input/output error", str(target))
        return rename(self, target)

    monkeypatch.setattr(Path, "rename", fails_at_the_end)
    with pytest.raises(FoldwiseError, match=r"Input/output error.*Nothing was imported"):
        install(path, results, overwrite=True)
    assert {file: file.read_bytes() for file in results.rglob("*") if file.is_file()} == before
    assert [entry.name for entry in results.iterdir()] == [DATASET]


def test_a_model_that_is_being_trained_is_not_moved_aside(tmp_path: Path, bundle: Path):
    results = tmp_path / "results"
    model = install(bundle, results)
    code = (
        "import sys; from framework.run_folder import RunFolder; run = RunFolder(sys.argv[1]); run.lock();"
        "print(1, flush=True); input()"
    )
    root = str(Path(__file__).resolve().parents[3])
    trainer = subprocess.Popen(
        [sys.executable, "-c", code, str(model / "fold_0")],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env=os.environ | {"PYTHONPATH": root},
    )
    try:
        assert trainer.stdout is not None
        trainer.stdout.readline()
        with pytest.raises(FoldwiseError, match="is being trained by"):
            install(bundle, results, overwrite=True)
        assert (model / "fold_0/checkpoint_final.pth").is_file()
        assert [entry.name for entry in results.iterdir()] == [DATASET]
    finally:
        trainer.communicate(b"\n")
