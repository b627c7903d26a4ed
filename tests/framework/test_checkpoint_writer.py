"""Checkpoints beside the training: what is written is the moment of the call, and nothing is lost or hidden."""

from __future__ import annotations

import errno
import threading
from pathlib import Path
from typing import IO, Any

import pytest
import torch

import framework.checkpoint_writer as module
from framework.checkpoint import load_checkpoint, save_checkpoint
from framework.checkpoint_writer import CheckpointWriter, on_host
from framework.errors import CheckpointError, FoldwiseError
from tests.framework.toy_trainer import ToyTrainer, toy_settings


def test_the_file_holds_the_moment_of_the_call(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    weights = torch.zeros(4)
    go_on = threading.Event()

    def slow_save(path: Path, state: dict[str, Any]) -> None:
        go_on.wait(10)
        save_checkpoint(path, state)

    monkeypatch.setattr(module, "save_checkpoint", slow_save)
    writer = CheckpointWriter()
    writer.save(tmp_path / "c.pth", {"network_weights": {"w": weights}, "current_epoch": 1})
    weights += 1  # the training goes on before a byte is written
    assert not (tmp_path / "c.pth").exists()
    go_on.set()
    writer.close()
    assert load_checkpoint(tmp_path / "c.pth")["network_weights"]["w"].tolist() == [0, 0, 0, 0]


def test_one_tensor_under_two_names_is_copied_once():
    shared = torch.ones(3)
    copy = on_host({"a": shared, "b": [shared], "part": shared[:2]})
    assert copy["a"].data_ptr() == copy["b"][0].data_ptr() != shared.data_ptr()
    assert copy["part"].tolist() == [1, 1]


def test_a_write_error_is_raised_by_the_next_call_and_the_copy_after_it_is_not_made(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    save_checkpoint(tmp_path / "latest.pth", {"network_weights": {}, "current_epoch": 1})

    def full(state: object, file: IO[bytes]) -> None:
        file.write(b"half")
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(torch, "save", full)
    monkeypatch.setattr(module, "SECONDS_BEFORE_TRYING_AGAIN", (0.01,))
    writer = CheckpointWriter()
    writer.save(tmp_path / "latest.pth", {"network_weights": {}, "current_epoch": 2})
    with pytest.raises(FoldwiseError, match="No space left"):
        writer.wait()
    writer.save(tmp_path / "latest.pth", {"network_weights": {}, "current_epoch": 3})
    writer._jobs[0].exception()
    monkeypatch.setattr(writer, "raise_error", lambda: None)  # the copy is asked for before the error is known
    writer.copy(tmp_path / "latest.pth", tmp_path / "best.pth")
    with pytest.raises(FoldwiseError, match="No space left"):
        writer.wait()
    writer.close()
    assert load_checkpoint(tmp_path / "latest.pth")["current_epoch"] == 1
    assert not (tmp_path / "best.pth").exists()


def test_a_training_ends_with_the_write_error_not_without_a_word(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    def full(path: Path, state: dict[str, Any]) -> None:
        raise FoldwiseError(f"{path} could not be written: No space left on device.")

    monkeypatch.setattr(module, "save_checkpoint", full)
    trainer = ToyTrainer(toy_settings(), run_folder=tmp_path, device="cpu")
    with pytest.raises(FoldwiseError, match="No space left"):
        trainer.run_training()


@pytest.mark.parametrize("place", ["beginning", "middle", "end"])
def test_every_flipped_bit_in_the_weights_is_found(tmp_path: Path, place: str):
    path = tmp_path / "c.pth"
    save_checkpoint(path, {"network_weights": {"w": torch.randn(5000)}, "current_epoch": 1})
    content = bytearray(path.read_bytes())
    weights = content.index(torch.load(path)["network_weights"]["w"].numpy().tobytes())
    content[weights + {"beginning": 0, "middle": 10_000, "end": 19_999}[place]] ^= 1
    path.write_bytes(content)
    torch.load(path, weights_only=True)  # torch itself does not notice
    with pytest.raises(CheckpointError, match="checksum"):
        load_checkpoint(path)


def test_latest_is_never_older_than_best(tmp_path: Path):
    class Look(ToyTrainer):
        def on_epoch_end(self) -> None:
            self.checkpoint_writer.wait()
            epochs = {tag: load_checkpoint(self.run_folder.checkpoint(tag))["current_epoch"]
                      for tag in ("latest", "best") if self.run_folder.checkpoint(tag).is_file()}  # fmt: skip
            seen.append(epochs)

    seen: list[dict[str, int]] = []
    settings = toy_settings(num_epochs=6, checkpoint_every_epochs=5, checkpoint_every_minutes=None)
    Look(settings, run_folder=tmp_path, device="cpu").run_training()
    assert any("best" in epochs for epochs in seen)
    assert all(epochs["latest"] >= epochs["best"] for epochs in seen if "best" in epochs)


def test_earlier_checkpoints_and_milestones_are_kept(tmp_path: Path):
    settings = toy_settings(
        num_epochs=6,
        checkpoint_every_epochs=1,
        checkpoint_keep_last=3,
        checkpoint_milestones=[2, 4],
        validate_every_epochs=100,
    )

    class StopAfterFive(ToyTrainer):
        def on_epoch_end(self) -> None:
            if self.progress.epochs_completed == 5:
                self.request_stop("test", immediately=True)

    StopAfterFive(settings, run_folder=tmp_path, device="cpu").run_training()
    found = {path.stem: load_checkpoint(path)["current_epoch"] for path in tmp_path.glob("*.pth")}
    assert found == {
        "checkpoint_latest": 5, "checkpoint_earlier_1": 4, "checkpoint_earlier_2": 3,
        "checkpoint_epoch_0002": 2, "checkpoint_epoch_0004": 4,
    }  # fmt: skip


def test_a_damaged_latest_is_passed_over_for_the_one_before(tmp_path: Path):
    settings = toy_settings(num_epochs=4, checkpoint_every_epochs=1, checkpoint_keep_last=2, validate_every_epochs=100)
    whole = ToyTrainer(settings, run_folder=tmp_path / "whole", device="cpu")
    whole.run_training()

    class StopAfterThree(ToyTrainer):
        def on_epoch_end(self) -> None:
            if self.progress.epochs_completed == 3:
                self.request_stop("test", immediately=True)

    StopAfterThree(settings, run_folder=tmp_path / "parts", device="cpu").run_training()
    latest = tmp_path / "parts" / "checkpoint_latest.pth"
    content = bytearray(latest.read_bytes())
    weight = load_checkpoint(latest)["network_weights"]["embed.weight"]
    content[content.index(weight.numpy().tobytes())] ^= 4
    latest.write_bytes(content)
    again = ToyTrainer(settings, run_folder=tmp_path / "parts", device="cpu")
    messages: list[str] = []
    again.report = messages.append
    assert again.resume()
    assert "passing over checkpoint_latest.pth" in messages[0]
    assert again.progress.epochs_completed == 2
    again.run_training()
    for name, tensor in whole.network.state_dict().items():
        assert torch.equal(tensor, again.network.state_dict()[name])
