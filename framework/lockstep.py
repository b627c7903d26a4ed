"""Keeps the processes of one training in step: the same decisions, joined gradients, merged outputs.

In a single process nothing of it costs anything.
"""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from framework.device_batches import DeviceBatches
from framework.distributed import OtherRankFailed, Ranks
from framework.pulse import PULSE
from framework.rank_outputs import interleaved, merged

if TYPE_CHECKING:
    from framework.base_trainer import BaseTrainer


class Lockstep:
    """What the loop of a trainer must know of the other processes.

    Signals, time limits and requests of hooks reach one process or all, at any time. Before each step all of them
    exchange what they have been asked, so that they save and leave at the same step (docs/decisions/0014).
    """

    def __init__(self, trainer: BaseTrainer, ranks: Ranks) -> None:
        self.trainer = trainer
        self.ranks = ranks
        self.leaves = False
        """Whether all have agreed to leave the run now, to be resumed."""
        self.saves = False
        """Whether all have agreed to save a checkpoint now."""
        self.completes = False
        """Whether all have agreed to end the training after this epoch. To leave it, to be resumed, is no such end."""
        self._joined: nn.parallel.DistributedDataParallel | None = None
        self._num_merged = 0
        self._has_told_reason = False

    def agree(self, failed: bool = False) -> bool:
        """Exchange requests; returns whether any process has failed."""
        trainer = self.trainer
        # Asked first, since a signal between the two must not look like the end of a completed training.
        stops = trainer.stop_reason is not None
        failed, stops, self.leaves, self.saves, validates = self.ranks.agree(
            failed, stops, trainer.interrupted, bool(trainer.requested_checkpoints), trainer.validation_requested
        )
        self.completes = stops and not self.leaves
        if self.ranks.size > 1:
            trainer.interrupted |= self.leaves
            trainer.validation_requested |= validates
            if self.saves and not trainer.requested_checkpoints:
                trainer.request_checkpoint("latest")
            if stops and not self._has_told_reason:
                self._has_told_reason = True
                trainer.stop_reason = next(reason for reason in self.ranks.gather(trainer.stop_reason) if reason)
        return failed

    def decide(self) -> None:
        """Make `leaves` and `saves` those of this moment, where that takes no exchange."""
        if self.ranks.size == 1:
            self.agree()

    def next_batch(self, batches: DeviceBatches) -> Any:
        """The next batch, and all that was asked meanwhile. If one process has no batch, all of them stop here."""
        batch, error = None, None
        try:
            batch = next(batches)
        except Exception as failure:
            error = failure
        if self.ranks.size == 1:
            if error is not None:
                self.trainer.save_before_failing()
                raise error
            return batch
        PULSE.beat(self.trainer.progress.describe())
        if self.agree(failed=error is not None):
            self.trainer.save_before_failing()
            messages = self.ranks.gather(None if error is None else str(error))
            if error is not None:
                raise error
            rank = next(rank for rank, message in enumerate(messages) if message is not None)
            raise OtherRankFailed(f"rank {rank} failed: {messages[rank]}", rank)
        return batch

    def network(self) -> nn.Module:
        """The network to call in a training step: with several processes it averages gradients in the backward pass."""
        trainer = self.trainer
        if self.ranks.size == 1 or not trainer.network.training or not torch.is_grad_enabled():
            return trainer.network
        if self._joined is None:
            on_gpu = trainer.device.type == "cuda"
            # Channels-last weights of 1x1x1 convolutions can be seen as either layout; torch thinks it worth a warning.
            warnings.filterwarnings("ignore", message="Grad strides do not match bucket view strides")
            self._joined = nn.parallel.DistributedDataParallel(
                trainer.network,
                device_ids=[trainer.device] if on_gpu else None,
                find_unused_parameters=trainer.find_unused_parameters,
            )
        # Gradients are exchanged once for an update, however many steps it has. What torch's `no_sync` sets.
        steps = trainer.progress.steps_completed + 1
        self._joined.require_backward_grad_sync = steps % trainer.settings.gradient_accumulation == 0
        return self._joined

    def merge_outputs(self) -> None:
        """Make the outputs of the running epoch those of all processes, as one process would have them."""
        trainer = self.trainer
        if self.ranks.size == 1:
            return
        validates = trainer.progress.phase == "validation"
        own = trainer.validation_outputs if validates else trainer.train_outputs
        known, new = own[: self._num_merged], own[self._num_merged :]
        from_all = self.ranks.gather([_on_cpu(output) for output in new])
        if validates and trainer.validates_whole_batches:
            left = trainer.settings.validation_iterations_per_epoch - len(known)
            outputs = interleaved(from_all)[:left]
        else:
            outputs = [merged(list(parts), trainer.merge_outputs) for parts in zip(*from_all)]
        own[:] = known + outputs
        self._num_merged = len(own)

    def begin_phase(self, num_merged: int = 0) -> None:
        """Outputs are collected anew.

        Args:
            num_merged: how many a resumed run has already; these are of all processes.
        """
        self._num_merged = num_merged

    def begin_validation(self) -> None:
        """Running statistics, which every process has gathered for itself, become those of rank 0."""
        self.begin_phase()
        if self.ranks.size > 1:
            for buffer in self.trainer.network.buffers():
                torch.distributed.broadcast(buffer, src=0)


def _on_cpu(output: dict[str, Any]) -> dict[str, Any]:
    return {name: value.cpu() if isinstance(value, torch.Tensor) else value for name, value in output.items()}
