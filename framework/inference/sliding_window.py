"""Prediction of a whole image with a network that sees one tile at a time."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import nullcontext

import torch
from torch import Tensor, nn

from framework.errors import NonFiniteError
from framework.inference.tiles import (
    centre_padding,
    gaussian_weights,
    mirror_combinations,
    tile_slices,
    tile_starts,
)
from framework.networks.outputs import single_output

Progress = Callable[[int, int], None]
"""Called with the number of finished tiles and of all tiles."""


def sliding_window_logits(
    network: nn.Module,
    data: Tensor,
    patch_size: Sequence[int],
    *,
    mirror_axes: Sequence[int] | None = None,
    step: float = 0.5,
    use_gaussian: bool = True,
    batch_size: int | None = None,
    results_device: torch.device | str | None = None,
    autocast_dtype: torch.dtype | None = None,
    progress: Progress | None = None,
) -> Tensor:
    """Logits of a whole image: overlapping tiles, weighted by a Gaussian, averaged over mirrored views.

    Args:
        network: on the device that should compute. Left in the mode it came in.
        data: (C, X, Y, Z) float32, preprocessed, on any device. It is padded with zeros where an axis is
            shorter than the patch, and the result is cropped again.
        patch_size: in voxels. With two axes the network is 2D and goes through the image slice by slice.
        mirror_axes: spatial axes of the patch to mirror; all 2^n combinations are averaged. None for none.
        step: distance of tiles, as a part of the patch.
        use_gaussian: weight voxels by their distance from the centre of the tile.
        batch_size: views (tiles and mirrored tiles) that go through the network at once; None means as many
            as keep the device busy without much memory, see `default_batch_size`.
        results_device: where the logits are summed and returned; None means the network's device, or the
            CPU when its memory does not suffice.
        autocast_dtype: precision of the network, such as `torch.float16`; None for its own. Sums are float32.
        progress: told about every finished tile.

    Returns:
        (K, X, Y, Z) float32 on `results_device`.

    Raises:
        NonFiniteError: a logit is infinite or not a number.

    Reference:
        Isensee et al. (2021), nnU-Net, Nature Methods 18, online methods.
    """
    device = next((parameter.device for parameter in network.parameters()), torch.device("cpu"))
    flat = len(patch_size) == data.ndim - 2
    tile_size = (1, *patch_size) if flat else tuple(patch_size)
    padding = centre_padding(data.shape[1:], tile_size)
    if any(padding_of_axis != (0, 0) for padding_of_axis in padding):
        # `pad` counts axes from the last one.
        data = nn.functional.pad(data, [voxels for axis in reversed(padding) for voxels in axis])
    starts = tile_starts(data.shape[1:], tile_size, step)
    tiles = tile_slices(starts, tile_size)
    # Slices of a 2D network never overlap, and a voxel that one tile covers has weight one after division.
    batch_size = batch_size or default_batch_size(tile_size, device)
    overlapping = any(len(positions) > 1 for positions in (starts[1:] if flat else starts))
    weights = None
    if overlapping:
        weights = gaussian_weights(tile_size) if use_gaussian else torch.ones(tile_size)

    def predict(target_device: torch.device) -> Tensor:
        views = _predict_tiles(
            network,
            data.to(target_device),
            tiles,
            flat,
            mirror_axes or (),
            batch_size,
            device,
            autocast_dtype,
        )
        return _average_tiles(views, tiles, data.shape[1:], weights, target_device, progress)

    was_training = network.training
    network.eval()
    try:
        with torch.inference_mode(), single_output(network):
            if results_device is not None:
                logits = predict(torch.device(results_device))
            else:
                try:
                    logits = predict(device)
                except torch.OutOfMemoryError:
                    torch.cuda.empty_cache()
                    logits = predict(torch.device("cpu"))
    finally:
        network.train(was_training)
    crop = [slice(before, size - after) for (before, after), size in zip(padding, data.shape[1:])]
    logits = logits[(slice(None), *crop)]
    if not torch.isfinite(logits.sum()):
        raise NonFiniteError(
            "The network predicts values that are infinite or not a number. Look for such values in the "
            "image and in the weights, or predict in full precision."
        )
    # Not `clone` inside inference mode: the result should be an ordinary tensor for whoever works on.
    return logits.clone(memory_format=torch.contiguous_format)


def default_batch_size(tile_size: Sequence[int], device: torch.device) -> int:
    """Views a forward pass: several small ones, one large one.

    A CPU gains up to four times from small batches and nothing beyond eight views; the limits in voxels keep
    the feature maps of a usual network near 1 GiB on a CPU and below 4 GiB in half precision on a GPU.
    """
    most, voxels = (8, 2**20) if device.type == "cpu" else (16, 2**23)
    return max(1, min(most, voxels // math.prod(tile_size)))


def _predict_tiles(
    network: nn.Module,
    data: Tensor,
    tiles: Sequence[tuple[slice, ...]],
    flat: bool,
    mirror_axes: Sequence[int],
    batch_size: int,
    device: torch.device,
    autocast_dtype: torch.dtype | None,
) -> Iterator[Tensor]:
    """Mean logits of each tile over its mirrored views, (K, *tile) float32, in the order of `tiles`."""
    flips = mirror_combinations(mirror_axes)
    views = [(tile, flip) for tile in tiles for flip in flips]
    autocast = nullcontext() if autocast_dtype is None else torch.autocast(device.type, dtype=autocast_dtype)
    total: Tensor | None = None
    num_added = 0
    for first in range(0, len(views), batch_size):
        chunk = views[first : first + batch_size]
        inputs = []
        for tile, flip in chunk:
            view = data[(slice(None), *tile)]
            view = view[:, 0] if flat else view
            inputs.append(view.flip([axis + 1 for axis in flip]) if flip else view)
        with autocast:
            outputs = network(torch.stack(inputs).to(device, non_blocking=True))
        if isinstance(outputs, (list, tuple)):
            outputs = outputs[0]
        for output, (_, flip) in zip(outputs, chunk):
            output = output.float()
            output = output.flip([axis + 1 for axis in flip]) if flip else output
            total = output if total is None else total + output
            num_added += 1
            if num_added == len(flips):
                mean = total / num_added
                yield mean[:, None] if flat else mean
                total, num_added = None, 0


def _average_tiles(
    predictions: Iterator[Tensor],
    tiles: Sequence[tuple[slice, ...]],
    size: Sequence[int],
    weights: Tensor | None,
    device: torch.device,
    progress: Progress | None,
) -> Tensor:
    """Weighted mean of overlapping tiles, (K, *size); without weights the tiles do not overlap."""
    total = weight_sum = None
    for done, (tile, prediction) in enumerate(zip(tiles, predictions), start=1):
        prediction = prediction.to(device)
        if total is None:
            total = torch.zeros((prediction.shape[0], *size), device=device)
            if weights is not None:
                weights = weights.to(device)
                weight_sum = torch.zeros(tuple(size), device=device)
        if weights is None or weight_sum is None:
            total[(slice(None), *tile)] = prediction
        else:
            total[(slice(None), *tile)] += prediction * weights
            weight_sum[tile] += weights
        if progress is not None:
            progress(done, len(tiles))
    assert total is not None  # there is always one tile
    return total if weight_sum is None else total.div_(weight_sum)
