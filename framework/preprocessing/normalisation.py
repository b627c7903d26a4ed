"""Intensity normalisation, in nnU-Net's order of float32 operations, so that values agree with its files."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from framework.errors import FoldwiseError, PlansError, UnknownNameError

_SMALLEST_DIVISOR = 1e-8  # a constant image becomes 0, not NaN


def zscore(image: np.ndarray, inside: np.ndarray | None, properties: Mapping[str, float]) -> None:
    """Mean 0 and standard deviation 1; with a mask, over the voxels inside, and only those change."""
    if inside is None:
        mean, std = image.mean(), image.std()
        image -= mean
        image /= max(std, _SMALLEST_DIVISOR)
    elif inside.any():
        values = image[inside]
        image[inside] = (values - values.mean()) / max(values.std(), _SMALLEST_DIVISOR)


def ct(image: np.ndarray, inside: np.ndarray | None, properties: Mapping[str, float]) -> None:
    """Clip to the 0.5 and 99.5 percentiles of the dataset's foreground; its mean to 0, deviation to 1."""
    np.clip(image, properties["percentile_00_5"], properties["percentile_99_5"], out=image)
    image -= properties["mean"]
    image /= max(properties["std"], _SMALLEST_DIVISOR)


def unchanged(image: np.ndarray, inside: np.ndarray | None, properties: Mapping[str, float]) -> None:
    """Keep the values as they are."""


def rescale_to_0_1(image: np.ndarray, inside: np.ndarray | None, properties: Mapping[str, float]) -> None:
    """Smallest value to 0, largest to 1."""
    image -= image.min()
    image /= max(image.max(), _SMALLEST_DIVISOR)


def rgb_to_0_1(image: np.ndarray, inside: np.ndarray | None, properties: Mapping[str, float]) -> None:
    """Bytes to [0, 1]."""
    if image.min() < 0 or image.max() > 255:
        raise FoldwiseError(
            f"RGBTo01Normalization: values from {image.min():g} to {image.max():g} were found, but bytes "
            "(0 to 255) are expected. "
            "Choose another channel name in dataset.json, such as 'rescale_to_0_1' or 'zscore'."
        )
    image /= 255.0


@dataclass(frozen=True)
class Scheme:
    """One way to normalise a channel."""

    apply: Callable[[np.ndarray, np.ndarray | None, Mapping[str, float]], None]
    """Changes a float32 image (X, Y, Z) in place; takes the mask of the region with content or None, and the
    statistics of the dataset's foreground in this channel."""
    uses_mask: bool = False
    """Whether it can be restricted to the region with content, and leaves 0 outside."""
    needs_properties: bool = False


SCHEMES: dict[str, Scheme] = {
    "ZScoreNormalization": Scheme(zscore, uses_mask=True),
    "CTNormalization": Scheme(ct, needs_properties=True),
    "NoNormalization": Scheme(unchanged),
    "RescaleTo01Normalization": Scheme(rescale_to_0_1),
    "RGBTo01Normalization": Scheme(rgb_to_0_1),
}
"""By the class names that plans use."""

_BY_CHANNEL_NAME = {
    "ct": "CTNormalization",
    "nonorm": "NoNormalization",
    "zscore": "ZScoreNormalization",
    "rescale_to_0_1": "RescaleTo01Normalization",
    "rgb_to_0_1": "RGBTo01Normalization",
}


def scheme_for_channel(channel_name: str) -> str:
    """The scheme that the name of a channel in dataset.json stands for; the z-score for any other name."""
    return _BY_CHANNEL_NAME.get(channel_name.casefold(), "ZScoreNormalization")


def normalise(
    data: np.ndarray,
    segmentation: np.ndarray,
    schemes: Sequence[str],
    use_mask: Sequence[bool],
    foreground_properties: Mapping[str, Mapping[str, float]],
) -> None:
    """Normalise every channel in place.

    Args:
        data: (C, X, Y, Z) float32.
        segmentation: (1, X, Y, Z); negative outside of the region with content.
        schemes: a name out of `SCHEMES` for each channel.
        use_mask: for each channel, whether only the region with content counts.
        foreground_properties: statistics of the dataset's foreground by channel ("0", "1", ...).

    Raises:
        PlansError: an unknown scheme, a number of channels that does not fit, or missing statistics.
    """
    if len(schemes) != len(data) or len(use_mask) != len(data):
        raise PlansError(
            f"the plans normalise {len(schemes)} channel(s) ({', '.join(schemes)}), but the scan has "
            f"{len(data)}. Were these plans made for another dataset?"
        )
    for channel, name in enumerate(schemes):
        if name not in SCHEMES:
            raise UnknownNameError("normalization scheme", name, SCHEMES, "plans: normalization_schemes")
        scheme = SCHEMES[name]
        properties = foreground_properties.get(str(channel), {})
        if scheme.needs_properties and not {"mean", "std", "percentile_00_5", "percentile_99_5"} <= set(properties):
            raise PlansError(
                f"{name} needs foreground_intensity_properties_per_channel['{channel}'] in the plans "
                "(mean, std, percentile_00_5, percentile_99_5). Plan the dataset again."
            )
        inside = segmentation[0] >= 0 if scheme.uses_mask and use_mask[channel] else None
        scheme.apply(data[channel], inside, properties)
