"""Any change of a checkpoint: training, prediction and sharing go on from it, or it is one of our errors."""

from __future__ import annotations

import contextlib
import copy
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from framework.checkpoint import load_checkpoint
from framework.errors import FoldwiseError
from framework.hook import Hook
from framework.inference.fold_networks import load_fold_network
from framework.inference.model_folder import TrainedModel
from framework.sharing.weights_only import problems_of, read_strangers_checkpoint, required_class, weights_only
from tests.framework.sharing.builder import checkpoint, make_model
from tests.framework.toy_trainer import ToyTrainer, toy_settings
from tests.safety import mutations
from tests.safety.mutations import QUICK, THOROUGH, changed_bytes, changed_json

SEEDS = st.integers(0, 2**32 - 1)
STRANGE_TENSORS = (
    torch.zeros(3), torch.zeros(2, 2, dtype=torch.int64), torch.full((8, 4), float("nan")), torch.zeros(0),
    torch.zeros(1).expand(10**6, 10**6), torch.zeros(3, dtype=torch.complex64), torch.float32, b"bytes",
)  # fmt: skip


class StopInTheSecondEpoch(Hook):
    """Leaves a checkpoint in the middle of an epoch, with outputs of its steps."""

    def on_step_end(self, trainer: Any, outputs: dict[str, Any]) -> None:
        if trainer.global_step == 5:
            trainer.request_checkpoint("latest")
            trainer.request_stop("half", immediately=True)


def toy(folder: Path, *hooks: Hook) -> ToyTrainer:
    trainer = ToyTrainer(toy_settings(early_stopping={"patience": 3}), run_folder=folder, device="cpu", hooks=hooks)
    trainer.report = lambda text: None
    return trainer


@pytest.fixture(scope="module")
def places(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, TrainedModel]:
    folder = tmp_path_factory.mktemp("fuzz")
    toy(folder / "begun/fold_0", StopInTheSecondEpoch()).run_training()
    return folder, TrainedModel.open(make_model(folder / "results"))


def resume(path: Path, model: TrainedModel) -> None:
    trainer = toy(path.parent / "resumed/fold_0")
    try:
        trainer.load_state_dict(load_checkpoint(path), path)
        trainer.run_training()
    finally:
        shutil.rmtree(path.parent / "resumed", ignore_errors=True)


def predict(path: Path, model: TrainedModel) -> None:
    load_fold_network(model.experiment, path, torch.device("cpu"))


def share(path: Path, model: TrainedModel) -> None:
    state = read_strangers_checkpoint(path, path.name)
    if not problems_of(state, "3d_fullres"):
        weights_only(state, "3d_fullres", "0")
        required_class(state)


USES: dict[str, Callable[[Path, TrainedModel], None]] = {"resume": resume, "predict": predict, "share": share}


def works_or_is_refused(use: str, places: tuple[Path, TrainedModel], seed: int, bytewise: bool) -> None:
    folder, model = places
    began = folder / "begun/fold_0/checkpoint_latest.pth"
    path = folder / "changed.pth"
    state = load_checkpoint(began) if use == "resume" else checkpoint("3d_fullres", "0", 0)
    if bytewise:
        torch.save(state, path)
        path.write_bytes(changed_bytes(path.read_bytes(), seed))
    else:
        if seed % 7 == 0:
            state.pop("foldwise")  # as nnU-Net writes it
        try:
            torch.save(changed_json(state, seed), path)
        except (RuntimeError, ValueError, UnicodeError):
            return  # what cannot be saved
    with contextlib.suppress(FoldwiseError):
        USES[use](path, model)


@pytest.fixture(autouse=True)
def _strange_tensors(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mutations, "STRANGE", (*mutations.STRANGE, *copy.copy(STRANGE_TENSORS)))


@pytest.mark.parametrize("bytewise", [False, True], ids=["values", "bytes"])
@pytest.mark.parametrize("use", USES)
@mutations.settings(QUICK, max_examples=30)
@given(seed=SEEDS)
def test_any_change_works_or_is_refused(use: str, places: tuple[Path, TrainedModel], seed: int, bytewise: bool):
    works_or_is_refused(use, places, seed, bytewise)


@pytest.mark.slow
@pytest.mark.parametrize("bytewise", [False, True], ids=["values", "bytes"])
@pytest.mark.parametrize("use", USES)
@mutations.settings(THOROUGH, max_examples=300)
@given(seed=SEEDS)
def test_very_many_changes_work_or_are_refused(use: str, places: tuple[Path, TrainedModel], seed: int, bytewise: bool):
    works_or_is_refused(use, places, seed, bytewise)
