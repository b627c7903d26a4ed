"""Losses: nnU-Net's values and gradients, and what must not count.

The golden values come from nnU-Net 2.8.1 (DC_and_CE_loss and DC_and_BCE_loss with
MemoryEfficientSoftDiceLoss inside DeepSupervisionWrapper): cross-entropy, Dice, and for the two weighted
outputs the sum of the absolute gradient and its value at one voxel.
"""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from framework.losses import SegmentationLoss, deep_supervision_weights
from framework.losses.deep_supervision import downsample_target

GOLDEN: dict[str, tuple[float, float, list[float], list[float]]] = {
    "labels": (2.52503252, -0.24665517, [1.1438303, 0.57178396], [5.033e-06, -0.0008367618]),
    "labels_batch": (2.52503252, -0.24727075, [1.14398527, 0.57214546], [4.9941e-06, -0.0008567856]),
    "labels_ignore": (2.51969028, -0.23557480, [1.15293419, 0.56817812], [6.0642e-06, 0.0003738808]),
    "labels_absent": (2.50730419, -0.16122079, [1.09973037, 0.54175097], [5.0473e-06, -0.0008357696]),
    "regions": (1.06665397, -0.44256639, [0.43450195, 0.21558809], [-9.80114e-05, -9.33893e-05]),
    "regions_batch": (1.06665397, -0.44278654, [0.43447372, 0.21563902], [-9.85082e-05, -9.08152e-05]),
    "regions_ignore": (4.27494621, -0.43894967, [1.44078147, 0.72893453], [0.0, 0.0012919761]),
}


def case(name: str) -> tuple[list[Tensor], Tensor]:
    """Random logits at three resolutions, and a target."""
    generator = torch.Generator().manual_seed(11)
    sizes = [(8, 12, 8), (4, 6, 8), (2, 3, 4)]
    outputs = [(torch.randn(2, 4, *size, generator=generator) * 2).requires_grad_() for size in sizes]
    num_values = 5 if "ignore" in name else 4
    if name.startswith("regions"):
        return outputs, torch.rand(2, num_values, *sizes[0], generator=generator) > 0.6
    target = torch.randint(0, num_values, (2, 1, *sizes[0]), generator=generator)
    if "absent" in name:
        target[target == 3] = 0
    return outputs, target.to(torch.int16)


def loss_for(name: str) -> SegmentationLoss:
    return SegmentationLoss(
        has_regions=name.startswith("regions"),
        batch_dice="batch" in name,
        ignore_label=4 if "ignore" in name else None,
    )


@pytest.mark.parametrize("name", GOLDEN)
def test_values_and_gradients_are_those_of_nnunet(name: str) -> None:
    outputs, target = case(name)
    parts = loss_for(name)(outputs, target)
    (parts["cross_entropy"] + parts["dice"]).backward()
    cross_entropy, dice, gradient_sums, gradient_values = GOLDEN[name]
    assert parts["cross_entropy"].item() == pytest.approx(cross_entropy, abs=1e-5)
    assert parts["dice"].item() == pytest.approx(dice, abs=1e-5)
    for output, total, value in zip(outputs, gradient_sums, gradient_values, strict=False):
        assert output.grad is not None
        assert output.grad.abs().sum().item() == pytest.approx(total, rel=1e-5)
        assert output.grad[1, 2, 1, 2, 3].item() == pytest.approx(value, abs=1e-8)
    assert outputs[2].grad is None


@pytest.mark.parametrize("name", ["labels", "labels_ignore", "regions", "regions_ignore"])
def test_gradients_agree_with_finite_differences(name: str) -> None:
    outputs, target = case(name)
    logits = outputs[0].detach()[:, :, :2, :2, :2].clone().requires_grad_()
    target = target[:, :, :2, :2, :2]
    loss = loss_for(name)
    direction = torch.randn(logits.shape, generator=torch.Generator().manual_seed(3))
    # The two parts get different weights, as a user may give them.
    parts = loss(logits, target)
    (2 * parts["cross_entropy"] + 3 * parts["dice"]).backward()

    def value(step: float) -> float:
        moved = loss(logits.detach() + step * direction, target)
        return (2 * moved["cross_entropy"] + 3 * moved["dice"]).item()

    slope = (value(1e-2) - value(-1e-2)) / 2e-2
    assert logits.grad is not None
    assert (logits.grad * direction).sum().item() == pytest.approx(slope, rel=2e-3, abs=1e-4)


def test_perfect_prediction_has_dice_minus_one_and_no_cross_entropy() -> None:
    target = torch.arange(3).repeat(2, 9).view(2, 1, 3, 9)
    logits = torch.nn.functional.one_hot(target[:, 0].long(), 3).movedim(-1, 1) * 50.0
    parts = SegmentationLoss()(logits, target)
    assert parts["dice"].item() == pytest.approx(-1)
    assert parts["cross_entropy"].item() == pytest.approx(0, abs=1e-6)


def test_class_that_is_absent_and_not_predicted_scores_one() -> None:
    logits = torch.zeros(1, 3, 4, 4)
    logits[:, 0] = 100.0  # background everywhere, and the target agrees
    parts = SegmentationLoss()(logits, torch.zeros(1, 1, 4, 4, dtype=torch.int16))
    assert parts["dice"].item() == pytest.approx(-1)


@pytest.mark.parametrize("has_regions", [False, True])
def test_ignored_voxels_change_nothing_and_get_no_gradient(has_regions: bool) -> None:
    outputs, target = case("regions_ignore" if has_regions else "labels_ignore")
    loss = loss_for("regions_ignore" if has_regions else "labels_ignore")
    ignored = target[:, -1:].bool() if has_regions else target == 4
    logits = outputs[0].detach()
    changed = torch.where(ignored, torch.full_like(logits, 3.0), logits).requires_grad_()
    first, second = loss(logits, target), loss(changed, target)
    for name in first:
        assert first[name].item() == pytest.approx(second[name].item(), abs=1e-6)
    sum(second.values()).backward()
    assert changed.grad is not None
    assert not changed.grad[ignored.expand_as(changed)].any()
    assert changed.grad.any()


def test_batch_without_any_voxel_that_counts_has_no_cross_entropy() -> None:
    logits = torch.randn(1, 3, 4, 4, requires_grad=True)
    parts = SegmentationLoss(ignore_label=3)(logits, torch.full((1, 1, 4, 4), 3))
    assert parts["cross_entropy"].item() == 0
    sum(parts.values()).backward()
    assert logits.grad is not None
    assert torch.isfinite(logits.grad).all()


def test_extreme_logits_stay_finite() -> None:
    logits = torch.tensor([500.0, -500.0]).view(1, 2, 1, 1).expand(1, 2, 2, 2).clone().requires_grad_()
    parts = SegmentationLoss()(logits, torch.ones(1, 1, 2, 2, dtype=torch.int16))
    assert parts["cross_entropy"].item() == pytest.approx(1000)
    sum(parts.values()).backward()
    assert logits.grad is not None
    assert torch.isfinite(logits.grad).all()


def test_half_precision_logits_are_summed_in_full_precision() -> None:
    outputs, target = case("labels")
    logits = outputs[0].detach()
    full = SegmentationLoss()(logits.half().float(), target)
    half_logits = logits.half().requires_grad_()
    half = SegmentationLoss()(half_logits, target)
    assert half["dice"].dtype == torch.float32
    assert half["dice"].item() == pytest.approx(full["dice"].item(), abs=1e-7)
    sum(half.values()).backward()
    assert half_logits.grad is not None
    assert half_logits.grad.dtype == torch.float16


def test_channels_last_logits_give_the_same_loss() -> None:
    outputs, target = case("labels")
    logits = outputs[0].detach()
    plain = SegmentationLoss()(logits, target)
    last = SegmentationLoss()(logits.to(memory_format=torch.channels_last_3d), target)
    assert last["dice"].item() == pytest.approx(plain["dice"].item(), abs=1e-7)


def test_weights_halve_and_leave_out_the_lowest_resolution() -> None:
    # 1, 1/2, 1/4, 1/8 sum to 15/8
    assert deep_supervision_weights(5) == pytest.approx((8 / 15, 4 / 15, 2 / 15, 1 / 15, 0))
    assert deep_supervision_weights(1) == (1.0,)


def test_outputs_of_weight_zero_may_be_missing() -> None:
    outputs, target = case("labels")
    every = SegmentationLoss(output_weights=deep_supervision_weights(3))
    assert every(outputs[:2], target)["dice"].item() == pytest.approx(every(outputs, target)["dice"].item())


def test_a_single_tensor_has_weight_one() -> None:
    outputs, target = case("labels")
    alone = SegmentationLoss()(outputs[0], target)
    with_weights = SegmentationLoss(output_weights=deep_supervision_weights(3))(outputs[0], target)
    assert alone["dice"].item() == with_weights["dice"].item()


@pytest.mark.parametrize("size", [(4, 6, 5), (2, 3, 5), (3, 5, 2), (8, 12, 5)])
def test_targets_are_downsampled_like_nearest_exact(size: tuple[int, ...]) -> None:
    target = torch.randint(0, 1000, (2, 1, 8, 12, 5)).to(torch.int16)
    expected = torch.nn.functional.interpolate(target.double(), size=size, mode="nearest-exact")
    assert torch.equal(downsample_target(target, size).double(), expected)


def test_dice_is_the_formula_by_hand() -> None:
    # Two voxels with p(foreground) = 1/2 and 3/4; the second one is foreground.
    logits = torch.tensor([[0.0, 0.0], [0.0, math.log(3)]]).view(1, 2, 1, 2)
    parts = SegmentationLoss(smooth=0.0)(logits, torch.tensor([0, 1]).view(1, 1, 1, 2))
    # intersection 3/4, sum of predictions 5/4, sum of targets 1
    assert parts["dice"].item() == pytest.approx(-(2 * 0.75) / (1.25 + 1))
    assert parts["cross_entropy"].item() == pytest.approx((math.log(2) + math.log(4 / 3)) / 2)
