"""A trainer that has nothing to do with images: ragged sequences, two named losses, dropout."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from framework.base_trainer import BaseTrainer
from framework.hook import Hook
from framework.randomness import generator
from framework.training_settings import TrainingSettings


def make_ragged_batch(number: int) -> dict[str, Any]:
    """Sequences of different lengths in a nested dict, as no stacking loader could deliver them."""
    numbers = generator(0, "toy", number)
    lengths = numbers.integers(2, 6, size=3)
    sequences = [torch.tensor(numbers.normal(size=(length, 4)), dtype=torch.float32) for length in lengths]
    return {"input": {"sequences": sequences}, "sums": torch.stack([s.sum() for s in sequences])}


class SequenceNetwork(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Linear(4, 8)
        self.dropout = nn.Dropout(0.2)
        self.head = nn.Linear(8, 2)

    def forward(self, sequences: list[Tensor]) -> Tensor:
        return torch.stack([self.head(self.dropout(torch.tanh(self.embed(s))).sum(0)) for s in sequences])


class ToyTrainer(BaseTrainer):
    """Predict the sum of each ragged sequence, and its sign. Draws no picture: that takes longer than it trains."""

    def default_hooks(self) -> list[Hook]:
        return [hook for hook in super().default_hooks() if hook.name != "ProgressPlot"]

    def build_network(self) -> nn.Module:
        return SequenceNetwork()

    def build_batches(self) -> tuple[Any, Any]:
        return make_ragged_batch, make_ragged_batch

    def compute_losses(self, batch: dict[str, Any]) -> dict[str, Tensor]:
        outputs = self.forward(batch["input"]["sequences"])
        sums = batch["sums"]
        return {
            "value": (outputs[:, 0] - sums) ** 2,
            "sign": nn.functional.binary_cross_entropy_with_logits(outputs[:, 1], (sums > 0).float()),
        }


def toy_settings(**changes: Any) -> TrainingSettings:
    values: dict[str, Any] = {
        "num_epochs": 2,
        "iterations_per_epoch": 3,
        "validation_iterations_per_epoch": 2,
        "initial_lr": 0.01,
        "num_workers": 0,
    }
    return TrainingSettings.from_dict(values | changes)
