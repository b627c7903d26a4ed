"""Plans and checkpoints that name code which was never meant to run here."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from framework import named_code
from framework.checkpoint import save_checkpoint
from framework.commands.common import vouch_for_code
from framework.commands.predict import main as fw_predict
from framework.commands.train import build_parser as train_parser
from framework.commands.train import main as fw_train
from framework.errors import FoldwiseError, PlansError
from framework.experiment import Experiment
from framework.extensions import find_trainer
from framework.hooks import hooks_from_settings
from framework.inference import Predictor
from framework.named_code import vouch_for, why_not_run
from framework.networks.build import find_network_class
from framework.plans import Plans
from framework.roots import results_root
from framework.run_folder import RunFolder
from tests.builders import make_tiny_dataset, use_roots
from tests.framework.sharing.builder import checkpoint, make_model, tiny_plans
from tests.framework.tiny_model import make_scan

REPOSITORY = Path(__file__).resolve().parents[2]
TRAP = """
from pathlib import Path
Path({marker!r}).touch()
from torch import nn
from framework.augmentation import IntensityTransform
from framework.hook import Hook
from trainers import SegmentationTrainer

class Trap(SegmentationTrainer): ...
class TrapHook(Hook): ...
class TrapTransform(IntensityTransform): ...
class TrapNet(nn.Module):
    def __init__(self, input_channels, num_classes):
        super().__init__()
        self.layer = nn.Conv3d(input_channels, num_classes, 1)
    def forward(self, x):
        return self.layer(x)
"""


@pytest.fixture
def marker(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Is there as soon as ``trap.py``, beside which the test works, has run."""
    monkeypatch.setattr(named_code, "_vouched_for", set())
    path = tmp_path / "the trap has run"
    (tmp_path / "trap.py").write_text(TRAP.format(marker=str(path)))
    return path


def plans_with(**changes: Any) -> dict[str, Any]:
    plans = tiny_plans()
    plans["configurations"]["3d_fullres"] |= changes
    return plans


def architecture_with(**changes: Any) -> dict[str, Any]:
    return {"architecture": tiny_plans()["configurations"]["3d_fullres"]["architecture"] | changes}


@pytest.mark.parametrize(
    "name",
    ["trap.TrapNet", "trap:TrapNet", "trap.py:TrapNet", "./trap.py:TrapNet", "antigravity.Net", "pip.__main__.Net"],
)
def test_a_network_of_a_file_that_happens_to_lie_here_is_not_imported(
    name: str, marker: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.syspath_prepend(tmp_path)  # as ``python -m`` does
    with pytest.raises(PlansError, match=r"is not (run|installed)"):
        find_network_class(name)
    assert not marker.exists()
    assert "antigravity" not in sys.modules


def test_a_folder_with_the_name_of_a_package_does_not_stand_for_it(
    marker: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "trap.py").rename(tmp_path / "blosc2_or_so.py")
    monkeypatch.setitem(sys.modules, "blosc2_or_so", None)
    monkeypatch.delitem(sys.modules, "blosc2_or_so")
    monkeypatch.setattr(named_code.importlib.metadata, "packages_distributions", lambda: {"blosc2_or_so": ["blosc2"]})
    assert "is not installed, it lies in" in str(why_not_run("blosc2_or_so.TrapNet"))
    assert not marker.exists()


def test_metadata_in_the_working_folder_install_nothing(marker: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.syspath_prepend(tmp_path)
    information = tmp_path / "trap-1.0.dist-info"
    information.mkdir()
    (information / "METADATA").write_text("Name: trap\nVersion: 1.0\n")
    (information / "top_level.txt").write_text("trap\n")
    named_code._folders_of_distributions.cache_clear()
    with pytest.raises(PlansError, match="is not installed"):
        find_network_class("trap.TrapNet")
    named_code._folders_of_distributions.cache_clear()
    assert not marker.exists()


def test_networks_of_installed_packages_and_of_files_that_the_user_named_are_found(marker: Path):
    assert find_network_class("torch.nn.Linear") is torch.nn.Linear
    vouch_for("trap.py:TrapNet")
    assert find_network_class("trap.py:TrapNet").__name__ == "TrapNet"
    assert marker.exists()
    assert find_network_class("trap.py:TrapNet") is find_network_class(f"{marker.parent}/trap.py:TrapNet")


def test_what_is_imported_already_may_be_named():
    assert find_network_class("tests.framework.tiny_model.Levels").__name__ == "Levels"


def test_code_of_the_standard_library_is_no_network():
    for name in ("os.system", "subprocess.Popen", "builtins.eval"):
        with pytest.raises(PlansError, match=r"no torch.nn.Module|not installed|does not name a class"):
            find_network_class(name)


@pytest.mark.parametrize(
    "changes",
    [
        {"trainer": "trap.py:Trap"},
        {"trainer": "trap:Trap"},
        {"training": {"hooks": ["trap.py:TrapHook"]}},
        {"training": {"hooks": [{"name": "trap:TrapHook"}]}},
        {"augmentation": {"preset": "default", "trap.py:TrapTransform": {}}},
        {"augmentation": {"trap:TrapTransform": {}}},
        architecture_with(network_class_name="trap.py:TrapNet"),
        architecture_with(network_class_name="trap.TrapNet"),
    ],
)
def test_plans_of_a_training_do_not_run_a_file_that_nobody_named(
    changes: dict[str, Any],
    marker: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture,
):
    use_roots(tmp_path, monkeypatch)
    monkeypatch.syspath_prepend(tmp_path)
    make_tiny_dataset(tmp_path / "raw")
    folder = tmp_path / "preprocessed/Dataset007_Tiny"
    folder.mkdir()
    (folder / "tiny.json").write_text(json.dumps(plans_with(**changes)))
    (folder / "dataset.json").write_bytes((tmp_path / "raw/Dataset007_Tiny/dataset.json").read_bytes())
    if "trainer" in changes:
        assert fw_train(["7", "3d_fullres", "0", "-p", "tiny", "-device", "cpu"]) == 2
        assert "is not run because a file names it" in capsys.readouterr().err
    else:
        run_folder = RunFolder.of(tmp_path, "Dataset007_Tiny", "T", "tiny", "3d_fullres", 0)
        with pytest.raises(PlansError, match=r"is not run because a file names it.*--code"):
            Experiment.of_dataset(
                "Dataset007_Tiny",
                folder / "tiny.json",
                "3d_fullres",
                0,
                run_folder=run_folder,
                overrides={},
                resume=False,
            )
    assert not marker.exists()


def experiment(folder: Path, overrides: dict[str, Any], resume: bool = False) -> Experiment:
    """What `fw_train` makes of plans and ``--set``."""
    plans = folder / "preprocessed/Dataset007_Tiny/tiny.json"
    plans.parent.mkdir(parents=True, exist_ok=True)
    plans.write_text(json.dumps(tiny_plans()))
    run_folder = RunFolder.of(results_root(), "Dataset007_Tiny", "T", "tiny", "3d_fullres", 0)
    return Experiment.of_dataset(
        "Dataset007_Tiny", plans, "3d_fullres", 0, run_folder=run_folder, overrides=overrides, resume=resume
    )


def test_a_training_runs_the_code_that_its_command_line_names(
    marker: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    use_roots(tmp_path, monkeypatch)
    made = experiment(tmp_path, {"training.hooks": '["trap.py:TrapHook"]'})
    assert [hook.name for hook in hooks_from_settings(made.settings)] == ["TrapHook"]
    assert marker.exists()
    made.save()
    # The plans in the run folder name the file now; another process has to be told again.
    monkeypatch.setattr(named_code, "_vouched_for", set())
    for name in [name for name, module in sys.modules.items() if hasattr(module, "__file_of_extension__")]:
        monkeypatch.delitem(sys.modules, name)
    marker.unlink()
    with pytest.raises(PlansError, match=r"training.hooks: .*is not run because a file names it"):
        experiment(tmp_path, {}, resume=True)
    assert not marker.exists()
    options = train_parser().parse_args(["7", "3d_fullres", "0", "--c", "--code", "trap.py"])
    vouch_for_code(options)
    assert experiment(tmp_path, {}, resume=True).settings.hooks == ["trap.py:TrapHook"]


@pytest.mark.parametrize("path", ['augmentation["trap.py:TrapTransform"].probability', "augmentation.x"])
def test_a_path_or_a_value_of_an_override_names_code(
    path: str, marker: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    use_roots(tmp_path, monkeypatch)
    experiment(tmp_path, {path: '{"trap.py:TrapTransform": {}}'})
    assert why_not_run("trap.py:TrapTransform") is None


def model_that_names(trainer: str, folder: Path, **state: Any) -> Path:
    model = make_model(folder / "results")
    changed = checkpoint("3d_fullres", "0", 0) | {"trainer_name": "Trap", "foldwise": {"trainer": trainer}} | state
    save_checkpoint(model / "fold_0/checkpoint_final.pth", changed)
    return model


@pytest.mark.parametrize("trainer", ["trap.py:Trap", "trap:Trap"])
def test_prediction_does_not_run_the_file_that_a_checkpoint_names(
    trainer: str, marker: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    monkeypatch.syspath_prepend(tmp_path)
    model = model_that_names(trainer, tmp_path)
    with pytest.raises(FoldwiseError, match="is not run because a file names it"):
        Predictor(model, device="cpu")
    make_scan(tmp_path / "in/a_0000.nii.gz")
    arguments = ["-i", str(tmp_path / "in"), "-o", str(tmp_path / "out"), "-m", str(model), "-device", "cpu"]
    assert fw_predict(arguments) == 2
    assert "--code" in capsys.readouterr().err
    assert not marker.exists()
    assert fw_predict([*arguments, "-tr", trainer]) == 0
    assert marker.exists()


def test_a_trainer_that_changes_no_network_needs_no_file_to_predict(marker: Path, tmp_path: Path):
    model = model_that_names("/nowhere/trap.py:Trap", tmp_path, trainer_name="nnUNetTrainer")
    assert len(Predictor(model, device="cpu").networks) == 1
    assert not marker.exists()


def test_hooks_and_transforms_of_a_model_are_not_even_looked_for_in_prediction(marker: Path, tmp_path: Path):
    model = make_model(tmp_path / "results")
    plans = plans_with(training={"hooks": ["trap.py:TrapHook"]}, augmentation={"trap.py:TrapTransform": {}})
    for path in (model / "plans.json", model / "fold_0/plans.json"):
        path.write_text(json.dumps(plans))
    assert len(Predictor(model, device="cpu").networks) == 1
    assert not marker.exists()


def test_a_model_folder_does_not_replace_packages_that_are_imported_later(tmp_path: Path):
    """Looking for a class used to put the working folder in front of everything that is imported after it."""
    (tmp_path / "colorsys.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')")
    program = (
        "from framework.extensions import find_class\n"
        "find_class('framework.errors:FoldwiseError', base=ValueError, kind='error', table={})\n"
        "import colorsys"
    )
    environment = os.environ | {"PYTHONPATH": str(REPOSITORY)}
    program = f"import sys; sys.path = [p for p in sys.path if p not in ('', {str(tmp_path)!r})]\n{program}"
    subprocess.run([sys.executable, "-c", program], cwd=tmp_path, env=environment, check=True)
    assert not (tmp_path / "ran").exists()


def test_a_trainer_of_the_working_folder_is_found_where_the_user_names_it(marker: Path):
    assert find_trainer("trap.py:Trap").__name__ == "Trap"
    assert why_not_run("trap.py:Trap") is None


@pytest.mark.parametrize(
    "location", [None, 3, "", "a b:c", "x", ["trap.py:Trap"], "~nobody/x.py:Y", "a\x00.py:B", "é:Ü" * 900]
)
def test_what_is_no_name_of_a_class_is_refused(location: Any):
    assert isinstance(why_not_run(location), str)


def test_code_that_is_not_there_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any):
    use_roots(tmp_path, monkeypatch)
    assert fw_train(["7", "3d_fullres", "0", "--code", "trapp.py"]) == 2
    assert "--code trapp.py: there is no such file" in capsys.readouterr().err


def test_plans_need_no_code_to_be_read(marker: Path):
    plans = Plans(plans_with(trainer="trap.py:Trap", augmentation={"trap.py:TrapTransform": {}}))
    assert plans.configuration("3d_fullres").trainer == "trap.py:Trap"
    assert not marker.exists()
