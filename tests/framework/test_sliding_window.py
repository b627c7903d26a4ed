"""Tiles, their weights, and prediction of whole images."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from framework.errors import NonFiniteError
from framework.inference.network_for_inference import prepared_for_inference
from framework.inference.sliding_window import default_batch_size, sliding_window_logits
from framework.inference.tiles import (
    Tile,
    centre_padding,
    lay_tiles,
    mirror_combinations,
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


def outer(tile: Tile) -> np.ndarray:
    """The weights of all voxels of a tile, from those along its axes."""
    assert tile.weights is not None
    x, y, z = (along.double().numpy() for along in tile.weights)
    return x[:, None, None] * y[:, None] * z


def test_tiles_are_spread_evenly_and_reach_the_end() -> None:
    assert tile_starts((110,), (64,)) == [[0, 23, 46]]
    assert tile_starts((64, 65), (64, 64)) == [[0], [0, 1]]
    # 5 / 2 = 2.5 is rounded to the even neighbour
    assert tile_starts((15,), (10,), 0.3) == [[0, 2, 5]]
    assert tile_starts((20,), (10,), 1.0) == [[0, 10]]
    # slices of a 2D network: each once
    assert tile_starts((4,), (1,), 0.5) == [[0, 1, 2, 3]]


def test_image_smaller_than_the_tile_is_refused() -> None:
    with pytest.raises(ValueError, match="do not fit"):
        tile_starts((5,), (6,))


def test_tiles_cover_every_voxel() -> None:
    covered = np.zeros((11, 9, 1), int)
    for tile in lay_tiles((11, 9, 1), (4, 4, 1)):
        assert covered[tile.target].shape == (4, 4, 1)
        covered[tile.target] += 1
    assert covered.min() > 0


@pytest.mark.parametrize(("image", "tile"), [((60, 70, 41), (40, 56, 40)), ((1, 12, 30), (1, 7, 12))])
def test_weights_are_scipys_gaussian_divided_by_its_sum_over_all_tiles(
    image: tuple[int, ...], tile: tuple[int, ...]
) -> None:
    from scipy.ndimage import gaussian_filter

    impulse = np.zeros(tile)
    impulse[tuple(length // 2 for length in tile)] = 1
    gaussian = gaussian_filter(impulse, [length / 8 for length in tile], mode="constant")
    total = np.zeros(image)
    tiles = lay_tiles(image, tile)
    for each in tiles:
        total[each.target] += gaussian
    assert len(tiles) > 1
    for each in tiles:
        assert np.allclose(outer(each), gaussian / total[each.target], rtol=1e-3, atol=1e-7)


@pytest.mark.parametrize("use_gaussian", [True, False])
def test_weights_of_a_voxel_add_up_to_one(use_gaussian: bool) -> None:
    # A tile of 400 voxels has weights between its centre and its corner that differ by a factor of e^24.
    image = (9, 5, 1000)
    total = np.zeros(image)
    for tile in lay_tiles(image, (4, 8, 400), use_gaussian=use_gaussian):
        total[tile.target] += outer(tile)
        assert outer(tile).min() > 0
    assert np.allclose(total, 1, atol=1e-6)


def test_voxels_under_a_single_tile_count_fully() -> None:
    first, *_ = lay_tiles((8, 8, 100), (8, 8, 8), step=1.0)
    assert (outer(first)[..., 0] == 1).all()
    (only,) = lay_tiles((5, 8, 8), (8, 8, 8))
    assert only.weights is None
    # Three voxels of padding, the odd one behind: the image lies in voxels 1 to 5 of the tile.
    assert (only.inner[0], only.target[0]) == (slice(1, 6), slice(0, 5))


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


def test_slices_of_a_2d_network_go_through_it_together() -> None:
    data = torch.randn(1, 5, 12, 20)
    batched, one_by_one = Pointwise(), Pointwise()
    together = sliding_window_logits(batched, data, (12, 20), batch_size=4)
    assert batched.batch_sizes == [4, 1]
    assert torch.equal(together, sliding_window_logits(one_by_one, data, (12, 20), batch_size=1))
    assert one_by_one.batch_sizes == [1] * 5
    default = Pointwise()
    sliding_window_logits(default, data, (12, 20))
    assert default.batch_sizes == [5]


def test_several_networks_are_averaged() -> None:
    double, triple = Pointwise(), Pointwise()
    torch.nn.init.constant_(triple.scale, 3.0)
    data = torch.randn(1, 8, 8, 13)
    logits = sliding_window_logits([double, triple], data, (8, 8, 8), mirror_axes=(0, 2))
    assert torch.allclose(logits, torch.cat((data, 2.5 * data, data.square())), atol=1e-5)


def test_an_output_that_the_network_keeps_is_not_changed() -> None:
    class Remembers(nn.Module):
        kept = torch.arange(8.0).expand(1, 2, 4, 4, 8)

        def forward(self, x: Tensor) -> Tensor:
            return self.kept

    logits = sliding_window_logits(Remembers(), torch.zeros(1, 4, 4, 8), (4, 4, 8), mirror_axes=(0, 2), batch_size=1)
    assert torch.allclose(logits, torch.full((2, 4, 4, 8), 3.5))
    assert torch.equal(Remembers.kept[0, 0, 0, 0], torch.arange(8.0))


def test_half_precision_of_the_network_is_summed_in_full_precision() -> None:
    network = nn.Conv3d(1, 2, 3, padding=1)
    data = torch.randn(1, 8, 8, 30)
    exact = sliding_window_logits(network, data, (8, 8, 8), mirror_axes=(0, 1))
    rounded = sliding_window_logits(network, data, (8, 8, 8), mirror_axes=(0, 1), autocast_dtype=torch.bfloat16)
    assert rounded.dtype == torch.float32
    # bfloat16 has 8 bits; a sum of such numbers in bfloat16 would be one itself.
    assert 0 < (rounded - exact).abs().max() < 0.05
    assert not torch.equal(rounded, rounded.bfloat16().float())


REFERENCE_CASES = ("hippocampus_024", "hippocampus_040", "hippocampus_041", "hippocampus_045", "hippocampus_053")


@pytest.mark.parametrize("mirroring", ["with", "without"])
def test_reference_model_predicts_as_in_nnunet(shared_data: Path, mirroring: str) -> None:
    from framework.checkpoint import load_checkpoint
    from framework.data.store import CaseStore
    from framework.networks import build_network, from_nnunet_state
    from framework.plans import Plans

    reference = shared_data / "nnunet_reference"
    folder = next((reference / "results").glob("*/*__3d_cpu"))
    configuration = Plans.from_file(folder / "plans.json").configuration("3d_cpu")
    checkpoint = load_checkpoint(folder / "fold_0" / "checkpoint_final.pth")
    network = build_network(configuration.architecture, 1, 3, True)
    network.load_state_dict(from_nnunet_state(checkpoint["network_weights"]))
    network = prepared_for_inference(network)
    store = CaseStore(next((reference / "preprocessed").glob("*/nnUNetPlans_3d_fullres")))
    for case in REFERENCE_CASES:
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
