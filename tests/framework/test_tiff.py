"""TIFF files: read exactly or refused, and written so that every other program reads the same."""

from __future__ import annotations

import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
import SimpleITK

from framework.data import tiff
from framework.errors import FoldwiseError


def make_tiff(
    array: np.ndarray,
    *,
    order: str = "<",
    big: bool = False,
    compression: int = 1,
    rows: int | None = None,
    description: str = "",
    extra: tuple[tuple[int, int], ...] = (),
) -> bytes:
    """A TIFF of (Y, X) pages, in strips of some rows, written independently of the product.

    Args:
        array: (Z, Y, X).
        extra: tags and their 16-bit values.
    """
    word = "Q" if big else "I"
    rows = rows or array.shape[1]
    content = bytearray(b"II" if order == "<" else b"MM")
    content += struct.pack(order + "HHHQ", 43, 8, 0, 0) if big else struct.pack(order + "HI", 42, 0)
    link = len(content) - struct.calcsize(word)
    kinds = {"u": 1, "i": 2, "f": 3}
    for page in array.astype(array.dtype.newbyteorder(order)):
        strips = [page[start : start + rows].tobytes() for start in range(0, len(page), rows)]
        strips = [zlib.compress(strip) if compression == 8 else strip for strip in strips]
        offsets = [len(content) + sum(map(len, strips[:index])) for index in range(len(strips))]
        content += b"".join(strips)
        lists_at = len(content)
        content += struct.pack(f"{order}{len(strips)}{word}", *offsets)
        counts_at = len(content)
        content += struct.pack(f"{order}{len(strips)}{word}", *map(len, strips))
        text_at = len(content)
        content += description.encode() + b"\0"
        long = 16 if big else 4
        single = len(strips) == 1
        tags = {
            256: (3, 1, page.shape[1]), 257: (3, 1, page.shape[0]), 258: (3, 1, array.dtype.itemsize * 8),
            259: (3, 1, compression), 262: (3, 1, 1), 270: (2, len(description) + 1, text_at),
            273: (long, len(strips), offsets[0] if single else lists_at), 277: (3, 1, 1), 278: (3, 1, rows),
            279: (long, len(strips), len(strips[0]) if single else counts_at), 339: (3, 1, kinds[array.dtype.kind]),
            **{tag: (3, 1, value) for tag, value in extra},
        }  # fmt: skip
        if not description:
            del tags[270]
        struct.pack_into(order + word, content, link, len(content))
        content += struct.pack(order + ("Q" if big else "H"), len(tags))
        for tag, (kind, count, value) in sorted(tags.items()):
            content += struct.pack(order + "HH" + word, tag, kind, count)
            content += struct.pack(order + {3: "H", 4: "I", 16: "Q", 2: word}[kind], value).ljust(
                8 if big else 4, b"\0"
            )
        link = len(content)
        content += struct.pack(order + word, 0)
    return bytes(content)


def volume(kind: str, shape: tuple[int, ...] = (3, 5, 6)) -> np.ndarray:
    numbers = np.random.default_rng(0).normal(size=shape) * 50
    return (np.abs(numbers) if kind[0] == "u" else numbers).astype(kind)


@pytest.mark.parametrize("kind", ["u1", "i1", "u2", "i2", "u4", "i4", "u8", "i8", "f2", "f4", "f8"])
@pytest.mark.parametrize("big", [False, True])
@pytest.mark.parametrize(("order", "compression", "rows"), [("<", 1, None), (">", 8, 2)])
def test_voxels_come_back_as_they_were_stored(
    tmp_path: Path, kind: str, big: bool, order: str, compression: int, rows: int | None
) -> None:
    array = volume(kind)
    content = make_tiff(array, order=order, big=big, compression=compression, rows=rows)
    (tmp_path / "a.tif").write_bytes(content)
    read, num_components = tiff.read(tmp_path / "a.tif")
    assert num_components == 1
    assert read.dtype == array.dtype
    np.testing.assert_array_equal(read, array)


def test_differences_along_rows_are_summed(tmp_path: Path) -> None:
    array = volume("u2")
    differences = np.diff(array, axis=2, prepend=np.zeros((3, 5, 1), np.uint16))  # wraps around, as TIFF does
    (tmp_path / "a.tif").write_bytes(make_tiff(differences, compression=8, extra=((317, 2),)))
    np.testing.assert_array_equal(tiff.read(tmp_path / "a.tif")[0], array)


@pytest.mark.parametrize("shape", [(4, 5), (1, 4, 5), (3, 4, 5), (9, 4, 5)])
@pytest.mark.parametrize("kind", [np.uint8, np.uint16])
def test_what_is_written_is_read_alike_here_and_by_itk(tmp_path: Path, shape: tuple[int, ...], kind: type) -> None:
    array = volume("u2", shape).astype(kind)
    tiff.write(tmp_path / "a.tif", array)
    read, _ = tiff.read(tmp_path / "a.tif")
    assert read.shape == shape
    np.testing.assert_array_equal(read, array)
    with_itk = SimpleITK.GetArrayFromImage(SimpleITK.ReadImage(str(tmp_path / "a.tif")))
    np.testing.assert_array_equal(with_itk, array.squeeze())


def test_large_files_get_offsets_of_64_bits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tiff, "_LARGEST_WITH_32_BITS", 10)
    array = volume("u2")
    tiff.write(tmp_path / "a.tif", array)
    assert (tmp_path / "a.tif").read_bytes()[:4] == b"II\x2b\x00"
    np.testing.assert_array_equal(tiff.read(tmp_path / "a.tif")[0], array)
    with_itk = SimpleITK.GetArrayFromImage(SimpleITK.ReadImage(str(tmp_path / "a.tif")))
    np.testing.assert_array_equal(with_itk, array)


def test_stacks_whose_first_page_alone_is_described_are_whole(tmp_path: Path) -> None:
    array = volume("u2", (4, 5, 6))
    described = make_tiff(array[:1], description="ImageJ=1.54f\nimages=4\nslices=4\n")
    # The first page is followed by the others: its pixels are moved to the end of the file, and they after it.
    start = 8
    moved = bytearray(described) + array.astype("<u2").tobytes()
    where = moved.index(struct.pack("<HHII", 273, 4, 1, start))
    struct.pack_into("<I", moved, where + 8, len(described))
    (tmp_path / "a.tif").write_bytes(moved)
    np.testing.assert_array_equal(tiff.read(tmp_path / "a.tif")[0], array)


@pytest.mark.parametrize(
    ("description", "shape"),
    [
        ("ImageJ=1.54f\nimages=6\nchannels=2\nslices=3\n", r"\(3, 2, 4, 5\)"),
        ('{"shape": [2, 3, 4, 5]}', r"\(2, 3, 4, 5\)"),
        ('<?xml?><OME xmlns=""><Pixels SizeC="2" SizeT="1" SizeZ="3" /></OME>', r"\(2, 3, 4, 5\)"),
    ],
)
def test_stacks_with_channels_and_slices_are_refused(tmp_path: Path, description: str, shape: str) -> None:
    (tmp_path / "a.tif").write_bytes(make_tiff(volume("u1", (6, 4, 5)), description=description))
    with pytest.raises(FoldwiseError, match=f"has the shape {shape}, more than three dimensions. Save each channel"):
        tiff.read(tmp_path / "a.tif")


def test_pages_of_another_size_are_thumbnails(tmp_path: Path) -> None:
    array = volume("u1")
    whole = make_tiff(array)
    small = make_tiff(array[:1, :2, :2])
    # Append the small page: its offsets move by the length of the first file.
    shift = len(whole)
    page = bytearray(small)
    directory = struct.unpack_from("<I", page, 4)[0]
    for index in range(struct.unpack_from("<H", page, directory)[0]):
        entry = directory + 2 + 12 * index
        if struct.unpack_from("<H", page, entry)[0] == 273:
            struct.pack_into("<I", page, entry + 8, struct.unpack_from("<I", page, entry + 8)[0] + shift)
    joined = bytearray(whole) + page
    struct.pack_into("<I", joined, len(whole) - 4, directory + shift)
    (tmp_path / "a.tif").write_bytes(joined)
    np.testing.assert_array_equal(tiff.read(tmp_path / "a.tif")[0], array)


@pytest.mark.parametrize("kept", [3, 30, 100, -200])
def test_truncated_files_are_refused(tmp_path: Path, kept: int) -> None:
    tiff.write(tmp_path / "a.tif", np.random.default_rng(0).integers(0, 200, (3, 40, 50)).astype(np.uint8))
    (tmp_path / "a.tif").write_bytes((tmp_path / "a.tif").read_bytes()[:kept])
    with pytest.raises(FoldwiseError, match=r"a.tif cannot be read, it may be truncated or damaged"):
        tiff.read(tmp_path / "a.tif")


@pytest.mark.parametrize(("tag", "value", "named"), [(259, 50000, "compression 50000"), (258, 12, "0 bits|12 bits")])
def test_what_cannot_be_read_exactly_is_refused_and_not_guessed(
    tmp_path: Path, tag: int, value: int, named: str
) -> None:
    (tmp_path / "a.tif").write_bytes(make_tiff(volume("u2"), extra=((tag, value),)))
    with pytest.raises(
        FoldwiseError, match=f"cannot be read exactly .*({named}).* Save it uncompressed or with deflate"
    ):
        tiff.read(tmp_path / "a.tif")


def test_lzw_is_left_to_itk_and_equals_what_was_stored(tmp_path: Path) -> None:
    array = volume("u1", (5, 20, 30))
    writer = SimpleITK.ImageFileWriter()
    writer.SetFileName(str(tmp_path / "a.tif"))
    writer.UseCompressionOn()
    writer.SetCompressor("LZW")
    writer.Execute(SimpleITK.GetImageFromArray(array))
    np.testing.assert_array_equal(tiff.read(tmp_path / "a.tif")[0], array)
