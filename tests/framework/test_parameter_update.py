from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import nn

from framework.errors import NonFiniteError
from framework.parameter_update import ParameterUpdate

CPU = torch.device("cpu")


def make(network: nn.Module, lr: float = 0.1, **options: Any) -> ParameterUpdate:
    optimizer = torch.optim.SGD(network.parameters(), lr=lr)
    return ParameterUpdate(optimizer, network.parameters(), device=CPU, **options)


def linear(seed: int = 0) -> nn.Linear:
    torch.manual_seed(seed)
    return nn.Linear(3, 1)


def test_one_update_is_one_step_of_the_optimizer():
    network, data = linear(), torch.randn(4, 3)
    weight = network.weight.detach().clone()
    make(network, clip_norm=None)(network(data).sum())
    # d(sum)/d(weight) is the sum of the inputs.
    assert torch.allclose(network.weight, weight - 0.1 * data.sum(0))


def test_gradients_are_clipped_to_the_norm_and_the_norm_before_is_kept():
    network = nn.Linear(2, 1, bias=False)
    nn.init.zeros_(network.weight)
    update = make(network, lr=1.0, clip_norm=1.0)
    # The gradient is (30, 40), of norm 50; clipped to norm 1 it is (0.6, 0.8).
    update(network(torch.tensor([[30.0, 40.0]])).sum())
    assert float(update.gradient_norm) == pytest.approx(50.0)
    assert network.weight.tolist()[0] == pytest.approx([-0.6, -0.8], rel=1e-4)


def test_gradients_are_unscaled_before_they_are_clipped():
    network = nn.Linear(2, 1, bias=False)
    nn.init.zeros_(network.weight)
    seen: list[float] = []
    update = make(network, lr=1.0, clip_norm=0.1, precision="fp16")

    def announce(point: str) -> None:
        if point == "on_backward":
            seen.append(float(network.weight.grad.norm()))  # type: ignore[union-attr]

    with update.autocast():
        loss = network(torch.tensor([[3.0, 4.0]])).sum()
    update(0.1 * loss.float(), announce)
    # The loss scale is 65536; on_backward and the clipping see the true norm.
    assert seen == pytest.approx([0.5], rel=1e-3)
    assert float(update.gradient_norm) == pytest.approx(0.5, rel=1e-3)
    assert network.weight.tolist()[0] == pytest.approx([-0.06, -0.08], rel=1e-3)


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_accumulated_small_batches_equal_the_large_batch(precision: str):
    data, target = torch.randn(8, 3), torch.randn(8, 1)
    large, small = linear(), linear()
    update = make(large, clip_norm=0.5, precision=precision)
    with update.autocast():
        update(nn.functional.mse_loss(large(data), target))
    update = make(small, clip_norm=0.5, accumulation=4, precision=precision)
    ended = []
    for part, part_target in zip(data.split(2), target.split(2)):
        with update.autocast():
            ended.append(update(nn.functional.mse_loss(small(part), part_target)))
    assert ended == [False, False, False, True]
    assert torch.allclose(large.weight, small.weight, atol=1e-6 if precision == "fp32" else 1e-2)


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_a_gradient_that_is_not_finite_is_skipped_and_counted(value: float):
    network = linear()
    update = make(network)
    weight = network.weight.detach().clone()
    update(network(torch.tensor([[value, 0.0, 0.0]])).sum())
    assert torch.equal(network.weight, weight)
    assert update.skipped_updates == 1
    update(network(torch.ones(1, 3)).sum())
    assert not torch.equal(network.weight, weight)
    assert update.skipped_updates == 1


def test_an_overflow_in_half_precision_is_skipped_and_lowers_the_scale():
    network = linear()
    update = make(network, precision="fp16")
    weight = network.weight.detach().clone()
    scale = update.scaler.get_scale()
    update(network(torch.tensor([[math.inf, 0.0, 0.0]])).sum())
    assert torch.equal(network.weight, weight)
    assert update.scaler.get_scale() == scale / 2
    assert update.skipped_updates == 1


def test_raise_ends_at_once_and_leaves_the_parameters_alone():
    network = linear()
    update = make(network, non_finite="raise")
    weight = network.weight.detach().clone()
    with pytest.raises(NonFiniteError, match="gradient norm of update 1 is nan"):
        update(network(torch.tensor([[math.nan, 0.0, 0.0]])).sum())
    assert torch.equal(network.weight, weight)


def test_raise_means_a_nan_loss_in_half_precision_and_not_an_overflow():
    network = linear()
    update = make(network, non_finite="raise", precision="fp16")
    for factor in (1e6, 1e-3):  # the first overflows at the scale of 2**16
        with update.autocast():
            loss = factor * network(torch.ones(1, 3)).float().sum()
        update(loss)
    assert update.skipped_updates == 1
    with pytest.raises(NonFiniteError, match="gradient norm of update 3 is nan"):
        update(network(torch.tensor([[math.nan, 0.0, 0.0]])).sum())


def test_too_many_in_a_row_end_the_training_but_single_ones_do_not():
    network = linear()
    update = make(network, max_consecutive=3)
    bad, good = torch.full((1, 3), math.nan), torch.ones(1, 3)
    for batch in (bad, bad, good, bad, bad):
        update(network(batch).sum())
    with pytest.raises(NonFiniteError, match=r"3 updates in a row .* \(5 in all\)"):
        update(network(bad).sum())


def test_state_survives():
    network = linear()
    update = make(network, precision="fp16")
    update(network(torch.tensor([[math.inf, 0.0, 0.0]])).sum())
    other = make(network, precision="fp16")
    other.load_state_dict(update.state_dict())
    assert other.scaler.get_scale() == update.scaler.get_scale()
    assert other.skipped_updates == 1


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_a_loss_that_is_not_finite_is_skipped_although_its_gradients_are_finite(precision: str, value: float):
    network = linear()
    update = make(network, precision=precision)
    weight = network.weight.detach().clone()
    with update.autocast():
        loss = 0.1 * network(torch.ones(1, 3)).float().sum()
    update(loss + value)
    assert torch.equal(network.weight, weight)
    assert update.skipped_updates == 1


def test_a_mean_over_no_voxels_spoils_the_whole_accumulated_update():
    network = linear()
    update = make(network, accumulation=2)
    weight = network.weight.detach().clone()
    # Cross-entropy in which every voxel is ignored: 0/0, with gradients that are exactly 0.
    logits = torch.cat([network(torch.ones(4, 3)), torch.zeros(4, 1)], 1)
    loss = nn.functional.cross_entropy(logits, torch.full((4,), -100))
    assert loss.isnan()
    assert not torch.autograd.grad(loss, network.weight, retain_graph=True)[0].any()
    update(loss)
    update(network(torch.ones(1, 3)).sum())
    assert torch.equal(network.weight, weight)
    assert update.skipped_updates == 1
