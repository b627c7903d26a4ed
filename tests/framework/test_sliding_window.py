"""Tiles, their weights, and prediction of whole images."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from framework.errors import NonFiniteError
from framework.inference.sliding_window import default_batch_size, sliding_window_logits
from framework.inference.tiles import (
    centre_padding,
    gaussian_weights,
    mirror_combinations,
    tile_slices,
    tile_starts,
)


class Pointwise(nn.Module):
    """Logits that depend on each voxel alone, so that any correct tiling gives the same as no tiling."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.tensor(2.0))
        self.batch_sizes: list[int] = []

    def forward(self, x: Tensor) -> Tensor:
        self.batch_sizes.append(len(x))
        return torch.cat((x, self.scale * x, x.square()), 1)


class Ramp(nn.Module):
    """Logits that depend on the place within the tile only."""

    def forward(self, x: Tensor) -> Tensor:
        place = torch.arange(x.shape[-1], dtype=x.dtype).expand(x.shape[0], 1, *x.shape[2:])
        return torch.cat((place, -place), 1)


def test_tiles_are_spread_evenly_and_reach_the_end() -> None:
    assert tile_starts((110,), (64,)) == [[0, 23, 46]]
    assert tile_starts((64, 65), (64, 64)) == [[0], [0, 1]]
    # 5 / 2 = 2.5 is rounded to the even neighbour
    assert tile_starts((15,), (10,), 0.3) == [[0, 2, 5]]
    assert tile_starts((20,), (10,), 1.0) == [[0, 10]]


def test_image_smaller_than_the_tile_is_refused() -> None:
    with pytest.raises(ValueError, match="do not fit"):
        tile_starts((5,), (6,))


def test_tile_slices_cover_every_voxel() -> None:
    covered = np.zeros((11, 9), int)
    for tile in tile_slices(tile_starts((11, 9), (4, 4)), (4, 4)):
        assert covered[tile].shape == (4, 4)
        covered[tile] += 1
    assert covered.min() > 0


def test_weights_are_scipys_gaussian_with_a_peak_of_ten() -> None:
    from scipy.ndimage import gaussian_filter

    for size in ((40, 56, 40), (7, 12)):
        impulse = np.zeros(size)
        impulse[tuple(length // 2 for length in size)] = 1
        expected = gaussian_filter(impulse, [length / 8 for length in size], mode="constant")
        expected *= 10 / expected.max()
        weights = gaussian_weights(size)
        assert np.allclose(weights.numpy(), expected, rtol=1e-4, atol=1e-12)
        assert weights.min() > 0


def test_no_weight_vanishes_where_the_gaussian_underflows() -> None:
    assert gaussian_weights((2, 2, 400, 400)).min() > 0


def test_mirroring_takes_every_set_of_axes() -> None:
    assert mirror_combinations((0, 1)) == [(), (0,), (1,), (0, 1)]
    assert len(mirror_combinations((0, 1, 2))) == 8
    assert mirror_combinations(()) == [()]


def test_padding_is_central_with_the_odd_voxel_behind() -> None:
    assert centre_padding((5, 8), (8, 8)) == [(1, 2), (0, 0)]


@pytest.mark.parametrize("batch_size", [1, 5])
@pytest.mark.parametrize("mirror_axes", [None, (0, 1, 2)])
@pytest.mark.parametrize("size", [(8, 8, 8), (5, 9, 20), (13, 8, 17)])
def test_tiling_does_not_change_a_pointwise_network(
    size: tuple[int, ...], mirror_axes: tuple[int, ...] | None, batch_size: int
) -> None:
    data = torch.randn(1, *size)
    logits = sliding_window_logits(Pointwise(), data, (8, 8, 8), mirror_axes=mirror_axes, batch_size=batch_size)
    assert logits.shape == (3, *size)
    assert logits.dtype == torch.float32
    assert torch.allclose(logits, torch.cat((data, 2 * data, data.square())), atol=1e-5)
    assert not logits.is_inference()


@pytest.mark.parametrize("mirror_axes", [None, (0, 1)])
def test_2d_networks_go_through_the_slices(mirror_axes: tuple[int, ...] | None) -> None:
    data = torch.randn(1, 5, 12, 20)
    logits = sliding_window_logits(Pointwise(), data, (8, 8), mirror_axes=mirror_axes, batch_size=3)
    assert torch.allclose(logits, torch.cat((data, 2 * data, data.square())), atol=1e-5)


def test_overlaps_are_weighted_by_the_gaussian() -> None:
    logits = sliding_window_logits(Ramp(), torch.zeros(1, 4, 4, 12), (4, 4, 8))
    # Tiles start at 0 and 4 on the last axis; voxel 5 is number 5 of the first and number 1 of the second.
    weight = np.exp(-0.5 * ((np.arange(8) - 4) / 1.0) ** 2)
    expected = (weight[5] * 5 + weight[1] * 1) / (weight[5] + weight[1])
    assert logits[0, 2, 2, 5].item() == pytest.approx(expected, rel=1e-5)
    plain = sliding_window_logits(Ramp(), torch.zeros(1, 4, 4, 12), (4, 4, 8), use_gaussian=False)
    assert plain[0, 2, 2, 5].item() == pytest.approx(3)


def test_mirrored_logits_are_averaged_in_place() -> None:
    logits = sliding_window_logits(Ramp(), torch.zeros(1, 4, 4, 8), (4, 4, 8), mirror_axes=(2,))
    # place i and place 7 - i average to 3.5 everywhere
    assert torch.allclose(logits[0], torch.full((4, 4, 8), 3.5))


def test_views_are_batched_and_progress_is_told() -> None:
    network, told = Pointwise(), []
    sliding_window_logits(
        network,
        torch.zeros(1, 8, 8, 16),
        (8, 8, 8),
        mirror_axes=(0,),
        batch_size=4,
        progress=lambda done, total: told.append((done, total)),
    )
    # 3 tiles, 2 views each
    assert network.batch_sizes == [4, 2]
    assert told == [(1, 3), (2, 3), (3, 3)]


def test_network_returns_to_the_mode_it_was_in() -> None:
    network = Pointwise().train()
    sliding_window_logits(network, torch.zeros(1, 8, 8, 8), (8, 8, 8))
    assert network.training


def test_non_finite_logits_are_an_error() -> None:
    with pytest.raises(NonFiniteError, match="not a number"):
        sliding_window_logits(Pointwise(), torch.full((1, 8, 8, 8), torch.nan), (8, 8, 8))


def test_default_batches_are_bounded_by_voxels() -> None:
    cpu = torch.device("cpu")
    assert default_batch_size((40, 56, 40), cpu) == 8
    assert default_batch_size((128, 128, 128), cpu) == 1


@pytest.mark.parametrize("mirroring", ["with", "without"])
def test_reference_model_predicts_as_in_nnunet(shared_data: Path, mirroring: str) -> None:
    from framework.data.restricted_pickle import numpy_globals
    from framework.data.store import CaseStore
    from framework.networks import build_network, from_nnunet_state
    from framework.plans import Plans

    reference = shared_data / "nnunet_reference"
    folder = next((reference / "results").glob("*/*__3d_cpu"))
    configuration = Plans.from_file(folder / "plans.json").configuration("3d_cpu")
    with torch.serialization.safe_globals(numpy_globals()):
        checkpoint = torch.load(folder / "fold_0" / "checkpoint_final.pth", weights_only=True)
    network = build_network(configuration.architecture, 1, 3, True)
    network.load_state_dict(from_nnunet_state(checkpoint["network_weights"]))
    network.to(memory_format=torch.channels_last_3d)
    store = CaseStore(next((reference / "preprocessed").glob("*/nnUNetPlans_3d_fullres")))
    for case in ("hippocampus_024", "hippocampus_053"):
        data, _ = store.read(case, None)
        logits = sliding_window_logits(
            network,
            torch.from_numpy(np.array(data)),
            configuration.patch_size,
            mirror_axes=checkpoint["inference_allowed_mirroring_axes"] if mirroring == "with" else None,
        )
        golden = np.load(reference / f"predicted_{mirroring}_mirroring" / f"{case}_float32.npz")
        # These cases are neither cropped nor resampled, so both live on the same grid.
        assert np.abs(logits.softmax(0).numpy() - golden["probabilities"]).max() < 1e-4
        assert np.array_equal(logits.argmax(0).numpy(), golden["segmentation"])
