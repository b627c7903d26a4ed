"""Prediction of a whole image with a network that sees one tile at a time."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager

import torch
from torch import Tensor, nn

from framework.data.memory import available_memory, readable_size
from framework.device import free_memory
from framework.errors import FoldwiseError, NonFiniteError
from framework.inference.out_of_memory import ran_out_of_memory
from framework.inference.tiles import Tile, centre_padding, lay_tiles
from framework.inference.views import ViewBatches, free_cache
from framework.networks.outputs import single_output

Progress = Callable[[int, int], None]
"""Called with the number of finished tiles and of all tiles."""

_HOST = torch.device("cpu")


def sliding_window_logits(
    network: nn.Module | Sequence[nn.Module],
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

    Beside the image and the result it holds the network's memory for one batch of views. When memory runs out,
    batches become smaller; when not even one view fits, image and result move to the host. What is done is not
    done again, and any other error is raised as it is.

    Args:
        network: on the device that should compute. Left in the mode it came in. Of several, such as the folds of
            a training, the mean is taken.
        data: (C, X, Y, Z) float32, preprocessed, on any device. It is padded with zeros where an axis is
            shorter than the patch.
        patch_size: in voxels. With two axes the network is 2D and sees the slices of the image, several at once.
        mirror_axes: spatial axes of the patch to mirror; all 2^n combinations are averaged. None for none.
        step: distance of tiles, as a part of the patch.
        use_gaussian: weight voxels by their distance from the centre of the tile.
        batch_size: views (tiles and mirrored tiles) that go through the network at once; None means as many
            as keep the device busy without much memory, see `default_batch_size`.
        results_device: where the logits are summed and returned; None means the network's device, or the
            host when the memory of that device does not suffice.
        autocast_dtype: precision of the network, such as `torch.float16`; None for its own. Sums are float32.
        progress: told about every finished tile.

    Returns:
        (K, X, Y, Z) float32.

    Raises:
        NonFiniteError: a logit is infinite or not a number.
        FoldwiseError: the result does not fit the memory of the host.

    Reference:
        Isensee et al. (2021), nnU-Net, Nature Methods 18, online methods.
    """
    networks = [network] if isinstance(network, nn.Module) else list(network)
    device = next((parameter.device for parameter in networks[0].parameters()), _HOST)
    flat = len(patch_size) == data.ndim - 2
    tile_size = (1, *patch_size) if flat else tuple(patch_size)
    tiles = lay_tiles(data.shape[1:], tile_size, step, use_gaussian)
    views = ViewBatches(
        networks, flat, mirror_axes or (), batch_size or default_batch_size(tile_size, device), device, autocast_dtype
    )
    result = _WeightedSum(data.shape[1:], torch.device(results_device or device), may_move=results_device is None)
    padding = centre_padding(data.shape[1:], tile_size)
    if any(padding_of_axis != (0, 0) for padding_of_axis in padding):
        # `pad` counts axes from the last one.
        data = nn.functional.pad(data, [voxels for axis in reversed(padding) for voxels in axis])

    def make_room() -> Tensor | None:
        return data.to(_HOST) if result.move_to_host() else None

    with ExitStack() as stack:
        for each in networks:
            stack.enter_context(_evaluation(each))
            stack.enter_context(single_output(each))
        stack.enter_context(torch.inference_mode())
        sums = views.sums(_on_device(data, result), tiles, make_room)
        for done, (tile, total) in enumerate(zip(tiles, sums), start=1):
            result.add(tile, total, 1 / views.num_summands)
            if progress is not None:
                progress(done, len(tiles))
    assert result.total is not None  # there is always one tile
    if not torch.isfinite(result.total.sum()):
        raise NonFiniteError(
            "The network predicts values that are infinite or not a number. Look for such values in the "
            "image and in the weights, or predict in full precision."
        )
    return result.total


def default_batch_size(tile_size: Sequence[int], device: torch.device) -> int:
    """Views a forward pass: several small ones, one large one.

    A CPU gains nothing beyond eight views; the limits in voxels keep the feature maps of a usual network near
    1 GiB on a CPU and below 4 GiB in half precision on a GPU.
    """
    most, voxels = (8, 2**20) if device.type == "cpu" else (16, 2**23)
    return max(1, min(most, voxels // math.prod(tile_size)))


class _WeightedSum:
    """(K, *size) float32, which tiles are added to; on a device or, where that is too small, on the host.

    Attributes:
        device: where it is, or will be.
        may_move: whether it may go to the host.
        total: None until the first tile tells how many maps there are.
    """

    def __init__(self, size: Sequence[int], device: torch.device, may_move: bool) -> None:
        self.size, self.device, self.may_move = tuple(size), device, may_move and device.type != "cpu"
        self.total: Tensor | None = None

    def add(self, tile: Tile, logits: Tensor, factor: float) -> None:
        """Add the voxels of a tile that are no padding, with the tile's weights and this factor."""
        logits = logits[(slice(None), *tile.inner)]
        while self.total is None:
            self._attempt(lambda: self._allocate(len(logits)))
        while not self._attempt(lambda: self._add(tile, logits, factor)):
            pass

    def move_to_host(self) -> bool:
        """Free the device; False where nothing may move."""
        if not self.may_move:
            return False
        if self.total is not None:
            _check_host_memory(len(self.total), self.size)
            with torch.inference_mode(False):
                self.total = self.total.to(_HOST)
        self.device, self.may_move = _HOST, False
        return True

    def _attempt(self, action: Callable[[], None]) -> bool:
        """Whether it worked; False if memory ran out and the result moved to the host, so that it may work now."""
        device = self.device
        try:
            action()
            return True
        except (RuntimeError, MemoryError) as error:
            if not (ran_out_of_memory(error) and self.move_to_host()):
                raise
        # Only here are the tensors free that the error held.
        free_cache(device)
        return False

    def _add(self, tile: Tile, logits: Tensor, factor: float) -> None:
        assert self.total is not None
        logits = logits.to(self.device)
        # A single step changes the sum: it happens or does not, so that no tile is added twice.
        place = self.total[(slice(None), *tile.target)]
        if tile.weights is None:
            place.add_(logits, alpha=factor)
        else:
            x, y, z = (along.to(self.device) for along in tile.weights)
            place.addcmul_(logits, (factor * x)[:, None, None] * y[:, None] * z)

    def _allocate(self, num_maps: int) -> None:
        if self.may_move and not self._fits(num_maps):
            # PyTorch may still keep the memory of the case before.
            free_cache(self.device)
            if not self._fits(num_maps):
                self.move_to_host()
        if self.device == _HOST:
            _check_host_memory(num_maps, self.size)
        # Whoever works on with the result should get an ordinary tensor, without copying it.
        with torch.inference_mode(False):
            self.total = torch.zeros((num_maps, *self.size), device=self.device)

    def _fits(self, num_maps: int) -> bool:
        free = free_memory(self.device)
        return free is None or _num_bytes(num_maps, self.size) <= free


def _num_bytes(num_maps: int, size: Sequence[int]) -> int:
    return 4 * num_maps * math.prod(size)


def _check_host_memory(num_maps: int, size: Sequence[int]) -> None:
    needed, available = _num_bytes(num_maps, size), available_memory()
    if available and needed > available:
        raise FoldwiseError(
            f"the logits of this image, {num_maps} maps of {' x '.join(map(str, size))} voxels, take "
            f"{readable_size(needed)}, and {readable_size(available)} of memory are free. Predict on a machine with "
            "more memory, or with a configuration of larger spacing, such as 3d_lowres."
        )


def _on_device(data: Tensor, result: _WeightedSum) -> Tensor:
    """The image beside the result; on the host, and its tiles moved one by one, where there is no room."""
    try:
        return data.to(result.device)
    except (RuntimeError, MemoryError) as error:
        if not (ran_out_of_memory(error) and result.move_to_host()):
            raise
    return data.to(_HOST)


@contextmanager
def _evaluation(network: nn.Module) -> Iterator[None]:
    """Inside the block dropout and the like are off; then the network is in the mode in which it came."""
    was_training = network.training
    network.eval()
    try:
        yield
    finally:
        network.train(was_training)
