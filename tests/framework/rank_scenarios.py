"""What the tests of several processes run in each of them."""

from __future__ import annotations

import dataclasses
from typing import Any

import torch
from torch import Tensor, nn

from framework.base_trainer import BaseTrainer
from framework.distributed import ranks
from framework.hook import Hook
from framework.losses.segmentation_loss import SegmentationLoss
from tests.framework.toy_trainer import ToyTrainer, toy_settings

LOSS_CASES: dict[str, dict[str, Any]] = {
    "labels": {},
    "labels, batch Dice": {"batch_dice": True},
    "labels, ignore": {"ignore_label": 3},
    "labels, batch Dice, ignore": {"batch_dice": True, "ignore_label": 3},
    "regions": {"has_regions": True},
    "regions, batch Dice, ignore": {"has_regions": True, "batch_dice": True, "ignore_label": 3},
}
BATCH = 5


def loss_input(case: str) -> tuple[Tensor, Tensor]:
    """Logits (5, 3, 6, 5) and a target for them; samples differ in how many voxels count."""
    options = LOSS_CASES[case]
    numbers = torch.Generator().manual_seed(0)
    logits = torch.randn(BATCH, 3, 6, 5, generator=numbers)
    if options.get("has_regions"):
        channels = 3 + ("ignore_label" in options)
        return logits, torch.rand(BATCH, channels, 6, 5, generator=numbers) < 0.3
    target = torch.randint(0, 4 if "ignore_label" in options else 3, (BATCH, 1, 6, 5), generator=numbers)
    return logits, target


def loss_of_share(case: str) -> tuple[float, Tensor]:
    """Mean over the processes of the summed loss, and of its gradients by a common offset of the logits."""
    from framework.data.patch_sampling import rank_slots

    logits, target = loss_input(case)
    together = ranks()
    slots = rank_slots(BATCH, together.rank, together.size)
    offset = torch.zeros(1, 3, 6, 5, requires_grad=True)
    parts = SegmentationLoss(**LOSS_CASES[case])(
        logits[slots.start : slots.stop] + offset, target[slots.start : slots.stop]
    )
    loss = torch.stack(list(parts.values())).sum()
    loss.backward()
    assert offset.grad is not None
    gradients = torch.stack(together.gather(offset.grad))
    losses = together.gather(loss.item())
    return sum(losses) / len(losses), gradients.mean(0)


def all_losses() -> dict[str, tuple[float, Tensor]]:
    return {case: loss_of_share(case) for case in LOSS_CASES}


class SharedToy(ToyTrainer):
    """A linear network on batches of 6 vectors that are divided among the processes."""

    def build_network(self) -> nn.Module:
        return nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 1))

    def build_batches(self) -> tuple[Any, Any]:
        return SharedBatches(), SharedBatches()

    def compute_losses(self, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        predicted = self.forward(batch["x"])[:, 0]
        return {"value": (predicted - batch["y"]) ** 2}


@dataclasses.dataclass
class SharedBatches:
    rank: int = 0
    num_ranks: int = 1

    def share(self, rank: int, num_ranks: int) -> SharedBatches:
        return SharedBatches(rank, num_ranks)

    def __call__(self, number: int) -> dict[str, Tensor]:
        numbers = torch.Generator().manual_seed(number)
        x = torch.randn(6, 4, generator=numbers)
        own = slice(self.rank, None, self.num_ranks)
        return {"x": x[own], "y": x.sum(1)[own]}


class FailsOnRank1(SharedBatches):
    def share(self, rank: int, num_ranks: int) -> SharedBatches:
        return FailsOnRank1(rank, num_ranks)

    def __call__(self, number: int) -> dict[str, Tensor]:
        if self.rank == 1 and number == 4:
            from framework.errors import CaseError

            raise CaseError("case_7", "its file is damaged.")
        return super().__call__(number)


class FailingToy(SharedToy):
    def build_batches(self) -> tuple[Any, Any]:
        return FailsOnRank1(), SharedBatches()


@dataclasses.dataclass
class AskOnRank(Hook):
    """One process alone is asked to stop in the middle of an epoch."""

    rank: int
    step: int
    immediately: bool = True

    def on_step_end(self, trainer: BaseTrainer, outputs: dict[str, Any]) -> None:
        if trainer.ranks.rank == self.rank and trainer.global_step + 1 == self.step:
            if self.immediately:
                trainer.request_checkpoint("latest")
            trainer.request_stop(f"asked on rank {self.rank}", immediately=self.immediately)


class RecordSteps(Hook):
    """The losses of all steps, as the history sees them."""

    def __init__(self) -> None:
        self.losses: list[float] = []

    def on_train_epoch_end(self, trainer: BaseTrainer, outputs: list[dict[str, Any]]) -> None:
        self.losses += [float(output["loss"]) for output in outputs]


def train(
    trainer_class: type[BaseTrainer], settings: dict[str, Any], folder: str | None, hooks: list[Hook], resume: bool
) -> dict[str, Any]:
    """A training, and what is left of it."""
    record = RecordSteps()
    messages: list[str] = []
    trainer = trainer_class(toy_settings(**settings), run_folder=folder, device="cpu", hooks=[record, *hooks])
    trainer.report = messages.append
    if resume:
        trainer.resume()
    trainer.run_training()
    return {
        "losses": record.losses,
        "history": [
            {key: value for key, value in row.items() if "time" not in key and "seconds" not in key}
            for row in trainer.history
        ],
        "weights": {name: tensor.clone() for name, tensor in trainer.network.state_dict().items()},
        "interrupted": trainer.interrupted,
        "stop_reason": trainer.stop_reason,
        "epochs": trainer.progress.epochs_completed,
        "steps": trainer.progress.steps_completed,
        "messages": messages,
    }
