from __future__ import annotations

from pathlib import Path

import pytest

from framework.errors import FoldwiseError, UnknownNameError
from framework.extensions import find_trainer, location_of, trainer_table
from framework.hooks import find_hook
from framework.hooks.early_stopping import EarlyStopping

FILE = """
from framework.hook import Hook
class Watch(Hook):
    def on_epoch_end(self, trainer): ...
class Other: ...
"""


def test_a_class_is_found_in_a_file_and_found_again(tmp_path: Path):
    (tmp_path / "mine.py").write_text(FILE)
    cls = find_hook(f"{tmp_path}/mine.py:Watch")
    assert cls is find_hook("mine.py:Watch")
    assert find_hook(location_of(cls)) is cls


def test_a_class_is_found_by_module_and_by_table():
    assert find_hook("framework.hooks.early_stopping:EarlyStopping") is EarlyStopping
    assert find_hook("EarlyStopping") is EarlyStopping


def test_an_installed_package_announces_its_trainers():
    assert trainer_table()["SegmentationTrainer"] == "trainers.segmentation:SegmentationTrainer"
    assert issubclass(find_trainer("nnUNetTrainer"), find_trainer("trainers:SegmentationTrainer"))


def test_mistakes_are_told(tmp_path: Path):
    (tmp_path / "mine.py").write_text(FILE)
    with pytest.raises(UnknownNameError, match="Did you mean 'EarlyStopping'"):
        find_hook("EarlyStoping")
    with pytest.raises(UnknownNameError, match="Did you mean 'Watch'"):
        find_hook("mine.py:Wach")
    with pytest.raises(FoldwiseError, match="is not a Hook"):
        find_hook("mine.py:Other")
    with pytest.raises(FoldwiseError, match="does not exist"):
        find_hook("nothing.py:Watch")
    with pytest.raises(FoldwiseError, match="module 'no_such_module' cannot be found"):
        find_trainer("no_such_module:Trainer")
    with pytest.raises(FoldwiseError, match="is not a BaseTrainer"):
        find_trainer("mine.py:Watch")
