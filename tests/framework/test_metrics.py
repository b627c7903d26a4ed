"""Overlap during training."""

from __future__ import annotations

import math

import pytest
import torch

from framework.metrics import confusion_counts, dice_from_counts, mean_without_nan, running_mean


def counts_by_hand(predicted: torch.Tensor, reference: torch.Tensor) -> tuple[int, int, int]:
    return (
        int((predicted & reference).sum()),
        int((predicted & ~reference).sum()),
        int((~predicted & reference).sum()),
    )


@pytest.mark.parametrize("ignore_label", [None, 4])
def test_label_counts_equal_counting_by_hand(ignore_label: int | None) -> None:
    torch.manual_seed(0)
    logits = torch.randn(2, 4, 5, 6, 7)
    target = torch.randint(0, 5 if ignore_label else 4, (2, 1, 5, 6, 7)).to(torch.int16)
    counts = confusion_counts(logits, target, ignore_label=ignore_label)
    valid = target[:, 0] != ignore_label if ignore_label else torch.ones(2, 5, 6, 7, dtype=torch.bool)
    labels = logits.argmax(1)
    for k in (1, 2, 3):
        expected = counts_by_hand((labels == k) & valid, (target[:, 0] == k) & valid)
        assert tuple(counts.stacked()[:, k - 1].tolist()) == expected
    from_labels = confusion_counts(labels[:, None], target, num_classes=4, ignore_label=ignore_label)
    assert torch.equal(from_labels.stacked(), counts.stacked())


@pytest.mark.parametrize("ignore_label", [None, 9])
def test_region_counts_equal_counting_by_hand(ignore_label: int | None) -> None:
    torch.manual_seed(0)
    logits = torch.randn(2, 3, 5, 6)
    target = torch.rand(2, 4 if ignore_label else 3, 5, 6) > 0.5
    counts = confusion_counts(logits, target, has_regions=True, ignore_label=ignore_label)
    valid = ~target[:, 3] if ignore_label else torch.ones(2, 5, 6, dtype=torch.bool)
    for r in range(3):
        expected = counts_by_hand((logits[:, r] > 0) & valid, target[:, r] & valid)
        assert tuple(counts.stacked()[:, r].tolist()) == expected


def test_more_than_255_labels_are_counted() -> None:
    labels = torch.arange(300).view(1, 1, 300)
    counts = confusion_counts(labels, labels, num_classes=300)
    assert counts.true_positive.tolist() == [1] * 299
    assert not counts.false_positive.any()


def test_counts_of_batches_add_up() -> None:
    one = confusion_counts(torch.tensor([[[1, 1, 0]]]), torch.tensor([[[1, 0, 1]]]), num_classes=2)
    assert (one + one).stacked().tolist() == [[2], [2], [2]]
    # 2*2 / (2*2 + 2 + 2)
    assert dice_from_counts(one + one).tolist() == [0.5]


def test_absent_class_has_no_dice() -> None:
    nothing = torch.zeros(1, 1, 4, dtype=torch.int64)
    assert math.isnan(dice_from_counts(confusion_counts(nothing, nothing, num_classes=2)).item())


def test_means_pass_over_what_is_not_a_number() -> None:
    assert mean_without_nan([0.5, math.nan, 0.7]) == pytest.approx(0.6)
    assert math.isnan(mean_without_nan([math.nan]))
    assert running_mean(None, 0.5) == 0.5
    assert running_mean(0.5, 0.6) == pytest.approx(0.51)
    assert running_mean(0.5, math.nan) == 0.5
    assert running_mean(math.nan, 0.4) == 0.4
