"""Checkpoints that were made to run code or to fill the memory, and such as are merely of the wrong form."""

from __future__ import annotations

import io
import pickle
import struct
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from framework.checkpoint import load_checkpoint, newest_checkpoint, save_checkpoint
from framework.errors import CheckpointError
from framework.inference import Predictor
from framework.sharing.selection import chosen_model
from tests.framework.sharing.builder import checkpoint, make_bundle, make_model
from tests.framework.toy_trainer import ToyTrainer, toy_settings
from tests.safety.bounds import at_most

MIB = 1 << 20
GOOD: dict[str, Any] = {"network_weights": {"w": torch.ones(3)}, "current_epoch": 1}


class Runs:
    """Would create a file when it is unpickled."""

    def __reduce__(self) -> tuple[Any, ...]:
        return open, ("it ran", "w")


def pickled(*operations: bytes) -> bytes:
    return b"\x80\x02" + b"".join(operations) + b"."


def with_pickle(content: bytes, path: Path, packed: bool = False, **others: bytes) -> Path:
    """A zip as torch.save writes it, around a pickle made by hand."""
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED if packed else zipfile.ZIP_STORED) as archive:
        for name, part in {"data.pkl": content, "version": b"3\n", "byteorder": b"little", **others}.items():
            archive.writestr(f"archive/{name}", part)
    return path


def saved(state: Any, path: Path) -> Path:
    torch.save(state, path)
    return path


def text(value: str) -> bytes:
    return b"X" + struct.pack("<I", len(value)) + value.encode()


def weights_with(value: bytes) -> bytes:
    """{"network_weights": {"w": value}}"""
    return pickled(b"}", text("network_weights"), b"}", text("w"), value, b"ss")


def test_a_checkpoint_that_would_run_code_is_refused_and_not_run(tmp_path: Path):
    for number, state in enumerate(({"network_weights": Runs()}, GOOD | {"init_args": [Runs()]}, Runs())):
        with pytest.raises(CheckpointError, match="not safe to load"):
            load_checkpoint(saved(state, tmp_path / f"{number}.pth"))
    (tmp_path / "old.pth").write_bytes(pickle.dumps({"network_weights": Runs()}))
    torch.save({"network_weights": Runs()}, tmp_path / "older.pth", _use_new_zipfile_serialization=False)
    for name in ("old.pth", "older.pth"):
        with pytest.raises(CheckpointError, match=r"no checkpoint of torch 1.6 or later"):
            load_checkpoint(tmp_path / name)
    assert not (tmp_path / "it ran").exists()


LENGTH = b"\x8a\x06" + (10**12).to_bytes(6, "little")
"""The number 10**12 in a pickle."""
NUMPY = "numpy._core.multiarray"


@pytest.mark.parametrize(
    "value",
    [
        b"cbuiltins\nbytearray\n" + LENGTH + b"\x85R",
        b"c__builtin__\nbytearray\n" + LENGTH + b"\x85R",
        b"cnumpy\nndarray\n" + LENGTH + b"\x85" + text("f8") + b"\x86R",
        f"c{NUMPY}\n_reconstruct\ncnumpy\nndarray\n".encode() + LENGTH + b"\x85" + text("b") + b"\x87R",
        f"c{NUMPY}\nscalar\ncnumpy\ndtype\n".encode() + text("V2000000000") + b"\x85R\x85R",
        f"c{NUMPY}\nscalar\ncnumpy\ndtype\n".encode() + text("f8") + b"\x85R" + text("") + b"\x86R",
        b"cnumpy\ndtype\n" + text("O") + b"\x85R",
        b"ctorch\nFloatStorage\n" + LENGTH + b"\x85R",
        b"ctorch\nTensor\n" + LENGTH + b"\x85R",
    ],
    ids=["bytearray", "old bytearray", "ndarray", "_reconstruct", "scalar", "text", "objects", "storage", "tensor"],
)
def test_a_few_bytes_cannot_ask_for_a_terabyte(value: bytes, tmp_path: Path):
    path = with_pickle(weights_with(value), tmp_path / "bomb.pth")
    with at_most(100 * MIB), pytest.raises(CheckpointError, match=r"bomb.pth"):
        load_checkpoint(path)


def test_packed_and_overlapping_entries_are_refused(tmp_path: Path):
    zeros = bytes(100 * MIB)
    packed = with_pickle(weights_with(b"N"), tmp_path / "packed.pth", packed=True, **{"data/0": zeros})
    del zeros
    assert packed.stat().st_size < MIB
    with at_most(50 * MIB), pytest.raises(CheckpointError, match="is packed"):
        load_checkpoint(packed)

    once = saved(GOOD | {"network_weights": {"w": torch.zeros(5 * MIB // 4)}}, tmp_path / "once.pth").read_bytes()
    # Each further line of the directory at the end of a zip names the same bytes again.
    start = once.rindex(b"PK\x01\x02", 0, once.rindex(b"archive/data/0") if b"archive/data/0" in once else len(once))
    end = once.index(b"PK\x05\x06") if b"PK\x06\x06" not in once else once.index(b"PK\x06\x06")
    directory = once[start:end]
    content = bytearray(once[:end] + directory * 50)
    content += b"PK\x05\x06" + struct.pack("<HHHHIIH", 0, 0, 60, 60, len(content) - start, start, 0)
    (tmp_path / "many.pth").write_bytes(content)
    with at_most(50 * MIB), pytest.raises(CheckpointError, match=r"many.pth cannot be read"):
        load_checkpoint(tmp_path / "many.pth")


def test_tensors_that_repeat_a_few_bytes_are_refused(tmp_path: Path):
    huge = torch.zeros(1).expand(10**6, 10**6)
    for state in (GOOD | {"network_weights": {"w": huge}}, GOOD | {"optimizer_state": {"state": {0: {"m": huge}}}}):
        with (
            at_most(50 * MIB),
            pytest.raises(CheckpointError, match=r"\[1000000, 1000000\] is larger than what is stored"),
        ):
            load_checkpoint(saved(state, tmp_path / "huge.pth"))
    small = GOOD | {"network_weights": {"w": torch.zeros(1).expand(1000)}}
    assert load_checkpoint(saved(small, tmp_path / "small.pth"))["network_weights"]["w"].shape == (1000,)


def test_values_that_hold_each_other_are_walked_once(tmp_path: Path):
    shared: list[Any] = []
    for _ in range(90):
        shared = [shared, shared]
    assert load_checkpoint(saved(GOOD | {"logging": {"x": shared}}, tmp_path / "laughs.pth"))
    deep: list[Any] = []
    for _ in range(5000):
        deep = [deep]
    circle: list[Any] = []
    circle.append(circle)
    # Written by hand: torch's own writer would not get to the end of them.
    nested = pickled(b"}", text("network_weights"), b"}", text("w"), b"]" * 5000, b"a" * 4999, b"ss")
    for content in (nested, weights_with(b"]q\x00h\x00a")):
        with pytest.raises(CheckpointError, match=r"nested more than|is no tensor"):
            load_checkpoint(with_pickle(content, tmp_path / "deep.pth"))
    # An error that shows such a value is as short as any other.
    wrong = GOOD | {"current_epoch": shared}
    with pytest.raises(CheckpointError, match="'current_epoch' is") as caught:
        load_checkpoint(saved(wrong, tmp_path / "wrong.pth"))
    assert len(str(caught.value)) < 1000


WRONG: list[tuple[str, Any]] = [
    ("current_epoch", "three"),
    ("current_epoch", -1),
    ("current_epoch", 10**30),
    ("foldwise", []),
    ("foldwise", None),
    ("foldwise", {"history": {"rows": [3], "running": None}}),
    ("foldwise", {"history": {"rows": []}}),
    ("foldwise", {"progress": {"epochs_completed": "one"}}),
    ("foldwise", {"progress": {"phase": "elsewhere"}}),
    ("foldwise", {"progress": {"unknown": 1}}),
    ("foldwise", {"trainer": 3}),
    ("foldwise", {"hooks": {"a": 1}}),
    ("foldwise", {"settings": {"num_epochs": "many"}}),
    ("optimizer_state", 7),
    ("logging", []),
    ("init_args", "configuration"),
    ("trainer_name", None),
    ("inference_allowed_mirroring_axes", 5),
    ("inference_allowed_mirroring_axes", (0, 9)),
    ("network_weights", [torch.ones(1)]),
    ("network_weights", {"w": 3}),
    ("network_weights", {1: torch.ones(1)}),
    ("network_weights", {"w": torch.ones(3, device="meta")}),
]  # fmt: skip


@pytest.mark.parametrize(("key", "value"), WRONG, ids=[f"{key} {number}" for number, (key, _) in enumerate(WRONG)])
def test_known_entries_of_the_wrong_form_are_named(key: str, value: Any, tmp_path: Path):
    path = saved(GOOD | {key: value}, tmp_path / "wrong.pth")
    with pytest.raises(CheckpointError, match=r"wrong.pth is no checkpoint that can be used"):
        load_checkpoint(path)
    told: list[str] = []
    assert newest_checkpoint([path], told.append) is None
    assert "passing over wrong.pth" in told[0]


def test_numbers_and_arrays_of_numpy_are_read(tmp_path: Path):
    """nnU-Net's own checkpoints hold them."""
    array = np.arange(6, dtype=np.float32).reshape(2, 3)
    state = GOOD | {"logging": {"dice": [np.float64(0.5), np.float32(0.25), np.int64(3), np.bool_(True)], "a": [array]}}
    logging = load_checkpoint(saved(state, tmp_path / "numpy.pth"))["logging"]
    assert logging["dice"] == [0.5, 0.25, 3, True]
    np.testing.assert_array_equal(logging["a"][0], array)


def test_a_checkpoint_for_prediction_cannot_be_resumed_and_says_so(tmp_path: Path):
    trainer = ToyTrainer(toy_settings(), run_folder=tmp_path / "run/fold_0", device="cpu")
    trainer.setup()
    path = tmp_path / "run/fold_0/checkpoint_final.pth"
    save_checkpoint(path, {"network_weights": trainer.network.state_dict(), "init_args": {}, "trainer_name": "x"})
    with pytest.raises(CheckpointError, match=r"cannot be continued: it lacks optimizer_state, current_epoch"):
        trainer.resume()


def test_every_use_of_a_bad_checkpoint_is_one_error(tmp_path: Path):
    model = make_model(tmp_path / "results")
    path = model / "fold_0/checkpoint_final.pth"
    good = checkpoint("3d_fullres", "0", 0)
    for bad in (
        saved(good | {"network_weights": {"w": 3}}, tmp_path / "a").read_bytes(),
        saved(good | {"inference_allowed_mirroring_axes": "all"}, tmp_path / "b").read_bytes(),
        b"",
        b"PK\x03\x04",
        path.read_bytes()[:-100],
        pickle.dumps(Runs()),
    ):
        path.write_bytes(bad)
        with pytest.raises(CheckpointError):
            Predictor(model, device="cpu")
        with pytest.raises(CheckpointError):
            make_bundle(tmp_path, model)
        with pytest.raises(CheckpointError):
            load_checkpoint(path)
    assert chosen_model(model, None).folds == ("0",)
    assert not Path("it ran").exists()


def test_a_pickle_around_the_tensors_has_a_limit(tmp_path: Path):
    path = tmp_path / "long.pth"
    content = io.BytesIO()
    content.write(b"\x80\x02")
    with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED) as archive, archive.open("archive/data.pkl", "w") as member:
        for _ in range(65):
            member.write(b"N0" * (MIB // 2))
    with at_most(50 * MIB), pytest.raises(CheckpointError, match="bytes that are no tensors"):
        load_checkpoint(path)
