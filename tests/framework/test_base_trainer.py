from __future__ import annotations

import dataclasses
import inspect
import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch

from framework.base_trainer import BaseTrainer
from framework.errors import CaseError, HookError
from framework.hook import POINTS, Hook
from tests.framework.toy_trainer import ToyTrainer, make_ragged_batch, toy_settings

STEP = ["on_step_start", "train_step", "on_forward", "on_loss", "on_backward", "on_update", "on_step_end"]
VALIDATION = ["on_validation_epoch_start", "validation_step", "validation_step", "on_validation_epoch_end"]
EPOCH = [
    "on_epoch_start",
    "on_train_epoch_start",
    *STEP * 3,
    "on_train_epoch_end",
    *VALIDATION,
    "on_epoch_end",
    "on_checkpoint",
]


class Recorder(Hook):
    """Notes every point, and when the trainer's step methods run."""

    def __init__(self, calls: list[str], name: str = "Recorder", priority: int = 50) -> None:
        self.calls, self.name, self.priority = calls, name, priority


def _note(point: str) -> Any:
    def method(self: Recorder, trainer: BaseTrainer, *results: Any) -> None:
        self.calls.append(point)

    return method


for _point, _arguments in POINTS.items():
    setattr(Recorder, _point, _note(_point))


class RecordedTrainer(ToyTrainer):
    def __init__(self, *args: Any, calls: list[str], **options: Any) -> None:
        self.calls = calls
        super().__init__(*args, **options)

    def train_step(self, batch: Any) -> dict[str, Any]:
        self.calls.append("train_step")
        return super().train_step(batch)

    def validation_step(self, batch: Any) -> dict[str, Any]:
        self.calls.append("validation_step")
        return super().validation_step(batch)


def recorded(**settings: Any) -> list[str]:
    calls: list[str] = []
    RecordedTrainer(toy_settings(**settings), calls=calls, device="cpu", hooks=[Recorder(calls)]).run_training()
    return calls


def test_points_are_called_in_the_documented_order():
    assert recorded() == ["on_train_start", *EPOCH * 2, "on_train_end", "on_teardown"]


def test_the_docstring_of_the_loop_names_every_point_in_the_order_of_the_calls():
    documented = re.findall(r"on_\w+|train_step|validation_step", inspect.getdoc(BaseTrainer.run_training) or "")
    order = list(dict.fromkeys(documented))
    called = list(dict.fromkeys(recorded()))
    assert [name for name in order if name != "on_exception"] == called
    assert set(POINTS) <= set(order)


def test_validation_every_two_epochs_and_in_the_last():
    calls = recorded(num_epochs=5, validate_every_epochs=2)
    epochs = " ".join(calls).split(" on_epoch_start ")[1:]
    assert ["validation_step" in epoch for epoch in epochs] == [False, True, False, True, True]


def test_a_hook_can_request_validation_in_an_epoch_without():
    class Ask(Hook):
        def on_epoch_start(self, trainer: BaseTrainer) -> None:
            if trainer.progress.epochs_completed == 0:
                trainer.request_validation()

    trainer = ToyTrainer(toy_settings(num_epochs=3, validate_every_epochs=3), device="cpu", hooks=[Ask()])
    trainer.run_training()
    assert [value is not None for value in trainer.history["val_loss"]] == [True, False, True]


def test_trainer_comes_first_then_hooks_by_priority_and_order_of_attachment():
    calls: list[str] = []

    class OnEpochStart(Hook):
        def __init__(self, name: str, priority: int) -> None:
            self.name, self.priority = name, priority

        def on_epoch_start(self, trainer: BaseTrainer) -> None:
            calls.append(self.name)

    class Own(ToyTrainer):
        def on_epoch_start(self) -> None:
            calls.append("trainer")

    hooks = [OnEpochStart("late", 90), OnEpochStart("a", 50), OnEpochStart("early", 10), OnEpochStart("b", 50)]
    Own(toy_settings(num_epochs=1), device="cpu", hooks=hooks).run_training()
    assert calls == ["trainer", "early", "a", "b", "late"]


def test_teardown_runs_in_reverse_order_and_after_an_error():
    calls: list[str] = []

    class Closing(Hook):
        def __init__(self, name: str) -> None:
            self.name = name

        def on_exception(self, trainer: BaseTrainer, error: BaseException) -> None:
            calls.append(f"{self.name} heard {error}")
            raise RuntimeError("a hook that fails must not hide the error")

        def on_teardown(self, trainer: BaseTrainer) -> None:
            calls.append(f"{self.name} closed")

    class Failing(ToyTrainer):
        def train_step(self, batch: Any) -> dict[str, Any]:
            raise ZeroDivisionError("boom")

    trainer = Failing(toy_settings(), device="cpu", hooks=[Closing("first"), Closing("second")])
    with pytest.raises(ZeroDivisionError, match="boom"):
        trainer.run_training()
    assert calls == ["first heard boom", "second heard boom", "second closed", "first closed"]


def test_a_misspelt_point_is_refused_with_the_nearest_name():
    class Misspelt(Hook):
        def on_epoch_ende(self, trainer: BaseTrainer) -> None: ...

    with pytest.raises(HookError, match="Did you mean 'on_epoch_end'"):
        ToyTrainer(toy_settings(), device="cpu", hooks=[Misspelt()])

    class MisspeltTrainer(ToyTrainer):
        def on_epoch_begin(self) -> None: ...

    with pytest.raises(HookError, match="on_epoch_begin is not a point"):
        MisspeltTrainer(toy_settings(), device="cpu")


def test_a_wrong_signature_is_refused_when_the_hook_is_attached():
    class Wrong(Hook):
        def on_step_end(self, trainer: BaseTrainer) -> None: ...  # type: ignore[override]

    with pytest.raises(HookError, match=r"called with \(self, trainer, outputs\)"):
        ToyTrainer(toy_settings(), device="cpu", hooks=[Wrong()])


def test_a_duplicate_name_is_refused():
    @dataclass
    class Watch(Hook):
        patience: int = 1

        def on_epoch_end(self, trainer: BaseTrainer) -> None: ...

    with pytest.raises(HookError, match="named 'Watch' is attached already"):
        ToyTrainer(toy_settings(), device="cpu", hooks=[Watch(), Watch(2)])
    second = Watch(2)
    second.name = "second"
    trainer = ToyTrainer(toy_settings(), device="cpu", hooks=[Watch(), second])
    assert {"Watch", "second"} <= {hook.name for hook in trainer.hooks}


def test_a_point_that_nobody_overrides_has_nothing_to_call():
    trainer = ToyTrainer(toy_settings(), device="cpu", hooks=[Hook()])
    assert trainer._hooks._dispatch["on_backward"] == ()


def test_a_subclass_that_forgets_super_loses_no_default_behaviour(tmp_path: Path):
    class Forgetful(ToyTrainer):
        def default_hooks(self) -> list[Hook]:
            return BaseTrainer.default_hooks(self)

        def on_train_start(self) -> None: ...
        def on_epoch_end(self) -> None: ...
        def on_train_end(self) -> None: ...

    Forgetful(toy_settings(), run_folder=tmp_path / "run", device="cpu").run_training()
    names = {path.name for path in (tmp_path / "run").iterdir()}
    assert {"checkpoint_final.pth", "checkpoint_best.pth", "history.jsonl", "progress.png"} <= names


def test_stop_after_the_epoch_completes_the_training(tmp_path: Path):
    class Enough(Hook):
        def on_step_end(self, trainer: BaseTrainer, outputs: dict[str, Any]) -> None:
            trainer.request_stop("seen enough")

    trainer = ToyTrainer(toy_settings(num_epochs=9), run_folder=tmp_path, device="cpu", hooks=[Enough()])
    trainer.run_training()
    assert trainer.progress.epochs_completed == 1
    assert trainer.progress.finished
    assert (tmp_path / "checkpoint_final.pth").exists()


def test_epoch_means_weigh_a_step_by_its_elements():
    # 10 elements with loss 1 and 90 with loss 2: the mean is 1.9, not 1.5.
    class Ragged(ToyTrainer):
        def build_batches(self) -> tuple[Any, Any]:
            return (lambda number: {"n": (10, 90)[number % 2]}), None

        def compute_losses(self, batch: dict[str, Any]) -> dict[str, torch.Tensor]:
            parameter = next(self.network.parameters())
            return {"value": torch.full((batch["n"],), 1.0 if batch["n"] == 10 else 2.0) + 0 * parameter.sum()}

    trainer = Ragged(toy_settings(iterations_per_epoch=2, num_epochs=1), device="cpu")
    trainer.run_training()
    assert trainer.history["train_loss"][0] == pytest.approx(1.9)
    assert "val_loss" not in trainer.history


def test_loss_weights_follow_the_schedules_of_the_plans():
    # "sign" is gated: weight 0 in epoch 0, 1 from epoch 1 on; "value" has weight 0.5.
    weights = {"value": 0.5, "sign": {"name": "gate", "start": 0}}
    trainer = ToyTrainer(toy_settings(loss_weights=weights), device="cpu")
    trainer.run_training()
    for epoch, gate in enumerate((0.0, 1.0)):
        row = trainer.history.rows[epoch]
        expected = 0.5 * row["train_loss/value"] + gate * row["train_loss/sign"]
        # The parts have one weight each per step here: every batch has three sequences.
        assert row["train_loss"] == pytest.approx(expected, rel=1e-5)


def test_validation_runs_in_eval_mode_without_graph_and_is_repeatable():
    seen: list[tuple[bool, bool]] = []

    class Look(ToyTrainer):
        def validation_step(self, batch: Any) -> dict[str, Any]:
            outputs = super().validation_step(batch)
            seen.append((self.network.training, torch.is_grad_enabled()))
            return outputs

    trainer = Look(toy_settings(initial_lr=0.0), device="cpu")
    trainer.run_training()
    assert seen == [(False, False)] * 4
    # With a learning rate of 0 the network, which has dropout, gives the same validation loss twice.
    assert trainer.history["val_loss"][0] == trainer.history["val_loss"][1]


# --------------------------------------------------------------------------- resume


@dataclass
class StopAt(Hook):
    """Interrupt the run once, as a signal would."""

    step: int
    point: str = "on_step_end"
    count: int = 0

    def on_step_end(self, trainer: BaseTrainer, outputs: dict[str, Any]) -> None:
        self.count += 1
        if self.point == "on_step_end" and self.count == self.step:
            self._stop(trainer)

    def on_epoch_end(self, trainer: BaseTrainer) -> None:
        if self.point == "on_epoch_end" and trainer.progress.epochs_completed == self.step:
            self._stop(trainer)

    def _stop(self, trainer: BaseTrainer) -> None:
        trainer.request_checkpoint("latest")
        trainer.request_stop("test", immediately=True)


class StopInValidation(ToyTrainer):
    def validation_step(self, batch: Any) -> dict[str, Any]:
        if self.progress.epochs_completed == 1 and self.progress.validation_steps_completed == 0:
            self.request_checkpoint("latest")
            self.request_stop("test", immediately=True)
        return super().validation_step(batch)


def _comparable(trainer: BaseTrainer) -> tuple[dict[str, torch.Tensor], list[dict[str, Any]], dict[str, Any]]:
    rows = [
        {key: value for key, value in row.items() if "seconds" not in key and "timestamp" not in key}
        for row in trainer.history
    ]
    return trainer.network.state_dict(), rows, trainer.optimizer.state_dict()


def assert_equal_runs(one: BaseTrainer, other: BaseTrainer) -> None:
    weights, rows, optimizer = _comparable(one)
    other_weights, other_rows, other_optimizer = _comparable(other)
    assert all(torch.equal(weights[name], other_weights[name]) for name in weights)
    assert rows == other_rows
    assert str(optimizer) == str(other_optimizer)


@pytest.mark.parametrize(
    ("trainer_class", "hook"),
    [
        (ToyTrainer, StopAt(1)),
        (ToyTrainer, StopAt(5)),
        (ToyTrainer, StopAt(6)),
        (ToyTrainer, StopAt(2, "on_epoch_end")),
        (StopInValidation, None),
    ],
    ids=["first step", "middle of an epoch", "last step of an epoch", "end of an epoch", "in validation"],
)
@pytest.mark.parametrize("workers", [0, 2])
def test_resumed_run_equals_an_uninterrupted_one_bitwise(tmp_path: Path, trainer_class, hook, workers: int):
    settings = toy_settings(
        num_epochs=4,
        num_workers=workers,
        weight_averaging=0.9,
        early_stopping={"patience": 50},
        gradient_accumulation=2,
    )
    whole = ToyTrainer(settings, run_folder=tmp_path / "whole", device="cpu")
    whole.run_training()

    hooks = [StopAt(hook.step, hook.point)] if hook else []
    first = trainer_class(settings, run_folder=tmp_path / "parts", device="cpu", hooks=hooks)
    first.run_training()
    assert first.interrupted
    assert not (tmp_path / "parts" / "checkpoint_final.pth").exists()

    second = ToyTrainer(settings, run_folder=tmp_path / "parts", device="cpu")
    assert second.resume()
    second.run_training()
    assert_equal_runs(whole, second)


class StopAtPoint(Hook):
    """A signal that comes while hooks are called at a point, in the first epoch."""

    def __init__(self, point: str) -> None:
        self.point = point

    def _stop(self, trainer: BaseTrainer, point: str) -> None:
        if point == self.point and trainer.progress.epochs_completed == 0:
            trainer.request_checkpoint("latest")
            trainer.request_stop("test", immediately=True)

    def on_train_start(self, trainer: BaseTrainer) -> None:
        self._stop(trainer, "on_train_start")

    def on_train_epoch_end(self, trainer: BaseTrainer, outputs: list[dict[str, Any]]) -> None:
        self._stop(trainer, "on_train_epoch_end")


@pytest.mark.parametrize("point", ["on_train_start", "on_train_epoch_end"])
def test_a_signal_between_steps_is_no_completed_training(tmp_path: Path, point: str):
    # Validation is not due in the first epoch, and must not become due because the run is left there.
    settings = toy_settings(num_epochs=3, validate_every_epochs=2)
    whole = ToyTrainer(settings, run_folder=tmp_path / "whole", device="cpu")
    whole.run_training()
    stopped = ToyTrainer(settings, run_folder=tmp_path / "parts", device="cpu", hooks=[StopAtPoint(point)])
    stopped.run_training()
    assert stopped.interrupted
    assert not stopped.progress.finished
    assert not (tmp_path / "parts" / "checkpoint_final.pth").exists()
    resumed = ToyTrainer(settings, run_folder=tmp_path / "parts", device="cpu")
    assert resumed.resume()
    resumed.run_training()
    assert_equal_runs(whole, resumed)


def test_a_finished_run_can_be_made_longer(tmp_path: Path):
    constant = {"name": "constant"}
    short = ToyTrainer(toy_settings(num_epochs=2, schedule=constant), run_folder=tmp_path / "a", device="cpu")
    short.run_training()
    again = ToyTrainer(toy_settings(num_epochs=2, schedule=constant), run_folder=tmp_path / "a", device="cpu")
    again.resume()
    again.run_training()
    assert_equal_runs(short, again)
    longer = ToyTrainer(toy_settings(num_epochs=4, schedule=constant), run_folder=tmp_path / "a", device="cpu")
    longer.resume()
    longer.run_training()
    whole = ToyTrainer(toy_settings(num_epochs=4, schedule=constant), run_folder=tmp_path / "b", device="cpu")
    whole.run_training()
    assert_equal_runs(whole, longer)


def test_hook_state_survives_a_resume(tmp_path: Path):
    class Counter(Hook):
        def __init__(self) -> None:
            self.epochs = 0

        def on_epoch_end(self, trainer: BaseTrainer) -> None:
            self.epochs += 1

        def state_dict(self) -> dict[str, Any]:
            return {"epochs": self.epochs}

        def load_state_dict(self, state: dict[str, Any]) -> None:
            self.epochs = state["epochs"]

    stopped = ToyTrainer(
        toy_settings(), run_folder=tmp_path, device="cpu", hooks=[Counter(), StopAt(1, "on_epoch_end")]
    )
    stopped.run_training()
    counter = Counter()
    resumed = ToyTrainer(toy_settings(), run_folder=tmp_path, device="cpu", hooks=[counter])
    resumed.resume()
    resumed.run_training()
    assert counter.epochs == 2


def test_a_plain_iterable_is_skipped_to_the_place_where_the_run_stopped(tmp_path: Path):
    class OverAList(ToyTrainer):
        def build_batches(self) -> tuple[Any, Any]:
            return [make_ragged_batch(number) for number in range(4)], None

    settings = toy_settings(num_epochs=3)
    whole = OverAList(settings, run_folder=tmp_path / "whole", device="cpu")
    whole.run_training()
    OverAList(settings, run_folder=tmp_path / "parts", device="cpu", hooks=[StopAt(5)]).run_training()
    resumed = OverAList(settings, run_folder=tmp_path / "parts", device="cpu")
    resumed.resume()
    resumed.run_training()
    assert_equal_runs(whole, resumed)


class FailsOnce(ToyTrainer):
    """Its batch number 5 cannot be made."""

    def build_batches(self) -> tuple[Any, Any]:
        return make_failing_batch, make_ragged_batch


def make_failing_batch(number: int) -> dict[str, Any]:
    if number == 5:
        raise CaseError("heart_007", "the file is truncated")
    return make_ragged_batch(number)


@pytest.mark.parametrize("accumulation", [1, 2])
def test_a_case_that_breaks_in_the_middle_ends_the_run_with_a_checkpoint(tmp_path: Path, accumulation: int):
    settings = toy_settings(num_epochs=4, gradient_accumulation=accumulation, checkpoint_every_epochs=100)
    trainer = FailsOnce(settings, run_folder=tmp_path / "parts", device="cpu")
    with pytest.raises(CaseError, match="heart_007"):
        trainer.run_training()
    latest = tmp_path / "parts" / "checkpoint_latest.pth"
    if accumulation == 2:
        return  # batch 5 is the second half of an update: half of its gradients are in no checkpoint
    assert latest.exists()
    whole = ToyTrainer(settings, run_folder=tmp_path / "whole", device="cpu")
    whole.run_training()
    resumed = ToyTrainer(settings, run_folder=tmp_path / "parts", device="cpu")
    assert resumed.resume()
    assert resumed.global_step == 5
    resumed.run_training()
    assert_equal_runs(whole, resumed)


def test_preparing_one_batch_ahead_changes_nothing_not_even_a_resume(tmp_path: Path):
    """As on a GPU: a thread makes the next batch, which a run that is stopped has not used."""

    def one_ahead(folder: str, hooks: list[Hook]) -> ToyTrainer:
        trainer = ToyTrainer(toy_settings(num_epochs=3), run_folder=tmp_path / folder, device="cpu", hooks=hooks)
        trainer.execution = dataclasses.replace(trainer.execution, finish_on_device=True)
        return trainer

    whole = ToyTrainer(toy_settings(num_epochs=3), run_folder=tmp_path / "whole", device="cpu")
    whole.run_training()
    one_ahead("parts", [StopAt(5)]).run_training()
    resumed = one_ahead("parts", [])
    resumed.resume()
    resumed.run_training()
    assert_equal_runs(whole, resumed)


def test_the_deterministic_option_reaches_torch(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.delenv("CUBLAS_WORKSPACE_CONFIG", raising=False)
    trainer = ToyTrainer(toy_settings(deterministic=True), device="cpu")
    try:
        trainer.setup()
        assert torch.are_deterministic_algorithms_enabled()
        assert os.environ["CUBLAS_WORKSPACE_CONFIG"] == ":4096:8"
        assert "deterministic" in str(trainer.execution)
    finally:
        torch.use_deterministic_algorithms(False)
        monkeypatch.delenv("CUBLAS_WORKSPACE_CONFIG", raising=False)
