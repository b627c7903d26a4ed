"""Intensity normalisation, in nnU-Net's order of float32 operations, so that values agree with its files.

A scheme first looks at the whole channel (`fit`) and gives a function that changes any part of it. So a large
scan can be normalised slab by slab while it is resampled, and no normalised copy of all of it is needed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from math import prod

import numpy as np

from framework.errors import FoldwiseError, PlansError, UnknownNameError

_SMALLEST_DIVISOR = 1e-8  # a constant image becomes 0, not NaN
_VOXELS_AT_ONCE = 1 << 22
LARGEST_EXACT_CHANNEL = 1 << 26
"""Voxels. Up to here sums are numpy's over float32, as in nnU-Net; beyond they are taken in float64 by slabs,
which needs no copy of the image and differs in the seventh digit."""

Change = Callable[[np.ndarray, "np.ndarray | None"], None]
"""Changes float32 values in place; takes the same part of the mask of the region with content, or None."""


def zscore(image: np.ndarray, inside: np.ndarray | None, properties: Mapping[str, float]) -> Change:
    """Mean 0 and standard deviation 1; with a mask, over the voxels inside, and only those change."""
    mean, deviation = _mean_and_deviation(image, inside)
    divisor = max(deviation, np.float32(_SMALLEST_DIVISOR))

    def change(part: np.ndarray, inside: np.ndarray | None) -> None:
        if inside is None:
            part -= mean
            part /= divisor
        else:
            part[inside] = (part[inside] - mean) / divisor

    return change


def ct(image: np.ndarray, inside: np.ndarray | None, properties: Mapping[str, float]) -> Change:
    """Clip to the 0.5 and 99.5 percentiles of the dataset's foreground; its mean to 0, deviation to 1."""

    def change(part: np.ndarray, inside: np.ndarray | None) -> None:
        np.clip(part, properties["percentile_00_5"], properties["percentile_99_5"], out=part)
        part -= properties["mean"]
        part /= max(properties["std"], _SMALLEST_DIVISOR)

    return change


def unchanged(image: np.ndarray, inside: np.ndarray | None, properties: Mapping[str, float]) -> Change:
    """Keep the values as they are."""
    return lambda part, inside: None


def rescale_to_0_1(image: np.ndarray, inside: np.ndarray | None, properties: Mapping[str, float]) -> Change:
    """Smallest value to 0, largest to 1."""
    low = np.float32(image.min())
    divisor = max(np.float32(image.max()) - low, np.float32(_SMALLEST_DIVISOR))

    def change(part: np.ndarray, inside: np.ndarray | None) -> None:
        part -= low
        part /= divisor

    return change


def rgb_to_0_1(image: np.ndarray, inside: np.ndarray | None, properties: Mapping[str, float]) -> Change:
    """Bytes to [0, 1]."""
    if image.min() < 0 or image.max() > 255:
        raise FoldwiseError(
            f"RGBTo01Normalization: values from {image.min():g} to {image.max():g} were found, but bytes "
            "(0 to 255) are expected. "
            "Choose another channel name in dataset.json, such as 'rescale_to_0_1' or 'zscore'."
        )

    def change(part: np.ndarray, inside: np.ndarray | None) -> None:
        part /= 255.0

    return change


@dataclass(frozen=True)
class Scheme:
    """One way to normalise a channel."""

    fit: Callable[[np.ndarray, np.ndarray | None, Mapping[str, float]], Change]
    """Takes a channel (X, Y, Z) of any type, the mask of the region with content or None, and the statistics of
    the dataset's foreground in this channel."""
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


class NormalisedChannel:
    """One channel as it will be normalised; computed for the part that is asked for.

    Indexed with slices it gives a new float32 array.
    """

    def __init__(self, raw: np.ndarray, change: Change, inside: np.ndarray | None = None) -> None:
        self._raw, self._change, self._inside = raw, change, inside
        self.shape: tuple[int, ...] = raw.shape

    def __getitem__(self, index: tuple[slice, ...]) -> np.ndarray:
        part = self._raw[index].astype(np.float32, order="C")
        self._change(part, None if self._inside is None else self._inside[index])
        return part


def normalised(
    channels: Sequence[np.ndarray],
    inside: np.ndarray | None,
    schemes: Sequence[str],
    use_mask: Sequence[bool],
    foreground_properties: Mapping[str, Mapping[str, float]],
) -> list[NormalisedChannel]:
    """Every channel as the plans normalise it.

    Args:
        channels: (X, Y, Z) each, of any type.
        inside: (X, Y, Z) mask of the region with content; None if that is everything.
        schemes: a name out of `SCHEMES` for each channel.
        use_mask: for each channel, whether only the region with content counts.
        foreground_properties: statistics of the dataset's foreground by channel ("0", "1", ...).

    Raises:
        PlansError: an unknown scheme, a number of channels that does not fit, or missing statistics.
    """
    if len(schemes) != len(channels) or len(use_mask) != len(channels):
        raise PlansError(
            f"the plans normalise {len(schemes)} channel(s) ({', '.join(schemes)}), but the scan has "
            f"{len(channels)}. Were these plans made for another dataset?"
        )
    for number, name in enumerate(schemes):
        if name not in SCHEMES:
            raise UnknownNameError("normalization scheme", name, SCHEMES, "plans: normalization_schemes")
        if SCHEMES[name].needs_properties and not set(foreground_properties.get(str(number), {})) >= _CT_PROPERTIES:
            raise PlansError(
                f"{name} needs foreground_intensity_properties_per_channel['{number}'] in the plans "
                f"({', '.join(sorted(_CT_PROPERTIES))}). Plan the dataset again."
            )
    result = []
    for number, (image, name) in enumerate(zip(channels, schemes)):
        scheme = SCHEMES[name]
        mask = inside if scheme.uses_mask and use_mask[number] else None
        change = scheme.fit(image, mask, foreground_properties.get(str(number), {}))
        result.append(NormalisedChannel(image, change, mask))
    return result


_CT_PROPERTIES = {"mean", "std", "percentile_00_5", "percentile_99_5"}


def _mean_and_deviation(image: np.ndarray, inside: np.ndarray | None) -> tuple[np.float32, np.float32]:
    """Over the whole image, or what is inside of a mask; (0, 0) if that is nothing."""
    if image.size <= LARGEST_EXACT_CHANNEL:
        values = image if inside is None else image[inside]
        values = values.astype(np.float32, copy=False)
        return (values.mean(), values.std()) if values.size else (np.float32(0), np.float32(0))
    total, count = 0.0, 0
    for part in _parts(image, inside):
        total, count = total + part.sum(dtype=np.float64), count + part.size
    mean = total / max(count, 1)
    squares = sum(float(np.square(part - mean).sum()) for part in _parts(image, inside))
    return np.float32(mean), np.float32(np.sqrt(squares / max(count, 1)))


def _parts(image: np.ndarray, inside: np.ndarray | None) -> Iterator[np.ndarray]:
    """The voxels that count, in float64, slab by slab."""
    num_rows = max(1, _VOXELS_AT_ONCE // prod(image.shape[1:]))
    for start in range(0, len(image), num_rows):
        rows = slice(start, start + num_rows)
        yield (image[rows] if inside is None else image[rows][inside[rows]]).astype(np.float64)
