from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from framework.base_trainer import BaseTrainer
from framework.errors import DivergenceError
from framework.hook import Hook
from framework.hooks import hooks_from_settings
from framework.hooks.divergence import DivergenceDetector
from tests.framework.toy_trainer import ToyTrainer, toy_settings


class PretendedLosses(Hook):
    """Puts the numbers of a sequence into the history as training losses."""

    def __init__(self, losses: Sequence[float]) -> None:
        self.losses = losses

    def on_epoch_end(self, trainer: BaseTrainer) -> None:
        trainer.history.add(train_loss=float(self.losses[trainer.progress.epochs_completed - 1]))


def epochs_until_divergence(losses: Sequence[float], hook: DivergenceDetector) -> int | None:
    """The number of the epoch that raised, counted from 1; None if all passed."""
    trainer = ToyTrainer(toy_settings(), device="cpu")
    for epoch, loss in enumerate(losses):
        trainer.history.start_epoch()
        trainer.history.add(train_loss=float(loss))
        trainer.history.complete_epoch(epoch)
        trainer.progress.epochs_completed = epoch + 1
        try:
            hook.on_epoch_end(trainer)
        except DivergenceError:
            return epoch + 1
    return None


def test_mean_and_deviation_are_those_of_the_first_values():
    hook = DivergenceDetector(warm_up_epochs=4)
    epochs_until_divergence([4.0, 2.0, 3.0, 1.0], hook)
    # Means 4, 3, 3, 2.5. Distances to the mean before: |2 - 4| = 2, |3 - 3| = 0, |1 - 3| = 2; their mean is 4/3.
    assert hook.mean == pytest.approx(2.5)
    assert hook.best == pytest.approx(2.5)
    assert hook.deviation == pytest.approx(4 / 3)
    assert hook.limit == pytest.approx(2.5 + 10 * 4 / 3)


def test_old_values_are_forgotten():
    # One 0, then ones: each moves the mean by 1/n for n = 2 ... 10, and by a tenth of the rest from there on.
    hook = DivergenceDetector()
    epochs_until_divergence([0.0] + [1.0] * 9, hook)
    assert hook.mean == pytest.approx(0.9)
    epochs_until_divergence([1.0, 1.0], hook)
    assert hook.mean == pytest.approx(1 - 0.1 * 0.9**2)


def test_the_limit_is_met_or_missed_by_a_hair():
    # As above: after 4, 2, 3, 1 the limit is 2.5 + 10 * 4/3.
    limit = 2.5 + 40 / 3
    hook = DivergenceDetector(patience=1, warm_up_epochs=4)
    assert epochs_until_divergence([4.0, 2.0, 3.0, 1.0, limit + 1e-9], hook) == 5
    hook = DivergenceDetector(patience=1, warm_up_epochs=4)
    assert epochs_until_divergence([4.0, 2.0, 3.0, 1.0, limit - 1e-9], hook) is None


def test_bad_epochs_count_only_in_a_row_and_do_not_move_the_limit():
    good, bad = [1.0, 0.9, 1.0, 0.9, 1.0], [50.0, 60.0]
    hook = DivergenceDetector(patience=3)
    assert epochs_until_divergence([*good, *bad, 0.95, *bad, 0.95], hook) is None
    limit, hook = hook.limit, DivergenceDetector(patience=3)
    assert epochs_until_divergence([*good, 0.95, 0.95, *bad, 70.0], hook) == 10
    assert hook.limit == pytest.approx(limit)


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_epochs_that_are_not_finite_count_from_the_first_on(value: float):
    assert epochs_until_divergence([value] * 9, DivergenceDetector(patience=4)) == 4
    assert epochs_until_divergence([value, 1.0, value, 1.0] * 9, DivergenceDetector(patience=2)) is None


def test_the_loss_of_nnunet_falling_to_minus_one_is_left_alone_and_its_return_is_not():
    """The rule knows no sign, no scale and no shift."""
    random = np.random.default_rng(0)
    epochs = np.arange(1000)
    falling = 1.5 * np.exp(-epochs / 60) - 0.9 + random.normal(0, 0.015, 1000)
    for scale, shift in ((1, 0), (1e-3, 0), (1e4, 7e4)):
        losses = scale * falling + shift
        assert epochs_until_divergence(losses, DivergenceDetector()) is None
        # From epoch 600 on the network has forgotten half of what it knew.
        diverged = np.where(epochs < 600, losses, losses + 0.75 * scale)
        assert epochs_until_divergence(diverged, DivergenceDetector(patience=5)) == 605


@pytest.mark.parametrize("seed", range(5))
def test_noise_on_a_plateau_is_no_divergence(seed: int):
    random = np.random.default_rng(seed)
    assert epochs_until_divergence(random.normal(0.3, 0.1, 3000), DivergenceDetector()) is None
    # Noise with far outliers: Student's t with three degrees of freedom.
    assert epochs_until_divergence(random.standard_t(3, 3000), DivergenceDetector()) is None


def test_the_training_ends_as_an_error_with_the_best_checkpoint_kept(tmp_path: Path):
    losses = [1.0, 0.9, 0.8, 0.7, 0.6, 0.5, 90.0, 91.0, 92.0, 93.0]
    detector = {"name": "DivergenceDetector", "patience": 3}
    settings = toy_settings(num_epochs=10, hooks=[detector])
    trainer = ToyTrainer(settings, run_folder=tmp_path, device="cpu", hooks=[PretendedLosses(losses)])
    with pytest.raises(DivergenceError, match="it is 92 after epoch 9, and in the last 3 epochs") as caught:
        trainer.run_training()
    assert str(tmp_path / "checkpoint_best.pth") in str(caught.value)
    assert (tmp_path / "checkpoint_best.pth").exists()
    assert not (tmp_path / "checkpoint_final.pth").exists()


@pytest.mark.parametrize("stop_after", [3, 7, 8])
def test_a_resumed_run_diverges_in_the_same_epoch(tmp_path: Path, stop_after: int):
    class Stop(Hook):
        priority = 80

        def on_epoch_end(self, trainer: BaseTrainer) -> None:
            if trainer.progress.epochs_completed == stop_after:
                trainer.request_checkpoint("latest")
                trainer.request_stop("test", immediately=True)

    losses = [1.0, 0.9, 0.8, 0.7, 0.6, 0.5, 90.0, 91.0, 92.0, 93.0]
    settings = toy_settings(num_epochs=10, hooks=[{"name": "DivergenceDetector", "patience": 3}])
    hooks = [PretendedLosses(losses), Stop()]
    ToyTrainer(settings, run_folder=tmp_path, device="cpu", hooks=hooks).run_training()
    resumed = ToyTrainer(settings, run_folder=tmp_path, device="cpu", hooks=[PretendedLosses(losses)])
    assert resumed.resume()
    with pytest.raises(DivergenceError, match="it is 92 after epoch 9"):
        resumed.run_training()


def test_it_is_off_unless_it_is_asked_for():
    assert "DivergenceDetector" not in {hook.name for hook in ToyTrainer(toy_settings(), device="cpu").hooks}
    (hook,) = hooks_from_settings(toy_settings(hooks=["DivergenceDetector"]))
    assert isinstance(hook, DivergenceDetector)
