"""The code on the documentation's pages is run, and the README says what CI runs."""

from __future__ import annotations

import re
import sys
from pathlib import Path

import pytest

from framework.commands.train import main as fw_train
from tests.builders import make_tiny_dataset, use_roots

ROOT = Path(__file__).resolve().parents[1]


def blocks(page: str) -> list[str]:
    """The Python code on a page, in order."""
    return re.findall(r"^```python\n(.*?)^```", (ROOT / page).read_text(encoding="utf-8"), re.DOTALL | re.MULTILINE)


@pytest.fixture
def documented_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Save the blocks that begin with a file name as those files; return the others."""
    monkeypatch.syspath_prepend(str(tmp_path))
    others = []
    for block in blocks("docs/write_a_trainer.md"):
        name = re.match(r"# (\w+\.py)\n", block)
        if name:
            (tmp_path / name[1]).write_text(block)
        else:
            others.append(block)
    yield others
    for module in ("my_trainers", "my_hooks", "line_trainer"):
        sys.modules.pop(module, None)


def test_a_trainer_that_is_not_segmentation_runs_from_python_and_from_plans(
    documented_files: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    use_roots(tmp_path, monkeypatch)
    in_python = next(block for block in documented_files if "LineTrainer(" in block)
    exec(compile("from line_trainer import LineTrainer\n" + in_python, "docs", "exec"), {})
    assert float(capsys.readouterr().out.splitlines()[-1]) < 0.5
    plans = tmp_path / "preprocessed/Dataset900_Line/line.json"
    plans.parent.mkdir()
    json_line = re.search(
        r'^    (\{"configurations".*\})$', (ROOT / "docs/write_a_trainer.md").read_text(encoding="utf-8"), re.MULTILINE
    )
    assert json_line is not None
    plans.write_text(json_line[1].replace('"num_epochs": 20', '"num_epochs": 2, "iterations_per_epoch": 5'))
    assert fw_train(["900", "line", "0", "--code", "line_trainer.py"]) == 0
    assert (tmp_path / "results/Dataset900_Line/LineTrainer__line__line/fold_0/checkpoint_final.pth").exists()


@pytest.mark.slow
def test_the_documented_trainers_and_hooks_run(
    documented_files: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    use_roots(tmp_path, monkeypatch)
    make_tiny_dataset(tmp_path / "raw")
    short = [
        "-p", "laptop", "-device", "cpu", "--set=training.num_epochs=2", "--set=training.iterations_per_epoch=2",
        "--set=training.validation_iterations_per_epoch=1", "--set=training.final_validation=false",
    ]  # fmt: skip
    assert fw_train(["7", "3d_fullres", "0", "-tr", "my_trainers.py:WideStemTrainer", *short]) == 0
    focal = '--set=training.loss_weights={"focal": {"name": "ramp", "start": 0, "stop": 50}}'
    assert fw_train(["7", "3d_fullres", "0", "-tr", "my_trainers.py:FocalTrainer", focal, *short]) == 0
    assert fw_train(["7", "3d_fullres", "0", "--hook", "my_hooks.py:WarnOnPlateau", *short]) == 0


@pytest.mark.slow
def test_the_documented_python_trains_and_predicts_the_example(
    documented_files: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.chdir(tmp_path)
    code = [block for block in documented_files if "from_dataset" in block or "Predictor(" in block]
    names: dict[str, object] = {}
    for block in code:
        block = block.replace(
            '"training.num_epochs": 1', '"training.num_epochs": 1, "training.iterations_per_epoch": 4'
        )
        exec(compile(block, "docs", "exec"), names)
    assert len(list((tmp_path / "predicted").glob("*.nii.gz"))) == 40


def test_ci_runs_the_readmes_test_command():
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    assert "README.md" in (ROOT / ".ci/run").read_text(encoding="utf-8")
    command = re.search(r"<!-- test command -->\n```\w*\n(.*?)```", readme, re.DOTALL)
    assert command is not None
    assert "pytest" in command[1]


def test_pages_that_are_linked_exist():
    for page in [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *(ROOT / "docs").rglob("*.md")]:
        for target in re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", page.read_text(encoding="utf-8")):
            assert (page.parent / target).exists(), f"{page.name} links to {target}"
