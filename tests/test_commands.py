"""The commands as a user meets them: exit codes, one clear message for each mistake, nothing half written."""

from __future__ import annotations

import json
import os
import resource
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import SimpleITK as sitk

from framework.commands.plan import main as fw_plan
from framework.commands.predict import main as fw_predict
from framework.commands.preprocess import main as fw_preprocess
from framework.commands.train import main as fw_train
from tests.builders import TINY, make_tiny_dataset, overrides_as_options, use_roots

OPTIONS = ["-p", "laptop", "-device", "cpu", *overrides_as_options(TINY)]


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny dataset, planned and preprocessed once."""
    folder = tmp_path_factory.mktemp("commands")
    with pytest.MonkeyPatch.context() as patch:
        use_roots(folder, patch)
        make_tiny_dataset(folder / "raw")
        assert fw_preprocess(["7", "-p", "laptop", "-c", "3d_fullres"]) == 0
    return folder


@pytest.fixture
def ready(prepared: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    use_roots(prepared, monkeypatch)
    monkeypatch.setenv("FW_RESULTS", str(tmp_path / "results"))
    return tmp_path


@pytest.fixture
def raw(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A tiny raw dataset of the test's own, to be damaged."""
    use_roots(tmp_path, monkeypatch)
    return make_tiny_dataset(tmp_path / "raw")


def refused(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    """The message of a command that must end with exit code 2 and without a traceback."""
    capsys.readouterr()
    assert fw_train([*arguments]) == 2
    message = capsys.readouterr().err
    assert message.startswith("error: ")
    assert "Traceback" not in message
    return message


def results_are_empty(folder: Path) -> bool:
    return not any(path.is_file() for path in (folder / "results").rglob("*"))


def test_train_validate_continue_and_predict(ready: Path, prepared: Path, capsys: pytest.CaptureFixture[str]):
    assert fw_train(["7", "3d_fullres", "0", *OPTIONS]) == 0
    run = ready / "results/Dataset007_Tiny/SegmentationTrainer__laptop__3d_fullres/fold_0"
    first = json.loads((run / "validation/summary.json").read_text())
    assert "mean validation Dice" in capsys.readouterr().out
    assert fw_train(["7", "3d_fullres", "0", "-p", "laptop", "-device", "cpu", "--val", "--npz"]) == 0
    assert json.loads((run / "validation/summary.json").read_text())["mean"] == first["mean"]
    assert len(list((run / "validation").glob("*.npz"))) == 2
    assert fw_train(["7", "3d_fullres", "0", "-p", "laptop", "-device", "cpu", "--c"]) == 0
    assert "2 of 2 epochs completed" in capsys.readouterr().out
    images = str(prepared / "raw/Dataset007_Tiny/imagesTr")
    arguments = ["-i", images, "-o", str(ready / "out"), "-d", "7", "-c", "3d_fullres", "-p", "laptop", "-f", "0"]
    assert fw_predict([*arguments, "-device", "cpu"]) == 0
    assert len(list((ready / "out").glob("*.nii.gz"))) == 6


def test_a_trainer_and_a_hook_from_files_outside_the_package(ready: Path, capsys: pytest.CaptureFixture[str]):
    (ready / "mine.py").write_text(
        """
from torch import nn
from framework.hook import Hook
from trainers import SegmentationTrainer

class TanhTrainer(SegmentationTrainer):
    def build_network(self):
        network = super().build_network()
        return nn.Sequential(nn.Conv3d(self.num_input_channels, 4, 3, padding=1), nn.Tanh(),
                             nn.Conv3d(4, self.num_output_channels, 1))

class Greet(Hook):
    def on_train_start(self, trainer):
        trainer.report("greetings")
"""
    )
    own = ["-tr", str(ready / "mine.py:TanhTrainer"), "--hook", str(ready / "mine.py:Greet")]
    assert fw_train(["7", "3d_fullres", "0", *own, *OPTIONS]) == 0
    assert "greetings" in capsys.readouterr().out
    run = ready / "results/Dataset007_Tiny/TanhTrainer__laptop__3d_fullres/fold_0"
    assert (run / "checkpoint_final.pth").exists()


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["8", "3d_fullres", "0"], "dataset '8' was not found"),
        (["Tinny", "3d_fullres", "0"], "Did you mean 'Tiny'?"),
        (["7", "3d_fulres", "0", "-p", "laptop"], "configuration '3d_fulres' is not known. Did you mean '3d_fullres'?"),
        (["7", "3d_fullres", "zero", "-p", "laptop"], "fold 'zero' is not known. Use 0, 1, 2, 3, 4, or all."),
        (["7", "3d_fullres", "-1", "-p", "laptop"], "fold '-1' is not known"),
        (["7", "3d_fullres", "0", "-p", "labtop"], "Did you mean 'laptop'?"),
        (["7", "3d_fullres", "0", "-tr", "SegmentationTrainr"], "Did you mean 'SegmentationTrainer'?"),
        (["7", "3d_fullres", "0", "-tr", "nothing.py:T"], "does not exist"),
        (["7", "3d_fullres", "0", "--hook", "EarlyStoping"], "Did you mean 'EarlyStopping'?"),
        (["7", "3d_fullres", "0", "-p", "laptop", "--set", "training.num_epoch=3"], "Did you mean 'num_epochs'?"),
        (["7", "3d_fullres", "0", "-p", "laptop", "--set", "training.num_epochs"], "expected PATH=VALUE"),
        (["7", "3d_fullres", "0", "-p", "laptop", "--set", "augmentation.rotatoin=null"], "Did you mean 'rotation'?"),
        (["7", "3d_fullres", "0", "-p", "laptop", "-device", "tpu"], "-device tpu: not known"),
        (["7", "3d_fullres", "0", "-p", "laptop", "--val"], "checkpoint_final.pth does not exist"),
        (["7", "3d_fullres", "0", "-p", "laptop", "-pretrained_weights", "no.pth"], "no.pth does not exist"),
    ],
)
def test_wrong_arguments(ready: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], expected: str):
    assert expected in refused(capsys, *arguments)
    assert results_are_empty(ready)


def test_missing_roots(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]):
    monkeypatch.setenv("FW_RAW", str(tmp_path / "nowhere"))
    assert "is not a folder. Set FW_RAW" in refused(capsys, "7", "3d_fullres", "0")


def test_plans_with_an_unknown_field(ready: Path, prepared: Path, capsys: pytest.CaptureFixture[str]):
    plans = json.loads((prepared / "preprocessed/Dataset007_Tiny/laptop.json").read_text())
    plans["configurations"]["3d_fullres"]["batchsize"] = 3
    broken = prepared / "preprocessed/Dataset007_Tiny/broken.json"
    broken.write_text(json.dumps(plans))
    try:
        message = refused(capsys, "7", "3d_fullres", "0", "-p", "broken")
    finally:
        broken.unlink()
    assert "'batchsize' is not a known field. Did you mean 'batch_size'?" in message


def _image(raw: Path, number: int = 0) -> Path:
    return sorted((raw / "imagesTr").iterdir())[number]


def _edit(path: Path, change: Any) -> None:
    image = sitk.ReadImage(str(path))
    array = change(sitk.GetArrayFromImage(image))
    edited = sitk.GetImageFromArray(array)
    if array.shape == sitk.GetArrayFromImage(image).shape:
        edited.CopyInformation(image)
    sitk.WriteImage(edited, str(path))


def _set_voxel(array: np.ndarray, value: float) -> np.ndarray:
    array = array.astype(np.float32)
    array[1, 2, 3] = value
    return array


def _break_scan_missing(raw: Path) -> str:
    _image(raw).unlink()
    return "label"


def _break_shape(raw: Path) -> str:
    _edit(sorted((raw / "labelsTr").iterdir())[0], lambda a: a[:-1])
    return "shape"


def _break_label_value(raw: Path) -> str:
    _edit(sorted((raw / "labelsTr").iterdir())[0], lambda a: np.where(a == 2, 7, a))
    return "7"


def _break_nan(raw: Path) -> str:
    _edit(_image(raw), lambda a: _set_voxel(a, np.nan))
    return "NaN"


def _break_truncated(raw: Path) -> str:
    path = _image(raw)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    return "trunc"


@pytest.mark.parametrize(
    "damage", [_break_scan_missing, _break_shape, _break_label_value, _break_nan, _break_truncated]
)
def test_a_damaged_raw_dataset(raw: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], damage: Any):
    case = _image(raw).name.removesuffix("_0000.nii.gz")
    expected = damage(raw)
    message = refused(capsys, "7", "3d_fullres", "0", *OPTIONS)
    assert case in message
    assert expected in message
    assert results_are_empty(tmp_path)
    # Nothing half written: what is there of a case is complete.
    for path in (tmp_path / "preprocessed").rglob("*.b2nd"):
        assert path.with_name(path.name.replace("_seg.b2nd", ".b2nd").replace(".b2nd", ".pkl")).exists()
    assert not list((tmp_path / "preprocessed").rglob("*.tmp*"))


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="limits file sizes as Linux does")
def test_a_full_disk_while_writing(raw: Path, tmp_path: Path):
    # A limit on the size of files fails like a full disk, in the middle of a write.
    def limit() -> None:
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (4000, 4000))

    command = [sys.executable, "-m", "framework.commands.preprocess", "7", "-p", "laptop", "-c", "3d_fullres"]
    result = subprocess.run(
        command, capture_output=True, text=True, preexec_fn=limit, cwd=Path(__file__).parents[1], env={**os.environ}
    )
    assert result.returncode == 2, result.stderr
    assert "could not be written" in result.stderr
    assert "Traceback" not in result.stderr
    leftovers = [path for path in (tmp_path / "preprocessed").rglob("*") if path.is_file() and "tmp" in path.name]
    assert not leftovers


def test_planning_twice_overwrites_nothing(raw: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    assert fw_plan(["7"]) == 0
    plans = tmp_path / "preprocessed/Dataset007_Tiny/nnUNetPlans.json"
    before = plans.read_text()
    assert fw_plan(["7"]) == 0
    edited = json.loads(before)
    edited["configurations"]["2d"]["batch_size"] = 99
    plans.write_text(json.dumps(edited))
    assert fw_plan(["7"]) == 2
    assert "batch_size" in capsys.readouterr().err
    assert json.loads(plans.read_text()) == edited


@pytest.mark.skipif(os.name == "nt", reason="signals as POSIX knows them")
def test_a_signal_saves_a_checkpoint_and_exits_with_75(ready: Path):
    command = [sys.executable, "-m", "framework.commands.train", "7", "3d_fullres", "0", *OPTIONS]
    command += ["--set=training.num_epochs=100000"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=Path(__file__).parents[1])
    run = ready / "results/Dataset007_Tiny/SegmentationTrainer__laptop__3d_fullres/fold_0"
    deadline = time.monotonic() + 120
    while not (run / "history.jsonl").exists() and time.monotonic() < deadline:
        time.sleep(0.1)
    process.send_signal(signal.SIGTERM)
    output, _ = process.communicate(timeout=60)
    assert process.returncode == 75, output
    assert (run / "checkpoint_latest.pth").exists()
    assert "Continue with --c" in output
