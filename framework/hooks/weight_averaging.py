"""An exponential moving average of the weights, used wherever the network is not trained."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch

from framework.hook import Hook

if TYPE_CHECKING:
    from framework.base_trainer import BaseTrainer


class WeightAveraging(Hook):
    """Keep ``average = decay * average + (1 - decay) * weights`` after every update.

    From the end of the training steps of an epoch to the start of the next, the network holds the average:
    validation, checkpoints and the final network therefore use it without knowing. Within an epoch it holds
    the trained weights, and this hook's state the average. The decay rises as (1 + t) / (10 + t) at the
    beginning, so that the random start is soon forgotten.

    Reference:
        Polyak & Juditsky (1992), Acceleration of stochastic approximation by averaging, SIAM J. Control Optim.;
        warm-up of the decay as in TensorFlow's ExponentialMovingAverage.
    """

    priority = 5

    def __init__(self, decay: float = 0.999) -> None:
        self.decay = decay
        self.updates = 0
        self.network_holds_average = False
        self._other: dict[str, torch.Tensor] = {}

    def on_train_start(self, trainer: BaseTrainer) -> None:
        tensors = _floating_tensors(trainer)
        self._other = {
            name: self._other[name].to(tensor.device) if name in self._other else tensor.clone()
            for name, tensor in tensors.items()
        }

    def on_train_epoch_start(self, trainer: BaseTrainer) -> None:
        if self.network_holds_average:
            self._exchange(trainer)

    @torch.no_grad()
    def on_update(self, trainer: BaseTrainer) -> None:
        self.updates += 1
        decay = min(self.decay, (1 + self.updates) / (10 + self.updates))
        tensors = _floating_tensors(trainer)
        torch._foreach_lerp_([self._other[name] for name in tensors], list(tensors.values()), 1 - decay)

    def on_train_epoch_end(self, trainer: BaseTrainer, outputs: list[dict[str, Any]]) -> None:
        self._exchange(trainer)

    def state_dict(self) -> dict[str, Any]:
        return {
            "updates": self.updates,
            "network_holds_average": self.network_holds_average,
            "weights": dict(self._other),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.updates = state["updates"]
        self.network_holds_average = state["network_holds_average"]
        self._other = {name: tensor.clone() for name, tensor in state["weights"].items()}

    @torch.no_grad()
    def _exchange(self, trainer: BaseTrainer) -> None:
        for name, tensor in _floating_tensors(trainer).items():
            mine = self._other[name]
            kept = mine.clone()
            mine.copy_(tensor)
            tensor.copy_(kept)
        self.network_holds_average = not self.network_holds_average


def _floating_tensors(trainer: BaseTrainer) -> dict[str, torch.Tensor]:
    """Parameters and buffers that can be averaged."""
    state = trainer.network.state_dict(keep_vars=False)
    return {name: tensor for name, tensor in state.items() if tensor.is_floating_point()}
