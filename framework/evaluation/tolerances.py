"""The tolerances of the normalised surface Dice, as a user gives them."""

from __future__ import annotations

import math
from collections.abc import Sequence

from framework.data.labels import LabelKey
from framework.errors import FoldwiseError
from framework.evaluation.scored_labels import ScoredLabels, key_named

DEFAULT_TOLERANCE_MM = 1.0


def read_tolerances(texts: Sequence[str], labels: ScoredLabels) -> dict[LabelKey, float]:
    """``["2", "tumour=3", "1+2=1.5"]`` -> mm for each label or region.

    Raises:
        FoldwiseError: a text is no length, or names no label.
    """
    for_all = DEFAULT_TOLERANCE_MM
    for_one: dict[LabelKey, float] = {}
    for text in texts:
        name, equals, length = text.rpartition("=")
        try:
            millimetres = float(length)
        except ValueError:
            millimetres = math.nan
        if not 0 <= millimetres < math.inf:
            raise FoldwiseError(f"--tolerance {text}: expected a length in mm, or LABEL=MM, such as 1 or tumour=2.5.")
        if equals:
            for_one[key_named(name, labels)] = millimetres
        else:
            for_all = millimetres
    return {key: for_one.get(key, for_all) for key in labels.keys}
