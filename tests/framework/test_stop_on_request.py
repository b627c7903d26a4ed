"""A run that is asked to leave, by the clock or by a file, can be resumed as if nothing had happened."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import pytest
import torch

from framework.base_trainer import BaseTrainer
from framework.durations import parse_duration
from framework.errors import FoldwiseError
from framework.hooks.stop_on_request import StopOnRequest
from tests.framework.toy_trainer import ToyTrainer, toy_settings


class SlowTrainer(ToyTrainer):
    def train_step(self, batch: Any) -> dict[str, Any]:
        time.sleep(0.02)
        return super().train_step(batch)


def quick(seconds: float | None) -> StopOnRequest:
    hook = StopOnRequest(seconds)
    hook._started = time.monotonic()  # in a test the process began long ago
    hook.seconds_between_looks = 0.01
    return hook


def run(folder: Path, hook: StopOnRequest, resume: bool = False) -> BaseTrainer:
    trainer = SlowTrainer(toy_settings(num_epochs=30), run_folder=folder, device="cpu")
    trainer.detach("StopOnRequest")
    trainer.attach(hook)
    if resume:
        assert trainer.resume()
    trainer.run_training()
    return trainer


def test_a_time_limit_stops_the_run_before_its_end_and_it_goes_on_bitwise(tmp_path: Path):
    whole = run(tmp_path / "whole", quick(None))
    first = run(tmp_path / "parts", quick(0.6))
    assert first.interrupted
    assert "time limit" in str(first.stop_reason)
    assert 0 < first.global_step < 90
    second = run(tmp_path / "parts", quick(None), resume=True)
    assert second.progress.epochs_completed == 30
    for name, tensor in whole.network.state_dict().items():
        assert torch.equal(tensor, second.network.state_dict()[name])


def test_a_margin_is_left_for_the_checkpoint(tmp_path: Path):
    hook = quick(100.0)
    trainer = ToyTrainer(toy_settings(), run_folder=tmp_path, device="cpu")
    hook._started = time.monotonic() - 69
    assert hook._reason(trainer) is None
    hook._started = time.monotonic() - 71
    assert hook._reason(trainer) is not None
    trainer.checkpoint_writer.longest_seconds = 15.0
    hook._started = time.monotonic() - 56
    assert hook._reason(trainer) is not None


def test_a_stop_file_ends_the_run_once(tmp_path: Path):
    trainer = SlowTrainer(toy_settings(num_epochs=30), run_folder=tmp_path, device="cpu")
    assert trainer.run_folder is not None
    stop_file = trainer.run_folder.stop_file

    class MakeStopFile(StopOnRequest):
        def on_epoch_end(self, trainer: BaseTrainer) -> None:
            stop_file.touch()

    hook = MakeStopFile()
    hook.seconds_between_looks = 0.01
    trainer.detach("StopOnRequest")
    trainer.attach(hook)
    trainer.run_training()
    assert trainer.interrupted
    assert "STOP" in str(trainer.stop_reason)
    assert not stop_file.exists()
    assert trainer.run_folder.latest_checkpoint.is_file()


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("90", 90), ("90s", 90), ("45m", 2700), ("1.5h", 5400), ("2d", 172800), ("23:30:00", 84600),
     ("1-12:00:00", 129600), ("00:10", 600)],
)  # fmt: skip
def test_durations_are_read(text: str, seconds: float):
    assert parse_duration(text) == seconds


@pytest.mark.parametrize("text", ["", "soon", "0", "-5", "5 weeks", "1:2:3:4"])
def test_other_durations_are_refused(text: str):
    with pytest.raises(FoldwiseError, match="expected a duration"):
        parse_duration(text, "--time-limit")
