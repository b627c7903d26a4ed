"""Whether what an earlier run wrote for a case is whole, so that it need not be predicted again."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from framework.data.case_listing import RawCase
from framework.data.case_warnings import collected_case_warnings
from framework.data.image_io import (
    check_label_values,
    geometry_differences,
    read_channels,
    read_segmentation,
)
from framework.data.labels import Labels
from framework.data.restricted_pickle import load_pickle
from framework.errors import FoldwiseError


def problem_of_output(
    case: RawCase,
    output: Path,
    file_ending: str,
    labels: Labels,
    reader: str,
    *,
    probabilities: bool,
    picture: Path | None,
) -> str | None:
    """Why the output of a case cannot be kept; None if it can, or an empty text if there is none.

    The label image has to open to its last voxel, to lie on the grid of the scan, and to hold labels of the
    dataset only. Probabilities, where they are wanted, have to open too and to have the right shape.

    Args:
        output: path without the ending.
        probabilities: whether these are wanted.
        picture: where a picture is wanted; None if none is.
    """
    label_file = output.with_name(output.name + file_ending)
    if not label_file.is_file():
        return ""
    try:
        with collected_case_warnings():  # said when the case was predicted
            channels, properties = read_channels(case.images[:1], reader)
        shape = channels[0].shape
        del channels
        segmentation, own = read_segmentation(label_file, reader)
        differences = geometry_differences(shape, properties, segmentation.shape[1:], own)
        if differences:
            return f"{label_file} does not lie on the grid of the scan: {'; '.join(differences)}"
        check_label_values(segmentation, labels, label_file)
        if probabilities:
            _check_probabilities(output.with_name(f"{output.name}.npz"), (labels.num_heads, *shape))
            load_pickle(output.with_name(f"{output.name}.pkl"))
    except Exception as error:  # whatever it is, the case has to be predicted again
        return str(error) if isinstance(error, FoldwiseError) else f"{type(error).__name__}: {error}"
    if picture is not None and not picture.is_file():
        return f"{picture.name} is missing"
    return None


def _check_probabilities(path: Path, shape: tuple[int, ...]) -> None:
    try:
        with np.load(path, allow_pickle=False) as archive:
            found = archive["probabilities"].shape
    except FileNotFoundError:
        raise FoldwiseError(f"{path} is missing") from None
    except Exception as error:  # damaged archives fail in every conceivable way
        raise FoldwiseError(f"{path} cannot be read ({type(error).__name__}: {error})") from error
    if found != shape:
        raise FoldwiseError(f"{path} has shape {found}, expected {shape}")
