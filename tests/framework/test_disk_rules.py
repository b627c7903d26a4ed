"""What a training does about files that cannot be written, or are damaged when it goes on."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch

import framework.checkpoint_writer as checkpoint_writer
from framework.base_trainer import BaseTrainer
from framework.checkpoint import load_checkpoint, save_checkpoint
from framework.errors import CheckpointError, WriteError
from framework.hook import Hook
from framework.hooks.progress_plot import ProgressPlot
from framework.run_folder import RunFolder
from tests.framework.toy_trainer import ToyTrainer, toy_settings


class Disk:
    """Refuses renames to some names, as often as is said."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.refused: dict[str, int] = {}
        self._replace = os.replace
        monkeypatch.setattr(os, "replace", self.replace)
        monkeypatch.setattr(checkpoint_writer, "SECONDS_BEFORE_TRYING_AGAIN", (0.01, 0.01))

    def replace(self, source: Any, target: Any) -> None:
        name = Path(target).name
        if self.refused.get(name, 0) > 0:
            self.refused[name] -= 1
            raise OSError(errno.ENOSPC, "No space left on device")
        self._replace(source, target)


@pytest.fixture
def disk(monkeypatch: pytest.MonkeyPatch) -> Disk:
    return Disk(monkeypatch)


def toy(folder: Path, hooks: tuple[Hook, ...] = (), **settings: Any) -> tuple[ToyTrainer, list[str]]:
    trainer = ToyTrainer(toy_settings(**settings), run_folder=folder, device="cpu", hooks=hooks)
    messages: list[str] = []
    trainer.report = messages.append
    return trainer, messages


def weights_of(path: Path) -> dict[str, torch.Tensor]:
    return load_checkpoint(path)["network_weights"]


def assert_same_weights(one: Path, other: Path) -> None:
    expected = weights_of(other)
    assert all(torch.equal(tensor, expected[name]) for name, tensor in weights_of(one).items())


def test_a_history_that_cannot_be_written_is_told_and_written_whole_later(tmp_path: Path, disk: Disk):
    disk.refused["history.jsonl"] = 1
    trainer, messages = toy(tmp_path)
    trainer.run_training()
    told = [message for message in messages if message.startswith("warning")]
    assert len(told) == 1
    assert f"{tmp_path / 'history.jsonl'} could not be written: No space left on device" in told[0]
    assert len((tmp_path / "history.jsonl").read_text().splitlines()) == 2


def test_a_picture_that_cannot_be_drawn_ends_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    def fail(*arguments: Any) -> None:
        raise RuntimeError("no font")

    monkeypatch.setattr("framework.hooks.progress_plot.draw_progress", fail)
    trainer, messages = toy(tmp_path, hooks=(ProgressPlot(),))
    trainer.run_training()
    assert trainer.progress.finished
    assert sum("could not be drawn" in message and "no font" in message for message in messages) == 1


def test_a_log_that_cannot_be_written_is_told_once_and_taken_up_again(tmp_path: Path):
    class LogAway(Hook):
        """From the first epoch's end to the second's something else has the name of the log."""

        priority = 1

        def on_epoch_end(self, trainer: BaseTrainer) -> None:
            log = next(tmp_path.glob("training_log_*.txt"))
            if trainer.progress.epochs_completed == 1:
                log.rename(tmp_path / "kept")
                log.mkdir()
            elif trainer.progress.epochs_completed == 3:
                log.rmdir()
                (tmp_path / "kept").rename(log)

    trainer, messages = toy(tmp_path, hooks=(LogAway(),), num_epochs=4)
    trainer.run_training()
    assert sum("training_log" in message and "could not be written" in message for message in messages) == 1
    log = next(tmp_path.glob("training_log_*.txt")).read_text()
    assert "epoch 2/4" not in log
    assert "epoch 4/4" in log


def test_a_disk_that_is_full_for_a_moment_costs_no_training(tmp_path: Path, disk: Disk):
    disk.refused = {"checkpoint_latest.pth": 2, "checkpoint_final.pth": 1}
    trainer, _ = toy(tmp_path / "a")
    trainer.run_training()
    whole, _ = toy(tmp_path / "b")
    whole.run_training()
    assert_same_weights(tmp_path / "a/checkpoint_final.pth", tmp_path / "b/checkpoint_final.pth")


def test_a_checkpoint_that_cannot_be_written_ends_the_run_within_the_epoch(tmp_path: Path, disk: Disk):
    class Slow(Hook):
        """Gives the writer time, as a real step does."""

        def on_step_end(self, trainer: BaseTrainer, outputs: dict[str, Any]) -> None:
            if trainer.progress.epochs_completed == 2:
                if not disk.refused:
                    trainer.checkpoint_writer.wait()
                disk.refused["checkpoint_latest.pth"] = 1000
                trainer.request_checkpoint("latest")
                time.sleep(0.1)

    settings = {"num_epochs": 4, "checkpoint_every_epochs": 1, "iterations_per_epoch": 20}
    trainer, _ = toy(tmp_path / "a", hooks=(Slow(),), **settings)
    with pytest.raises(WriteError, match=r"checkpoint_latest\.pth .*No space left.*tried 3 times.*--c goes on"):
        trainer.run_training()
    assert trainer.progress.steps_completed < 5
    assert load_checkpoint(tmp_path / "a/checkpoint_latest.pth")["current_epoch"] == 2
    disk.refused = {}
    resumed, _ = toy(tmp_path / "a", **settings)
    assert resumed.resume()
    resumed.run_training()
    whole, _ = toy(tmp_path / "b", **settings)
    whole.run_training()
    assert_same_weights(tmp_path / "a/checkpoint_final.pth", tmp_path / "b/checkpoint_final.pth")


@contextmanager
def no_file_longer_than(length: int) -> Iterator[None]:
    resource = pytest.importorskip("resource")
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (length, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_what_the_disk_says_is_told_and_not_what_torch_makes_of_it(tmp_path: Path):
    path = tmp_path / "c.pth"
    state = {"network_weights": {"w": torch.randn(100_000)}, "current_epoch": 1}
    save_checkpoint(path, state)
    with no_file_longer_than(100_000), pytest.raises(WriteError, match="File too large"):
        save_checkpoint(path, state | {"current_epoch": 2})
    assert load_checkpoint(path)["current_epoch"] == 1
    assert [entry.name for entry in tmp_path.iterdir()] == ["c.pth"]


def test_a_long_epoch_is_saved_inside(tmp_path: Path):
    class Slow(Hook):
        def on_step_end(self, trainer: BaseTrainer, outputs: dict[str, Any]) -> None:
            time.sleep(0.02)
            if trainer.progress.steps_completed == 30:
                trainer.checkpoint_writer.wait()
                raise KeyboardInterrupt

    trainer, _ = toy(tmp_path, hooks=(Slow(),), iterations_per_epoch=100, checkpoint_every_minutes=0.2 / 60)
    with pytest.raises(KeyboardInterrupt):
        trainer.run_training()
    saved = load_checkpoint(tmp_path / "checkpoint_latest.pth")["foldwise"]["progress"]
    assert saved["phase"] == "training"
    assert 10 <= saved["steps_completed"] <= 30


def test_what_a_killed_process_left_is_removed_at_the_next_start(tmp_path: Path):
    (tmp_path / "validation").mkdir()
    stale = [tmp_path / ".checkpoint_latest.0123abcd.tmp.pth", tmp_path / "validation/.case.0123abcd.tmp.nii.gz"]
    for path in stale:
        path.write_bytes(b"half")
    (tmp_path / ".keep.txt").write_text("not ours")
    trainer, _ = toy(tmp_path)
    trainer.run_training()
    assert not any(path.exists() for path in stale)
    assert (tmp_path / ".keep.txt").exists()


@pytest.mark.skipif(not hasattr(os, "fork"), reason="processes are not forked here")
def test_a_worker_that_outlives_the_training_does_not_hold_its_lock(tmp_path: Path):
    held = RunFolder(tmp_path)
    held.lock()
    ready, wait = os.pipe(), os.pipe()
    child = os.fork()
    if child == 0:
        os.write(ready[1], b"x")
        os.read(wait[0], 1)
        os._exit(0)
    os.read(ready[0], 1)
    held.unlock()
    try:
        RunFolder(tmp_path).lock()
    finally:
        os.write(wait[1], b"x")
        os.waitpid(child, 0)


def test_a_run_without_a_readable_checkpoint_is_not_silently_begun_anew(tmp_path: Path):
    trainer, _ = toy(tmp_path)
    trainer.run_training()
    for path in tmp_path.glob("checkpoint_*.pth"):
        path.write_bytes(path.read_bytes()[:1000])
    again, messages = toy(tmp_path)
    with pytest.raises(CheckpointError, match="none of its checkpoints can be read"):
        again.resume()
    assert any("passing over checkpoint_final.pth" in message for message in messages)


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="no /dev/full here")
def test_output_that_nobody_can_take_ends_nothing():
    code = (
        "import sys; from framework.commands.common import run_command\n"
        "from framework.commands.progress_bar import ProgressBar\n"
        "def train():\n    for _ in range(3): ProgressBar().say('a line of text')\n    return 75\n"
        "sys.exit(run_command(train))"
    )
    with open("/dev/full", "wb") as full:
        result = subprocess.run([sys.executable, "-c", code], stdout=full, stderr=subprocess.PIPE)
    assert result.stderr == b""
    assert result.returncode == 75
