"""From the channels of a scan to what the network sees: preprocessed, and with a cascade's previous stage."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from framework.data.labels import Labels
from framework.errors import FoldwiseError
from framework.plans import Configuration, Plans
from framework.preprocessing.preprocess import preprocess_array


def network_input(
    image: np.ndarray | Sequence[np.ndarray],
    previous_stage: np.ndarray | None,
    properties: Mapping[str, Any],
    plans: Plans,
    configuration: Configuration,
    labels: Labels,
) -> tuple[np.ndarray, dict[str, Any]]:
    """The input of the network for one case, and what is needed to go back to the scan.

    Args:
        image: (C, X, Y, Z), or C arrays (X, Y, Z), as the reader gave it.
        previous_stage: (1, X, Y, Z) labels that the previous stage of a cascade gave to the voxels of the scan;
            they are resampled as segmentations are, and become one channel for each of L foreground labels.
        properties: of the image, with ``spacing`` in mm.

    Returns:
        (C, X, Y, Z) or (C + L, X, Y, Z) float32 on the preprocessed grid; the properties of `preprocess_array`.

    Raises:
        FoldwiseError: the configuration needs a previous stage and there is none, or the other way round.
    """
    stage = configuration.previous_stage
    if stage is None and previous_stage is not None:
        raise FoldwiseError(
            f"'{configuration.name}' is no second stage of a cascade, so it takes no segmentation of a previous "
            "stage. Leave it out."
        )
    if stage is not None and previous_stage is None:
        raise FoldwiseError(f"'{configuration.name}' needs the segmentation that '{stage}' gave to this scan.")
    data, resampled, extended = preprocess_array(image, previous_stage, properties, plans, configuration, labels)
    if resampled is None:
        return data, extended
    del extended["class_locations"]  # where to sample patches; of no use here
    channels = labels.foreground_labels
    combined = np.empty((len(data) + len(channels), *data.shape[1:]), np.float32)
    combined[: len(data)] = data
    for channel, label in zip(combined[len(data) :], channels):
        np.equal(resampled[0], label, out=channel, casting="unsafe")
    return combined, extended
