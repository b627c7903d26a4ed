"""NaN and Inf in a training: which batches, what is written, what is left alone."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from framework.base_trainer import BaseTrainer
from framework.errors import NonFiniteError
from framework.hook import Hook
from framework.hooks.non_finite import NonFiniteRecord
from framework.hooks.running_statistics import RunningStatistics
from framework.training_settings import TrainingSettings
from tests.framework.toy_trainer import toy_settings

CASES = [f"case_{number}" for number in range(5)]
NAN, INF = math.nan, math.inf


@dataclass
class NamedBatch:
    data: Tensor
    case_names: list[str]
    logits: Tensor | None = None


@dataclass
class MakeBatch:
    """Batch n holds cases n and n + 1, modulo 5; one of its voxels in ``value`` where n is in `bad`."""

    bad: frozenset[int] = frozenset()
    value: float = NAN

    def __call__(self, number: int) -> NamedBatch:
        data = torch.full((2, 3), 0.1 * (1 + number % 7))
        if number in self.bad:
            data[1, 2] = self.value
        return NamedBatch(data, [CASES[number % 5], CASES[(number + 1) % 5]])


class NamedTrainer(BaseTrainer):
    """Linear regression on batches that know their cases; faults come by the number of the batch."""

    bad: frozenset[int] = frozenset()
    bad_validation: frozenset[int] = frozenset()
    value = NAN

    def default_hooks(self) -> list[Hook]:
        return [hook for hook in super().default_hooks() if hook.name != "ProgressPlot"]

    def build_network(self) -> nn.Module:
        return nn.Linear(3, 1)

    def build_batches(self) -> tuple[Any, Any]:
        return MakeBatch(self.bad, self.value), MakeBatch(self.bad_validation)

    def compute_losses(self, batch: NamedBatch) -> dict[str, Tensor]:
        batch.logits = self.forward(batch.data)
        return {"square": batch.logits.square().mean(), "distance": batch.logits.abs().mean()}


def trainer_with(
    folder: Path | None, bad: set[int] = frozenset(), *, hooks: Any = (), value: float = NAN, **changes: Any
) -> NamedTrainer:
    trainer = NamedTrainer(settings(**changes), run_folder=folder, device="cpu", hooks=hooks)
    trainer.bad, trainer.value = frozenset(bad), value
    trainer.report = lambda message: None
    return trainer


def settings(**changes: Any) -> TrainingSettings:
    return toy_settings(**{"iterations_per_epoch": 4, "channels_last": False, "final_validation": False} | changes)


def lines(folder: Path) -> list[dict[str, Any]]:
    def no_constants(word: str) -> None:
        raise AssertionError(f"{word} is no JSON")

    text = (folder / "non_finite.jsonl").read_text()
    return [json.loads(line, parse_constant=no_constants) for line in text.splitlines()]


class StopAfter(Hook):
    """Leave the run after so many training steps, with a checkpoint."""

    def __init__(self, step: int) -> None:
        self.step = step

    def on_step_end(self, trainer: BaseTrainer, outputs: dict[str, Any]) -> None:
        if trainer.global_step + 1 == self.step:
            trainer.request_checkpoint("latest")
            trainer.request_stop("test", immediately=True)


# ---------------------------------------------------------------- the record


def test_every_bad_batch_is_listed_with_its_cases_and_numbers(tmp_path: Path):
    trainer = trainer_with(tmp_path, {1, 6}, initial_lr=0.5, schedule="constant")
    messages: list[str] = []
    trainer.report = messages.append
    trainer.run_training()
    first, second = lines(tmp_path)
    # Step 6 is step 2 of epoch 1, and holds cases 6 % 5 and 7 % 5.
    assert second == {
        "phase": "training",
        "epoch": 1,
        "step": 2,
        "global_step": 6,
        "case_names": ["case_1", "case_2"],
        "losses": {"square": "nan", "distance": "nan", "loss": "nan"},
        "gradient_norm": "nan",
        "lr": 0.5,
    }
    assert (first["epoch"], first["step"], first["case_names"]) == (0, 1, ["case_1", "case_2"])
    assert trainer.history["skipped_updates"] == [1, 2]
    warnings = [message for message in messages if message.startswith("warning: NaN or Inf in 1 of 4 training batches")]
    assert len(warnings) == 2
    assert "'case_1' (1 of 1)" in warnings[0]


def test_a_training_without_faults_leaves_no_file(tmp_path: Path):
    trainer_with(tmp_path).run_training()
    assert not (tmp_path / "non_finite.jsonl").exists()


def test_infinite_voxels_are_told_from_nan(tmp_path: Path):
    trainer_with(tmp_path, {0}, value=INF, num_epochs=1).run_training()
    assert lines(tmp_path)[0]["losses"]["square"] == "inf"


def test_the_batch_that_was_bad_is_listed_and_not_the_others_of_its_update(tmp_path: Path):
    # Updates of two batches each: batch 5 spoils the update of 4 and 5.
    trainer = trainer_with(tmp_path, {5}, gradient_accumulation=2, num_epochs=1)
    trainer.run_training()
    (line,) = lines(tmp_path)
    assert (line["step"], line["case_names"], line["gradient_norm"]) == (5, ["case_0", "case_1"], "nan")
    assert trainer.update.skipped_updates == 1


def test_all_batches_of_an_update_are_listed_if_only_the_gradients_were_bad(tmp_path: Path):
    class BadGradients(NamedTrainer):
        def compute_losses(self, batch: NamedBatch) -> dict[str, Tensor]:
            loss = self.forward(batch.data).square().mean()
            if self.global_step == 3:
                # sqrt has a value at 0, but no derivative: 0 * Inf is NaN.
                loss = loss + torch.sqrt(0 * next(self.network.parameters())).sum()
            return {"square": loss}

    trainer = BadGradients(settings(gradient_accumulation=2, num_epochs=1), run_folder=tmp_path, device="cpu")
    trainer.run_training()
    found = lines(tmp_path)
    assert [line["step"] for line in found] == [2, 3]
    assert all(line["gradient_norm"] == "nan" and isinstance(line["losses"]["loss"], float) for line in found)


def test_bad_validation_batches_are_listed_too(tmp_path: Path):
    class TellsCases(NamedTrainer):
        bad_validation = frozenset({1})

        def validation_step(self, batch: NamedBatch) -> dict[str, Any]:
            return super().validation_step(batch) | {"case_names": batch.case_names}

    trainer = TellsCases(settings(num_epochs=1), run_folder=tmp_path, device="cpu")
    trainer.run_training()
    (line,) = lines(tmp_path)
    nan = dict.fromkeys(["square", "distance", "loss"], "nan")
    cases = ["case_1", "case_2"]
    assert line == {"phase": "validation", "epoch": 0, "step": 1, "case_names": cases, "losses": nan}
    assert math.isnan(trainer.history["val_loss"][0])
    assert not (tmp_path / "checkpoint_best.pth").exists()


def test_batches_of_any_kind_are_recorded_without_names(tmp_path: Path):
    class Plain(NamedTrainer):
        def build_batches(self) -> tuple[Any, Any]:
            return (lambda number: [torch.full((2, 3), NAN if number == 2 else 1.0)]), None

        def compute_losses(self, batch: list[Tensor]) -> dict[str, Tensor]:
            return {"square": self.forward(batch[0]).square().mean()}

    Plain(settings(num_epochs=1), run_folder=tmp_path, device="cpu").run_training()
    assert [(line["step"], line["case_names"]) for line in lines(tmp_path)] == [(2, [])]


@pytest.mark.parametrize("stop_after", [1, 5, 6, 8])
def test_a_resumed_run_writes_the_lines_of_an_uninterrupted_one(tmp_path: Path, stop_after: int):
    bad = {0, 4, 5, 7, 9}
    trainer_with(tmp_path / "whole", bad, num_epochs=3).run_training()
    stopped = trainer_with(tmp_path / "parts", bad, num_epochs=3, hooks=[StopAfter(stop_after)])
    stopped.run_training()
    assert stopped.interrupted
    resumed = trainer_with(tmp_path / "parts", bad, num_epochs=3)
    assert resumed.resume()
    resumed.run_training()
    assert lines(tmp_path / "parts") == lines(tmp_path / "whole")


def test_lines_beyond_the_checkpoint_are_dropped_when_the_run_is_resumed(tmp_path: Path):
    """A run that was killed has written lines of epochs, and of one half, that the resumed run repeats."""

    class Killed(Hook):
        def on_epoch_end(self, trainer: BaseTrainer) -> None:
            if trainer.progress.epochs_completed == 3:
                raise KeyboardInterrupt

    class SaveAt(Hook):
        def on_step_end(self, trainer: BaseTrainer, outputs: dict[str, Any]) -> None:
            if trainer.global_step + 1 == 6:
                trainer.request_checkpoint("latest")

    bad = {0, 4, 5, 7, 9}
    changes = {"num_epochs": 4, "checkpoint_every_epochs": 100, "checkpoint_every_minutes": None}
    trainer_with(tmp_path / "whole", bad, **changes).run_training()
    killed = trainer_with(tmp_path / "parts", bad, hooks=[Killed(), SaveAt()], **changes)
    killed.monitor = "none"  # no best checkpoint, which would be newer
    with pytest.raises(KeyboardInterrupt):
        killed.run_training()
    assert len(lines(tmp_path / "parts")) == 5
    resumed = trainer_with(tmp_path / "parts", bad, **changes)
    assert resumed.resume()
    assert resumed.global_step == 6
    resumed.run_training()
    assert lines(tmp_path / "parts") == lines(tmp_path / "whole")


def test_lines_of_a_training_phase_stay_when_the_run_goes_on_in_validation(tmp_path: Path):
    class StopInValidation(NamedTrainer):
        def validation_step(self, batch: Any) -> dict[str, Any]:
            self.request_checkpoint("latest")
            self.request_stop("test", immediately=True)
            return super().validation_step(batch)

    stopped = StopInValidation(settings(), run_folder=tmp_path, device="cpu")
    stopped.bad = frozenset({2})
    stopped.run_training()
    assert stopped.progress.phase == "validation"
    resumed = trainer_with(tmp_path, {2})
    assert resumed.resume()
    resumed.run_training()
    assert [line["global_step"] for line in lines(tmp_path)] == [2]


def test_faults_before_the_first_checkpoint_are_kept_when_a_new_run_starts(tmp_path: Path):
    folder = tmp_path / "fold_0"
    with pytest.raises(NonFiniteError):
        trainer_with(folder, {0}, non_finite="raise").run_training()
    trainer_with(folder, num_epochs=1).run_training()
    assert not (folder / "non_finite.jsonl").exists()
    assert (tmp_path / "fold_0_before_1" / "non_finite_batch.pth").exists()


# ---------------------------------------------------------------- the limit


def test_the_limit_names_cases_and_files_and_keeps_the_batch(tmp_path: Path):
    trainer = trainer_with(tmp_path, set(range(2, 100)), max_non_finite_updates=3)
    with pytest.raises(NonFiniteError) as caught:
        trainer.run_training()
    message = str(caught.value)
    # Steps 2, 3 and 4 hold cases 2 3, 3 4 and 4 0. The limit is reached in the second epoch.
    assert "3 updates in a row" in message
    assert "In batch 4, the last of them, data of case 'case_0' has NaN or Inf" in message
    assert str(tmp_path / "non_finite.jsonl") in message
    assert str(tmp_path / "non_finite_batch.pth") in message
    assert [line["global_step"] for line in lines(tmp_path)] == [2, 3, 4]
    saved = torch.load(tmp_path / "non_finite_batch.pth", weights_only=True)
    assert (saved["epoch"], saved["step"], saved["global_step"]) == (1, 0, 4)
    assert saved["case_names"] == saved["batch"]["case_names"] == ["case_4", "case_0"]
    expected = MakeBatch(frozenset({4}))(4).data
    assert torch.equal(saved["batch"]["data"].nan_to_num(nan=-1), expected.nan_to_num(nan=-1))
    assert saved["batch"]["logits"].isnan().tolist() == [[False], [True]]
    assert math.isnan(saved["losses"]["square"])
    log = next(tmp_path.glob("training_log_*.txt")).read_text()
    assert "non_finite_batch.pth" in log


def test_of_an_accumulated_update_the_batch_with_the_fault_is_kept(tmp_path: Path):
    trainer = trainer_with(tmp_path, {2}, gradient_accumulation=4, non_finite="raise")
    with pytest.raises(NonFiniteError, match="In batch 2, the last of them, data of case 'case_3'"):
        trainer.run_training()
    saved = torch.load(tmp_path / "non_finite_batch.pth", weights_only=True)
    assert saved["global_step"] == 2
    assert saved["batch"]["case_names"] == ["case_2", "case_3"]


def test_the_message_says_when_the_data_are_not_to_blame(tmp_path: Path):
    class InfiniteLogits(NamedTrainer):
        def forward(self, *inputs: Any, **options: Any) -> Any:
            return super().forward(*inputs, **options) * (INF if self.global_step == 1 else 1)

    trainer = InfiniteLogits(settings(non_finite="raise"), run_folder=tmp_path, device="cpu")
    with pytest.raises(NonFiniteError, match="the data themselves are finite"):
        trainer.run_training()


def test_a_prediction_that_is_not_finite_does_not_pass_for_a_bad_batch(tmp_path: Path):
    class Predict(Hook):
        def on_train_end(self, trainer: BaseTrainer) -> None:
            raise NonFiniteError("the logits are NaN.")

    with pytest.raises(NonFiniteError, match=r"^the logits are NaN\.$"):
        trainer_with(tmp_path, hooks=[Predict()]).run_training()
    assert not (tmp_path / "non_finite_batch.pth").exists()


# ---------------------------------------------------------------- loss scaling


class Overflows(NamedTrainer):
    """Finite losses with gradients that overflow where the loss scale is above 2 to the power of 11."""

    def compute_losses(self, batch: NamedBatch) -> dict[str, Tensor]:
        losses = super().compute_losses(batch)
        scale = self.update.scaler.get_scale()
        return {"square": losses["square"].float() + _Overflow.apply(losses["distance"].float(), scale)}


class _Overflow(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, value: Tensor, scale: float) -> Tensor:
        ctx.scale = scale
        return value.clone()

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        return gradient * (INF if ctx.scale > 2**11 else 1), None


def test_what_loss_scaling_skips_in_its_search_is_no_fault(tmp_path: Path):
    trainer = Overflows(
        settings(precision="fp16", num_epochs=1, iterations_per_epoch=8), run_folder=tmp_path, device="cpu"
    )
    trainer.run_training()
    # From 2**16 down to 2**11 takes five updates.
    assert trainer.update.skipped_updates == 5
    assert not (tmp_path / "non_finite.jsonl").exists()


def test_a_nan_loss_is_a_fault_in_half_precision_too(tmp_path: Path):
    trainer = trainer_with(tmp_path, {2}, precision="fp16", num_epochs=1)
    trainer.run_training()
    # The bias's gradient is 1 for the distance alone. Scaled by 2**16 it is more than half precision can hold, so the
    # first update is skipped and the scale halved; that is no fault. Batch 2 is.
    assert trainer.update.skipped_updates == 2
    (line,) = lines(tmp_path)
    assert (line["step"], line["loss_scale"], line["losses"]["loss"]) == (2, 2.0**15, "nan")


def test_skips_of_loss_scaling_that_lead_to_the_limit_are_listed_over_epochs_and_a_resume(tmp_path: Path):
    numbers = settings(precision="fp16", iterations_per_epoch=2, num_epochs=9, max_non_finite_updates=5)
    stopped = Overflows(numbers, run_folder=tmp_path, device="cpu", hooks=[StopAfter(3)])
    stopped.run_training()
    resumed = Overflows(numbers, run_folder=tmp_path, device="cpu")
    assert resumed.resume()
    with pytest.raises(NonFiniteError, match="5 updates in a row"):
        resumed.run_training()
    found = lines(tmp_path)
    assert [line["global_step"] for line in found] == [0, 1, 2, 3, 4]
    assert [line["loss_scale"] for line in found] == [2.0**16, 2.0**15, 2.0**14, 2.0**13, 2.0**12]


# ---------------------------------------------------------------- the price


class CountReads(TorchDispatchMode):
    """Counts how often the value of a tensor is asked for, which on a GPU would wait for all work in flight."""

    reads = 0

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.reads += function in (torch.ops.aten._local_scalar_dense.default, torch.ops.aten.is_nonzero.default)
        return function(*args, **(kwargs or {}))


def test_nothing_is_read_from_the_device_within_a_step():
    class Normalised(NamedTrainer):
        def build_network(self) -> nn.Module:
            return nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Linear(4, 1))

    trainer = Normalised(settings(precision="fp16"), device="cpu")
    trainer.setup()
    batch = MakeBatch()(0)
    losses = trainer.compute_losses(batch)
    trainer.update(losses["square"].float())
    with CountReads() as count:
        assert bool(torch.ones(()))
        assert count.reads == 1  # that one
        for hook in (NonFiniteRecord(), RunningStatistics()):
            if isinstance(hook, RunningStatistics):
                hook.on_train_start(trainer)
            hook.on_step_start(trainer, batch)
            hook.on_loss(trainer, losses)
            hook.on_backward(trainer)
            hook.on_update(trainer)
            hook.on_step_end(trainer, {})
        trainer.update._mark(losses["square"].float())
    assert count.reads == 1


# ---------------------------------------------------------------- what a skipped update leaves alone


def test_a_skipped_update_leaves_batch_normalisation_alone():
    """The same training without the bad batch has the same running statistics."""

    class Normalised(NamedTrainer):
        def build_network(self) -> nn.Module:
            return nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Linear(4, 1))

    class Counts(Hook):
        def on_step_start(self, trainer: BaseTrainer, batch: NamedBatch) -> None:
            if trainer.global_step == 3:
                trainer.seen = {n: b.clone() for n, b in trainer.network.named_buffers()}  # type: ignore[attr-defined]

    trainer = Normalised(settings(num_epochs=1, weight_averaging=0.5), device="cpu", hooks=[Counts()])
    trainer.bad = frozenset({3})
    trainer.run_training()
    average = next(hook for hook in trainer.hooks if hook.name == "WeightAveraging").state_dict()["weights"]
    for name, seen in trainer.seen.items():  # type: ignore[attr-defined]
        # The network holds the average after an epoch, and the hook what was trained.
        trained = average.get(name, trainer.network.state_dict()[name])
        assert torch.equal(trained, seen), name
    assert all(tensor.isfinite().all() for tensor in trainer.network.state_dict().values())
    assert math.isfinite(trainer.history["val_loss"][0])


def test_the_mean_training_loss_is_that_of_the_batches_that_were_used():
    changes: dict[str, Any] = {"num_epochs": 1, "initial_lr": 0.0}
    without = trainer_with(None, **changes)
    without.run_training()
    outputs: list[float] = []

    class Watch(Hook):
        def on_train_epoch_end(self, trainer: BaseTrainer, steps: list[dict[str, Any]]) -> None:
            outputs.extend(float(step["loss"]) for step in steps)

    trainer = trainer_with(None, {2}, hooks=[Watch()], **changes)
    trainer.run_training()
    assert math.isnan(outputs[2])
    assert trainer.history["train_loss"][0] == pytest.approx((outputs[0] + outputs[1] + outputs[3]) / 3)


def test_an_epoch_in_which_nothing_was_finite_has_no_mean_training_loss():
    trainer = trainer_with(None, set(range(4)), num_epochs=1)
    trainer.run_training()
    assert math.isnan(trainer.history["train_loss"][0])
    assert trainer.history["gradient_norm"] == [None]
