from __future__ import annotations

import numpy as np
import torch

from framework.randomness import derived_seed, generator, seed_libraries


def test_equal_keys_give_equal_numbers_and_others_do_not():
    def numbers(*key) -> list[float]:
        return generator(*key).random(4).tolist()

    assert numbers(1, "training", 10**12) == numbers(1, "training", 10**12)
    keys = [(1, "training", 5), (2, "training", 5), (1, "validation", 5), (1, "training", 6)]
    assert len({tuple(numbers(*key)) for key in keys}) == 4


def test_neighbouring_elements_are_independent():
    first = np.array([generator(0, "s", n).random() for n in range(4000)])
    assert abs(np.corrcoef(first[:-1], first[1:])[0, 1]) < 0.05
    # Kolmogorov-Smirnov distance to the uniform distribution; 1.63 / sqrt(n) is the 1 % bound.
    distance = np.abs(np.sort(first) - np.arange(1, 4001) / 4000).max()
    assert distance < 1.63 / np.sqrt(4000)


def test_long_draws_of_one_element_do_not_run_into_the_next():
    long = set(generator(0, "s", 0).integers(2**63, size=20000).tolist())
    assert not long & set(generator(0, "s", 1).integers(2**63, size=20000).tolist())


def test_the_value_is_the_same_on_every_machine():
    # Written down once; a change would break the repeatability of published runs.
    assert derived_seed(7, "training", 3) == 4900613907943104686
    assert generator(7, "training", 3).integers(10**6, size=3).tolist() == [255989, 125103, 413146]


def test_libraries_are_seeded_together():
    seed_libraries(1, "step", 2)
    drawn = (torch.rand(1).item(), np.random.rand())
    seed_libraries(1, "step", 2)
    assert drawn == (torch.rand(1).item(), np.random.rand())
