"""The layout of packed files equals nnU-Net's, and so do their contents."""

from __future__ import annotations

from pathlib import Path

import blosc2
import numpy as np
import pytest

from framework.data.blosc_format import block_and_chunk_shape, open_packed, packed

# shape, patch size, itemsize, block, chunk: from nnU-Net 2.8.1
GOLDEN = [
    ((1, 200, 300, 300), (128, 128, 128), 4, (1, 32, 32, 32), (1, 96, 128, 128)),
    ((1, 200, 300, 300), (128, 128, 128), 2, (1, 64, 32, 32), (1, 128, 192, 128)),
    ((1, 100, 512, 512), (512, 512), 4, (1, 1, 256, 128), (1, 1, 512, 512)),
    ((1, 186, 496, 156), (28, 32), 4, (1, 1, 32, 32), (1, 1, 42, 48)),
    ((1, 2, 78, 45), (224, 4, 64), 2, (1, 2, 4, 45), (1, 2, 6, 45)),
    ((3, 126, 102, 76), (25, 5, 5), 2, (1, 32, 8, 8), (1, 37, 8, 8)),
    ((4, 88, 33, 9), (32, 4, 32), 4, (1, 32, 4, 9), (1, 48, 6, 9)),
    ((3, 123, 45, 13), (28, 56, 320), 4, (1, 32, 45, 13), (1, 42, 45, 13)),
    ((1, 32, 56, 80), (16, 4, 1), 2, (1, 16, 4, 1), (1, 24, 6, 1)),
    ((4, 97, 331, 468), (32, 96, 28), 4, (1, 32, 64, 16), (1, 48, 144, 42)),
    ((3, 281, 340, 43), (1, 3), 4, (1, 1, 1, 4), (1, 1, 1, 4)),
    ((4, 10, 1, 89), (32, 512, 128), 2, (1, 10, 1, 89), (1, 10, 1, 89)),
    ((1, 451, 101, 506), (56, 378, 379), 4, (1, 16, 16, 128), (1, 64, 64, 384)),
    ((4, 314, 386, 53), (160, 192, 40), 4, (1, 64, 64, 8), (1, 192, 192, 40)),
    ((2, 55, 103, 75), (32, 64, 512), 4, (1, 32, 32, 32), (1, 48, 96, 75)),
    ((3, 33, 124, 47), (40, 80, 160), 4, (1, 16, 64, 32), (1, 33, 120, 47)),
    ((2, 96, 104, 25), (131, 79, 92), 2, (1, 64, 64, 16), (1, 96, 104, 25)),
    ((1, 84, 128, 100), (181, 61, 37), 4, (1, 32, 32, 32), (1, 84, 91, 55)),
    ((1, 475, 255, 404), (38, 52, 57), 4, (1, 32, 32, 32), (1, 57, 78, 85)),
    ((3, 73, 119, 75), (115, 75, 112), 4, (1, 32, 32, 32), (1, 73, 112, 75)),
    ((4, 3, 110, 577), (6, 36, 63), 2, (1, 3, 64, 64), (1, 3, 64, 94)),
    ((3, 366, 519, 350), (56, 512, 128), 4, (1, 16, 64, 32), (1, 48, 320, 96)),
    ((3, 426, 92, 273), (320, 40, 80), 2, (1, 128, 16, 32), (1, 426, 60, 120)),
    ((2, 176, 79, 554), (195, 190), 4, (1, 1, 79, 256), (1, 1, 79, 285)),
    ((4, 311, 406, 482), (160, 192, 160), 2, (1, 32, 64, 32), (1, 128, 192, 128)),
    ((4, 3, 28, 26), (3, 1, 6), 2, (1, 3, 1, 8), (1, 3, 1, 9)),
    ((1, 124, 33, 42), (15, 4), 4, (1, 1, 16, 4), (1, 1, 22, 6)),
    ((2, 6, 3, 7), (128, 64), 2, (1, 1, 3, 7), (1, 1, 3, 7)),
    ((2, 20, 35, 58), (3, 5, 5), 2, (1, 4, 8, 8), (1, 4, 8, 8)),
    ((4, 4, 4, 3), (320, 64), 2, (1, 1, 4, 3), (1, 1, 4, 3)),
    ((1, 41, 18, 99), (40, 32, 224), 2, (1, 41, 18, 64), (1, 41, 18, 99)),
    ((2, 34, 28, 38), (192, 160), 2, (1, 1, 28, 38), (1, 1, 28, 38)),
    ((1, 3, 1, 2), (160, 80), 2, (1, 1, 1, 2), (1, 1, 1, 2)),
]


@pytest.mark.parametrize(("shape", "patch_size", "itemsize", "block", "chunk"), GOLDEN)
def test_blocks_and_chunks_follow_the_rule_of_nnunet(
    shape: tuple[int, ...],
    patch_size: tuple[int, ...],
    itemsize: int,
    block: tuple[int, ...],
    chunk: tuple[int, ...],
) -> None:
    assert block_and_chunk_shape(shape, patch_size, itemsize) == (block, chunk)


@pytest.mark.parametrize("kind", [np.float32, np.int16])
def test_arrays_are_packed_without_loss_and_the_same_way_every_time(tmp_path: Path, kind: type) -> None:
    array = (np.random.default_rng(0).normal(size=(2, 20, 41, 33)) * 100).astype(kind)
    content = packed(array, (16, 32, 32))
    assert content == packed(np.asfortranarray(array), (16, 32, 32))
    (tmp_path / "a.b2nd").write_bytes(content)
    opened = open_packed(tmp_path / "a.b2nd")
    assert opened.dtype == kind
    np.testing.assert_array_equal(opened[...], array)
    np.testing.assert_array_equal(opened[0:2, 3:9, 30:41, 0:33], array[0:2, 3:9, 30:41, 0:33])
    assert opened.cparams.codec == blosc2.Codec.LZ4HC
    assert opened.cparams.clevel == (1 if kind is np.float32 else 5)


def test_the_filter_that_packs_better_is_chosen(tmp_path: Path) -> None:
    ramp = np.arange(32**3, dtype=np.int16).reshape(1, 32, 32, 32)  # high bytes repeat: shuffling helps
    noise = np.random.default_rng(0).integers(-(2**15), 2**15, (1, 32, 32, 32)).astype(np.int16)
    for array, expected in ((ramp, blosc2.Filter.SHUFFLE), (noise, blosc2.Filter.NOFILTER)):
        (tmp_path / "a.b2nd").write_bytes(packed(array, (32, 32, 32)))
        assert open_packed(tmp_path / "a.b2nd").cparams.filters[0] == expected


def test_truncated_files_and_other_content_raise(tmp_path: Path) -> None:
    content = packed(np.ones((1, 8, 8, 8), np.float32), (8, 8, 8))
    for kept in (0, 10, len(content) - 5):
        (tmp_path / "a.b2nd").write_bytes(content[:kept])
        with pytest.raises(OSError, match="truncated or damaged"):
            open_packed(tmp_path / "a.b2nd")


@pytest.mark.shared_data
@pytest.mark.parametrize(("configuration", "patch_size"), [("2d", (56, 40)), ("3d_fullres", (40, 56, 40))])
def test_real_files_are_laid_out_alike(shared_data: Path, configuration: str, patch_size: tuple[int, ...]) -> None:
    folder = (
        shared_data / "nnunet_reference" / "preprocessed" / "Dataset004_Hippocampus" / f"nnUNetPlans_{configuration}"
    )
    paths = sorted(folder.glob("*.b2nd"))
    assert len(paths) == 16
    for path in paths:
        theirs = open_packed(path)
        content = packed(theirs[...], patch_size)
        ours = blosc2.ndarray_from_cframe(content)
        assert (ours.blocks, ours.chunks) == (theirs.blocks, theirs.chunks)
        assert ours.cparams.codec == theirs.cparams.codec
        if path.stem.endswith("_seg"):
            assert ours.cparams.filters == theirs.cparams.filters
            # the same blocks in another order: nnU-Net packs with several threads
            assert len(content) == path.stat().st_size
        else:  # images are packed less hard, see docs/decisions/0008
            assert len(content) < 1.25 * path.stat().st_size
