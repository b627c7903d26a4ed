"""`ParameterUpdate`: the one owner of scale, backward, unscale, clip, step, update."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager
from typing import Any

import torch
from torch import Tensor

from framework.errors import NonFiniteError

_DTYPES = {"fp16": torch.float16, "bf16": torch.bfloat16, "fp32": torch.float32}


class ParameterUpdate:
    """From a loss to changed parameters, the same way on every device and in every precision.

    Called once for every batch; every `accumulation`-th call changes the parameters with the mean gradient
    of those calls, which equals the gradient of the large batch for losses that are means over samples.

    Args:
        optimizer: any torch optimizer.
        parameters: what is clipped; all parameters of the network as a rule.
        device: where the network lives.
        precision: ``fp32``, ``bf16``, or ``fp16`` (with loss scaling, Micikevicius et al. 2018, ICLR).
        clip_norm: largest L2 norm of all gradients together; None never clips.
        accumulation: number of calls in one update.
        non_finite: ``skip`` leaves the parameters alone when the loss or the gradient norm is NaN or Inf, and
            counts it; ``raise`` ends the training. Steps that fp16 scaling skips while it finds its scale, with a loss
            that is finite, are counted too, but do not raise.
        max_consecutive: so many skipped updates in a row end the training in any case.

    Raises:
        NonFiniteError: by the policy above. On a GPU it comes with the next reading of the count, at the
            latest after `_READ_EVERY` updates, because reading it every time would stall the device.
    """

    def __init__(
        self,
        optimizer: torch.optim.Optimizer,
        parameters: Iterable[torch.nn.Parameter],
        *,
        device: torch.device,
        precision: str = "fp32",
        clip_norm: float | None = 12.0,
        accumulation: int = 1,
        non_finite: str = "skip",
        max_consecutive: int = 25,
    ) -> None:
        self.optimizer = optimizer
        self.parameters = list(parameters)
        self.device = device
        self.precision = precision
        self.clip_norm = clip_norm
        self.accumulation = accumulation
        self.non_finite = non_finite
        self.max_consecutive = max_consecutive
        # A disabled scaler passes everything through, so that all precisions share one path.
        self.scaler = torch.amp.GradScaler(device.type, enabled=precision == "fp16")
        self.gradient_norm = torch.zeros((), device=device)
        self._mark_of_losses = torch.zeros((), device=device)
        self._calls = 0
        self._updates = 0
        # [skipped in all, skipped in a row], on the device.
        self._skipped = torch.zeros(2, dtype=torch.int64, device=device)

    def autocast(self) -> AbstractContextManager[Any]:
        """The precision in which forward and loss are computed."""
        return torch.autocast(self.device.type, dtype=self.dtype, enabled=self.precision != "fp32", cache_enabled=True)

    @property
    def dtype(self) -> torch.dtype:
        return _DTYPES[self.precision]

    def __call__(self, loss: Tensor, announce: Callable[[str], None] | None = None) -> bool:
        """Backward, and on every `accumulation`-th call an update.

        Args:
            loss: a scalar with its graph.
            announce: told ``on_backward`` when the iteration's gradients are there (unscaled, not clipped) and
                ``on_update`` after the optimizer.

        Returns:
            True if this call ended an iteration.
        """
        if self._calls == 0:
            self.optimizer.zero_grad(set_to_none=True)
        if self.accumulation > 1:
            loss = loss / self.accumulation
        self.scaler.scale(loss).backward()
        self._mark(loss)
        self._calls += 1
        if self._calls < self.accumulation:
            return False
        self._calls = 0
        # Clip after unscaling: the threshold is about true gradients, not scaled ones.
        self.scaler.unscale_(self.optimizer)
        if announce:
            announce("on_backward")
        self.gradient_norm = self._clip()
        self._step()
        if announce:
            announce("on_update")
        return True

    @property
    def skipped_updates(self) -> int:
        """Updates left out because of NaN or Inf. Reading waits for the device."""
        return int(self._skipped[0])

    def state_dict(self) -> dict[str, Any]:
        """Counters and loss scale. The optimizer has its own state."""
        return {"scaler": self.scaler.state_dict(), "skipped": self._skipped.tolist(), "updates": self._updates}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        if state["scaler"]:
            self.scaler.load_state_dict(state["scaler"])
        self._skipped.copy_(torch.tensor(state["skipped"]))
        self._updates = state["updates"]

    def _mark(self, loss: Tensor) -> None:
        """Make a gradient NaN where the loss is NaN or Inf, so that whatever looks at the gradients skips the update.

        Most such losses do that by themselves. Some do not: a mean over no voxels is NaN with gradients of 0.
        """
        mark = 0 * loss.detach()  # 0, or NaN: 0 * Inf is NaN as well
        if torch.distributed.is_available() and torch.distributed.is_initialized():
            # The gradients have been averaged already. All processes must skip, or their weights go different ways.
            torch.distributed.all_reduce(mark)
        self._mark_of_losses = mark if self._calls == 0 else self._mark_of_losses + mark
        gradient = next((p.grad for p in self.parameters if p.grad is not None), None)
        if gradient is not None:
            gradient.add_(mark)

    def _clip(self) -> Tensor:
        """Scale all gradients so that their common norm is at most `clip_norm`; returns the norm before."""
        gradients = [parameter.grad for parameter in self.parameters if parameter.grad is not None]
        norm = torch.nn.utils.get_total_norm(gradients)
        if self.clip_norm is not None:
            torch.nn.utils.clip_grads_with_norm_(self.parameters, self.clip_norm, norm)
        return norm.detach()

    def _step(self) -> None:
        finite = torch.isfinite(self.gradient_norm)
        if self.scaler.is_enabled():
            self.scaler.step(self.optimizer)  # skips by itself what `unscale_` found to be Inf or NaN
            self.scaler.update()
        elif _skips_on_device(self.optimizer) and self.device.type == "cuda":
            # A fused optimizer leaves the parameters alone where `found_inf` is 1, without asking the host.
            self.optimizer.grad_scale, self.optimizer.found_inf = None, (~finite).float()  # type: ignore[attr-defined]
            self.optimizer.step()
        elif bool(finite):
            self.optimizer.step()
        self._count(finite)

    def _count(self, finite: Tensor) -> None:
        if self.device.type == "cpu" and bool(finite) and not int(self._skipped[1]):
            self._updates += 1  # the usual case, without arithmetic on tensors
            return
        missed = (~finite).long()
        self._skipped[0] += missed
        self._skipped[1] = (self._skipped[1] + 1) * missed
        self._updates += 1
        # Reading a number of the CPU costs nothing; on other devices it would wait for all work in flight.
        if self.device.type == "cpu" or self.non_finite == "raise" or self._updates % _READ_EVERY == 0:
            self._check_policy()

    def _check_policy(self) -> None:
        total, in_a_row = self._skipped.tolist()
        if in_a_row and self.non_finite == "raise" and not self._is_search_for_scale():
            raise NonFiniteError(
                f"the gradient norm of update {self._updates} is {float(self.gradient_norm)}. "
                "The parameters were not changed. Look for NaN in the data or lower training.initial_lr; "
                "training.non_finite='skip' leaves such updates out."
            )
        if in_a_row >= self.max_consecutive:
            raise NonFiniteError(
                f"{in_a_row} updates in a row had a loss or gradients of NaN or Inf ({total} in all), the limit is "
                f"training.max_non_finite_updates={self.max_consecutive}. The parameters still hold the last good "
                "values. Look for NaN in the data, lower training.initial_lr, or train with training.precision=fp32."
            )

    def _is_search_for_scale(self) -> bool:
        """Whether loss scaling explains an update that was skipped: the losses themselves were finite."""
        return self.scaler.is_enabled() and bool(torch.isfinite(self._mark_of_losses))


_READ_EVERY = 50


def _skips_on_device(optimizer: torch.optim.Optimizer) -> bool:
    return bool(getattr(optimizer, "_step_supports_amp_scaling", False))
