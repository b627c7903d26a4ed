"""Several processes train the model that one process trains."""

from __future__ import annotations

import math
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from framework.checkpoint import load_checkpoint
from framework.hooks.rank_watch import RankWatch, Sighting
from framework.rank_outputs import interleaved, merge_by_kind, merged
from tests.framework import rank_scenarios as scenarios
from tests.framework.rank_scenarios import AskOnRank, FailingToy, SharedToy, train
from tests.framework.toy_trainer import ToyTrainer
from tests.ranks import RankResult, run_on_ranks, start_on_ranks

SCENARIOS = "tests.framework.rank_scenarios"
LONGER = {"num_epochs": 3, "iterations_per_epoch": 4, "validation_iterations_per_epoch": 5, "initial_lr": 0.003}


def equal(first: dict[str, Any], second: dict[str, Any], tolerance: float) -> None:
    """The same losses of all steps, history and weights."""
    assert len(first["losses"]) == len(second["losses"])
    torch.testing.assert_close(torch.tensor(first["losses"]), torch.tensor(second["losses"]), atol=tolerance, rtol=0)
    assert [set(row) for row in first["history"]] == [set(row) for row in second["history"]]
    for ours, theirs in zip(first["history"], second["history"]):
        for key in ours:
            assert ours[key] == pytest.approx(theirs[key], abs=10 * tolerance), key
    for name in first["weights"]:
        torch.testing.assert_close(first["weights"][name], second["weights"][name], atol=tolerance, rtol=0)


@pytest.mark.parametrize("size", [2, 3])
def test_losses_and_gradients_of_shares_are_those_of_the_whole_batch(size: int, tmp_path: Path):
    # 5 samples on 2 or 3 ranks: shares of different size, with different numbers of voxels that count.
    results = run_on_ranks(size, f"{SCENARIOS}:all_losses", tmp_path)
    for case, (loss, gradient) in scenarios.all_losses().items():
        for of_rank in results:
            assert of_rank[case][0] == pytest.approx(loss, abs=1e-6), case
            torch.testing.assert_close(of_rank[case][1], gradient, atol=1e-7, rtol=1e-5)


@pytest.mark.parametrize(("size", "accumulation"), [(2, 1), (3, 2)])
def test_any_number_of_ranks_trains_the_same_model(size: int, accumulation: int, tmp_path: Path):
    settings = LONGER | {"gradient_accumulation": accumulation, "weight_averaging": 0.9}
    alone = train(SharedToy, settings, None, [], False)
    results = run_on_ranks(size, f"{SCENARIOS}:train", tmp_path, SharedToy, settings, None, [], False)
    for result in results:
        equal(result, alone, 1e-6)


def test_batches_that_cannot_be_divided_are_dealt_out_and_validated_once(tmp_path: Path):
    # Dropout of the toy draws other numbers on every rank, so only validation is compared: 5 batches on 2 ranks.
    settings = LONGER | {"num_epochs": 1, "initial_lr": 0.0}
    alone = train(ToyTrainer, settings, None, [], False)
    results = run_on_ranks(2, f"{SCENARIOS}:train", tmp_path, ToyTrainer, settings, None, [], False)
    for result in results:
        assert result["history"][0]["val_loss"] == pytest.approx(alone["history"][0]["val_loss"], abs=1e-6)


def test_a_request_to_one_rank_stops_all_at_one_step_and_the_run_goes_on_with_any_number(tmp_path: Path):
    whole = train(SharedToy, LONGER, None, [], False)
    folder = tmp_path / "run"
    stopped = run_on_ranks(
        2, f"{SCENARIOS}:train", tmp_path / "1", SharedToy, LONGER, str(folder), [AskOnRank(1, 5)], False
    )
    assert [result["interrupted"] for result in stopped] == [True, True]
    assert {result["stop_reason"] for result in stopped} == {"asked on rank 1"}
    assert len({(result["epochs"], result["steps"]) for result in stopped}) == 1
    assert len(load_checkpoint(folder / "checkpoint_latest.pth")["foldwise"]["train_outputs"]) == stopped[0]["steps"]
    # In the next part three ranks go on and are stopped within validation-free steps; the rest one process does.
    run_on_ranks(3, f"{SCENARIOS}:train", tmp_path / "2", SharedToy, LONGER, str(folder), [AskOnRank(2, 9)], True)
    rest = train(SharedToy, LONGER, str(folder), [], True)
    assert [row["epoch"] for row in rest["history"]] == [0, 1, 2]
    for ours, theirs in zip(rest["history"], whole["history"]):
        assert ours["train_loss"] == pytest.approx(theirs["train_loss"], abs=1e-6)
        assert ours["val_loss"] == pytest.approx(theirs["val_loss"], abs=1e-6)
    for name, weights in whole["weights"].items():
        torch.testing.assert_close(rest["weights"][name], weights, atol=1e-6, rtol=0)


def test_a_stop_after_the_epoch_that_one_rank_asks_for_is_everybodys(tmp_path: Path):
    hooks = [AskOnRank(1, 2, immediately=False)]
    results = run_on_ranks(2, f"{SCENARIOS}:train", tmp_path, SharedToy, LONGER, None, hooks, False)
    assert [result["epochs"] for result in results] == [1, 1]
    assert not any(result["interrupted"] for result in results)


def test_a_rank_without_data_ends_all_with_its_message_and_a_checkpoint(tmp_path: Path):
    folder = tmp_path / "run"
    results = start_on_ranks(2, f"{SCENARIOS}:train", tmp_path, FailingToy, LONGER, str(folder), [], False).wait()
    assert [result.exit_code for result in results] == [1, 1]
    assert "CaseError: case 'case_7': its file is damaged." in results[1].printed
    assert "OtherRankFailed: rank 1 failed: case 'case_7': its file is damaged." in results[0].printed
    assert load_checkpoint(folder / "checkpoint_latest.pth")["foldwise"]["progress"]["epochs_completed"] == 1


def exit_codes(results: list[RankResult]) -> list[int]:
    return [result.exit_code for result in results]


def test_a_float_is_averaged_an_integer_summed_and_rows_are_joined():
    assert merge_by_kind("loss", [torch.tensor(1.0), torch.tensor(2.0)]) == 1.5
    assert merge_by_kind("num_elements", [2, 3]) == 5
    assert merge_by_kind("count", [torch.tensor(2), torch.tensor(3)]) == 5
    assert merge_by_kind("features", [torch.zeros(2, 4), torch.ones(1, 4)]).tolist() == [[0] * 4, [0] * 4, [1] * 4]
    assert merge_by_kind("names", [["a"], ["b", "c"]]) == ["a", "b", "c"]
    assert merged([{"x": 1}, {"x": 2, "y": "only"}], merge_by_kind) == {"x": 3, "y": "only"}


def test_turns_are_put_back_in_the_order_of_their_numbers():
    # Batches 0 to 4 on 2 ranks; in the last turn rank 1 did number 4 again.
    from_all = [[{"n": 0}, {"n": 2}, {"n": 4}], [{"n": 1}, {"n": 3}, {"n": 4}]]
    assert [output["n"] for output in interleaved(from_all)[:5]] == [0, 1, 2, 3, 4]


def pulse(**changes: Any) -> dict[str, Any]:
    return {"left": False, "tick": 1, "beats": 1, "waits": False, "doing": "", "host": "", "process": 1} | changes


def test_a_rank_that_moves_waits_or_has_left_is_no_reason_to_complain():
    sighting = Sighting(since=0.0)
    assert not sighting.complaint(None, 5.0, timeout=10)
    for second in range(0, 100, 5):
        assert not sighting.complaint(pulse(tick=second, beats=second), float(second), timeout=10)
    for second in range(100, 200, 5):
        assert not sighting.complaint(pulse(tick=second, beats=7, waits=True), float(second), timeout=10)
    assert not sighting.complaint(pulse(left=True), 1000.0, timeout=10)


def test_a_rank_is_heard_of_from_the_first_moment_of_its_training():
    published: dict[str, Any] = {}
    others = SimpleNamespace(size=2, rank=1, is_main=False, put=published.__setitem__, look_up=lambda key: None)
    trainer: Any = SimpleNamespace(ranks=others, settings=SimpleNamespace(rank_timeout_minutes=60.0), interrupted=False)
    watch = RankWatch()
    watch.seconds_between_looks = 3600.0
    watch.on_train_start(trainer)
    at_the_start = dict(published)
    watch.on_teardown(trainer)
    assert not at_the_start["pulse/1"]["left"]


def test_a_rank_that_does_not_move_or_answer_is_named_with_its_place():
    stuck = Sighting(since=0.0)
    assert not stuck.complaint(pulse(doing="training step 3 of epoch 2"), 1.0, timeout=10)
    assert not stuck.complaint(pulse(tick=2, doing="training step 3 of epoch 2"), 10.0, timeout=10)
    complaint = stuck.complaint(pulse(tick=3, doing="training step 3 of epoch 2"), 11.5, timeout=10)
    assert "has not moved on for 10 s" in complaint
    assert "training step 3 of epoch 2" in complaint
    silent = Sighting(since=0.0)
    assert not silent.complaint(pulse(waits=True), 1.0, timeout=10)
    assert "has not answered for 10 s" in silent.complaint(pulse(waits=True), 11.5, timeout=10)
    assert "has not begun" in Sighting(since=0.0).complaint(None, 10.5, timeout=10)
    assert math.isfinite(silent.answered)
