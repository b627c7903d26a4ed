"""How sure an aggregated score is: bootstrap confidence intervals over the cases, and paired tests."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

NUM_RESAMPLES = 2000
SEED = 0
CONFIDENCE = 0.95

_VALUES_AT_ONCE = 1 << 20

Statistic = Callable[[np.ndarray], np.ndarray]
"""(B, n, ...) samples of cases -> (B,) values."""


@dataclass(frozen=True)
class Interval:
    low: float
    high: float


def mean_over_cases(samples: np.ndarray) -> np.ndarray:
    """Mean of each of (B, n) samples."""
    return samples.mean(axis=1)


def median_over_cases(samples: np.ndarray) -> np.ndarray:
    """Median of each of (B, n) samples. An infinite value, a missed structure, counts as a very large one."""
    ordered = np.sort(samples, axis=1)
    middle = samples.shape[1] // 2
    if samples.shape[1] % 2:
        return ordered[:, middle]
    # Not numpy's median, which makes inf - inf a NaN.
    return (ordered[:, middle - 1] + ordered[:, middle]) / 2


def mean_over_labels(samples: np.ndarray) -> np.ndarray:
    """nnU-Net's foreground mean of each of (B, n, K) samples: the mean over labels of the means over cases.

    A case in which a label has no score is left out for this label, and a label that no case has is left out.
    """
    defined = ~np.isnan(samples)
    counts = defined.sum(axis=1)
    sums = np.where(defined, samples, 0).sum(axis=1)
    with np.errstate(invalid="ignore"):
        means = sums / counts
    # A sample in which no label at all has a score is itself NaN.
    return np.where(counts > 0, means, 0).sum(axis=1) / np.where(
        (counts > 0).any(axis=1), (counts > 0).sum(axis=1), np.nan
    )


def bootstrap_interval(
    values: np.ndarray,
    statistic: Statistic,
    *,
    confidence: float = CONFIDENCE,
    num_resamples: int = NUM_RESAMPLES,
    seed: int = SEED,
) -> Interval | None:
    """Percentile bootstrap over cases: the statistic of many samples of the cases, drawn with replacement.

    The same values and seed always give the same interval.

    Args:
        values: (n,) or (n, K), one row for each case.

    Returns:
        The interval; None for fewer than two cases, which say nothing of their spread, or if nothing is defined.

    Reference:
        Efron & Tibshirani (1993), An Introduction to the Bootstrap, chapter 13.
    """
    num_cases = len(values)
    if num_cases < 2:
        return None
    generator = np.random.default_rng(seed)
    at_once = max(1, _VALUES_AT_ONCE // values.size)
    results = []
    for start in range(0, num_resamples, at_once):
        chosen = generator.integers(0, num_cases, (min(at_once, num_resamples - start), num_cases))
        results.append(statistic(values[chosen]))
    found = np.concatenate(results)
    found = found[~np.isnan(found)]
    if not len(found):
        return None
    # Without interpolation, which has no answer between a number and infinity.
    tails = ((1 - confidence) / 2, (1 + confidence) / 2)
    low, high = np.quantile(found, tails, method="inverted_cdf")
    return Interval(float(low), float(high))


def wilcoxon_signed_rank(differences: np.ndarray) -> tuple[float, float]:
    """Two-sided p value and effect size of paired differences; differences of 0 say nothing and are left out.

    Returns:
        p, 1 if all differences are 0; and the matched-pairs rank-biserial correlation from -1 to 1: the share of
        the ranks that favours positive differences minus the share that favours negative ones.

    Reference:
        Wilcoxon (1945), Biometrics Bulletin 1:80-83; Kerby (2014), Comprehensive Psychology 3:11.IT.3.1.
    """
    from scipy.stats import rankdata, wilcoxon

    moved = differences[differences != 0]
    if not len(moved):
        return 1.0, 0.0
    ranks = rankdata(np.abs(moved))
    effect = float((ranks[moved > 0].sum() - ranks[moved < 0].sum()) / ranks.sum())
    # The test looks at signs and ranks only; ranks in place of the differences also stand for infinite ones.
    return float(wilcoxon(np.sign(moved) * ranks).pvalue), effect


def holm(p_values: Sequence[float]) -> list[float]:
    """p values corrected for asking several questions at once; NaN stays and does not count.

    Reference:
        Holm (1979), A simple sequentially rejective multiple test procedure, Scand. J. Statist. 6:65-70.
    """
    asked = sorted((p, index) for index, p in enumerate(p_values) if not math.isnan(p))
    corrected = [math.nan] * len(p_values)
    highest = 0.0
    for rank, (p, index) in enumerate(asked):
        highest = max(highest, min(1.0, (len(asked) - rank) * p))
        corrected[index] = highest
    return corrected
