"""Tiles and their mirrored copies through a network, in batches that the memory allows."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import torch
from torch import Tensor, nn

from framework.inference.out_of_memory import ran_out_of_memory
from framework.inference.tiles import Tile, mirror_combinations


class ViewBatches:
    """Sums, over mirrored views and networks, of the logits of each tile.

    When memory runs out, batches become smaller; what is done is not done again.

    Args:
        networks: on `device`, ready to predict.
        flat: the network is 2D; the first axis of a tile has one slice, which it does not see.
        mirror_axes: spatial axes of what the network sees.
        batch_size: views to begin with.
        device: where the networks are.
        autocast_dtype: precision of the networks; None for their own.
    """

    def __init__(
        self,
        networks: Sequence[nn.Module],
        flat: bool,
        mirror_axes: Sequence[int],
        batch_size: int,
        device: torch.device,
        autocast_dtype: torch.dtype | None = None,
    ) -> None:
        self.networks, self.flat, self.device = networks, flat, device
        self.flips = [tuple(axis + 1 for axis in flip) for flip in mirror_combinations(mirror_axes)]
        self.batch_size = batch_size
        self.autocast_dtype = autocast_dtype

    @property
    def num_summands(self) -> int:
        """Predictions in the sum of each tile."""
        return len(self.flips) * len(self.networks)

    def sums(self, data: Tensor, tiles: Sequence[Tile], make_room: Callable[[], Tensor | None]) -> Iterator[Tensor]:
        """One (K, *tile) float32 per tile, in their order.

        Args:
            data: (C, X, Y, Z), on any device.
            make_room: called when not even one view fits the memory: frees what it can and returns the data on
                the place where they are now, or None if there is nothing to free.
        """
        total: Tensor | None = None
        done, num_views = 0, len(tiles) * len(self.flips)
        while done < num_views:
            chunk = range(done, min(done + self.batch_size, num_views))
            outputs = None
            try:
                outputs = self._outputs(data, tiles, chunk)
            except (RuntimeError, MemoryError) as error:
                if not ran_out_of_memory(error):
                    raise
                if len(chunk) == 1:
                    roomier = make_room()
                    if roomier is None:
                        raise
                    data = roomier
            # Only here are the tensors free that the error held.
            if outputs is None:
                self.batch_size = max(1, len(chunk) // 2)
                free_cache(self.device)
                continue
            for number, output in zip(chunk, outputs):
                flip = self.flips[number % len(self.flips)]
                output = output.flip(flip) if flip else output
                if total is None:
                    total = output
                elif number % len(self.flips) == 1:
                    # Only a sum is ours to change: an output may be memory that the network keeps.
                    total = total + output
                else:
                    total += output
                if (number + 1) % len(self.flips) == 0:
                    yield total[:, None] if self.flat else total
                    total = None
            del output  # nor may the last batch stay while the next one is computed
            done = chunk.stop

    def _outputs(self, data: Tensor, tiles: Sequence[Tile], chunk: range) -> Tensor:
        """(B, K, *tile) float32: the sum over networks, each view still mirrored."""
        inputs = []
        for number in chunk:
            view = data[(slice(None), *tiles[number // len(self.flips)].source)]
            view = view[:, 0] if self.flat else view
            flip = self.flips[number % len(self.flips)]
            inputs.append(view.flip(flip) if flip else view)
        batch = torch.stack(inputs).to(self.device, non_blocking=True)
        total: Tensor | None = None
        for network in self.networks:
            with torch.autocast(self.device.type, dtype=self.autocast_dtype, enabled=self.autocast_dtype is not None):
                logits = network(batch)
            logits = (logits[0] if isinstance(logits, (list, tuple)) else logits).float()
            total = logits if total is None else total + logits
        assert total is not None
        return total


def free_cache(device: torch.device) -> None:
    """Hand memory that PyTorch keeps for later back to the device."""
    if device.type == "cuda":
        torch.cuda.empty_cache()
    elif device.type == "mps":
        torch.mps.empty_cache()
