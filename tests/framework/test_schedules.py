from __future__ import annotations

import math

import pytest

from framework.errors import PlansError, UnknownNameError
from framework.schedules import build_schedule


def epochs(spec, count: int, num_epochs: int = 1000, iterations: int = 10, initial: float = 1.0) -> list[float]:
    schedule = build_schedule(spec, initial=initial, num_epochs=num_epochs, iterations_per_epoch=iterations)
    return [schedule(epoch * iterations) for epoch in range(count)]


def test_poly_is_nnunets_learning_rate():
    # lr(epoch) = 0.01 * (1 - epoch / 1000) ** 0.9
    values = epochs({"name": "poly", "exponent": 0.9}, 1000, initial=0.01)
    assert values[0] == 0.01
    assert values[500] == pytest.approx(0.01 * 0.5**0.9)
    assert values[999] == pytest.approx(0.01 * 0.001**0.9)


def test_epoch_schedules_are_constant_within_an_epoch():
    schedule = build_schedule("poly", num_epochs=4, iterations_per_epoch=10)
    assert len({schedule(iteration) for iteration in range(10, 20)}) == 1
    assert schedule(10) != schedule(9)


def test_cosine_with_warm_up_by_iteration():
    spec = {"name": "cosine", "unit": "iteration", "warmup": 10}
    schedule = build_schedule(spec, initial=2.0, num_epochs=11, iterations_per_epoch=10)
    assert schedule(0) == 0.0
    assert schedule(5) == 1.0
    assert schedule(10) == 2.0
    assert schedule(60) == pytest.approx(1.0)  # half way from 10 to 110
    assert schedule(110) == pytest.approx(0.0)
    assert schedule(35) == pytest.approx(1.0 + math.cos(math.pi / 4))


def test_a_gate_opens_after_its_start():
    assert epochs({"name": "gate", "start": 10}, 12)[9:] == [0.0, 0.0, 1.0]


def test_a_linear_ramp_at_its_borders():
    # From 0 at iteration 2000 to 1 at 3500; 1/1500 = 0.00067 after one step, one half at 2750.
    schedule = build_schedule(
        {"name": "ramp", "unit": "iteration", "start": 2000, "stop": 3500}, num_epochs=100, iterations_per_epoch=100
    )
    assert [schedule(t) for t in (1999, 2000, 2750, 3500, 9999)] == [0, 0, 0.5, 1, 1]
    assert schedule(2001) == pytest.approx(0.00067, abs=1e-5)


def test_piecewise_changes_after_each_milestone():
    # 20 until epoch 200, then times 0.66 after 200, 800 and 1500.
    spec = {"name": "piecewise", "initial": 20, "milestones": [200, 800, 1500], "factor": 0.66}
    values = epochs(spec, 1502, num_epochs=2000)
    assert [round(values[t], 5) for t in (200, 201, 801, 1501)] == [20, 13.2, 8.712, 5.74992]


def test_a_list_gives_one_value_per_epoch_and_stays_at_the_last():
    assert epochs({"name": "list", "values": [1, 0.5, 0.1]}, 5) == [1, 0.5, 0.1, 0.1, 0.1]


def test_a_number_is_a_constant_schedule():
    assert epochs(0.25, 3) == [0.25] * 3


def test_mistakes_name_what_is_wrong():
    with pytest.raises(UnknownNameError, match=r"schedule 'cosin' is not known. Did you mean 'cosine'"):
        epochs("cosin", 1)
    with pytest.raises(PlansError, match=r"unit: found 'week', expected 'epoch' or 'iteration'"):
        epochs({"name": "poly", "unit": "week"}, 1)
    with pytest.raises(PlansError, match="exponnent"):
        epochs({"name": "poly", "exponnent": 1}, 1)
