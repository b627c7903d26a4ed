from __future__ import annotations

import pickle
from pathlib import Path
from typing import IO

import numpy as np
import pytest
import torch

from framework.checkpoint import load_checkpoint, newest_checkpoint, plain_types, save_checkpoint
from framework.errors import CheckpointError, FoldwiseError


def state(epoch: int) -> dict:
    return {"network_weights": {"w": torch.full((3,), float(epoch))}, "current_epoch": epoch}


def test_a_checkpoint_loads_with_weights_only(tmp_path: Path):
    path = tmp_path / "c.pth"
    save_checkpoint(path, state(1) | {"a": np.float64(1.5), "b": np.arange(3), "p": tmp_path, "d": torch.device("cpu")})
    loaded = torch.load(path, weights_only=True)
    assert loaded["a"] == 1.5
    assert type(loaded["a"]) is float
    assert loaded["b"].tolist() == [0, 1, 2]
    assert loaded["p"] == str(tmp_path)


def test_what_cannot_be_saved_is_named(tmp_path: Path):
    with pytest.raises(TypeError, match=r"state\.hooks\.mine\[0\] is a object and cannot be saved"):
        plain_types({"hooks": {"mine": [object()]}})


def test_a_failed_write_leaves_the_previous_checkpoint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    path = tmp_path / "c.pth"
    save_checkpoint(path, state(1))

    def full_disk(obj: object, target: IO[bytes]) -> None:
        target.write(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(torch, "save", full_disk)
    with pytest.raises(FoldwiseError, match="No space left on device"):
        save_checkpoint(path, state(2))
    monkeypatch.undo()
    assert load_checkpoint(path)["current_epoch"] == 1
    assert [entry.name for entry in tmp_path.iterdir()] == ["c.pth"]


def test_a_strangers_code_is_not_executed(tmp_path: Path):
    class Evil:
        def __reduce__(self):
            return (Path.touch, (tmp_path / "executed",))

    torch.save({"network_weights": Evil()}, tmp_path / "evil.pth")
    with pytest.raises(CheckpointError, match="not safe to load"):
        load_checkpoint(tmp_path / "evil.pth")
    (tmp_path / "old.pth").write_bytes(pickle.dumps(Evil()))
    with pytest.raises(CheckpointError):
        load_checkpoint(tmp_path / "old.pth")
    assert not (tmp_path / "executed").exists()


def test_the_newest_readable_checkpoint_is_chosen(tmp_path: Path):
    final, latest, best = (tmp_path / f"{name}.pth" for name in ("final", "latest", "best"))
    save_checkpoint(latest, state(4))
    save_checkpoint(best, state(7))
    final.write_bytes(best.read_bytes()[:100])  # truncated
    warnings: list[str] = []
    found = newest_checkpoint((final, latest, best), warnings.append)
    assert found is not None
    assert found[0] == best
    assert "final.pth" in warnings[0]
    assert newest_checkpoint((tmp_path / "nothing.pth",)) is None


@pytest.mark.parametrize(
    ("content", "told"),
    [(b"", "empty or holds zeros"), (bytes(5000), "empty or holds zeros"), (b"PK\3\4" + bytes(500), "end is missing")],
    ids=["empty", "zeros", "cut off"],
)
def test_what_is_wrong_with_a_damaged_file_is_told_in_few_words(tmp_path: Path, content: bytes, told: str):
    (tmp_path / "c.pth").write_bytes(content)
    with pytest.raises(CheckpointError, match=rf"c\.pth cannot be read: it(s| is) {told}\."):
        load_checkpoint(tmp_path / "c.pth")


def test_a_checkpoint_of_nnunet_is_read(shared_data: Path):
    path = next((shared_data / "nnunet_reference/results").rglob("checkpoint_final.pth"))
    loaded = load_checkpoint(path)
    assert loaded["trainer_name"] == "nnUNetTrainer"
    assert loaded["current_epoch"] == 8
    assert len(loaded["logging"]["ema_fg_dice"]) == 8
