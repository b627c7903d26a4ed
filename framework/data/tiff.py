"""TIFF files as arrays, exactly.

ITK reads many TIFF files wrongly without saying so: tiled ones, one-bit masks and stacks of three or four slices
(which other programs declare as colours) come back as 8-bit colours, half floats as integers; 64 bits it does not
read at all. So uncompressed and deflated files are read here, and only what is left and known to be read
rightly is given to ITK: stacks of strips with another compression. The shape is that of tifffile's ``imread``,
by which nnU-Net reads.
"""

from __future__ import annotations

import json
import math
import re
import struct
import zlib
from pathlib import Path

import numpy as np

from framework.data.memory import refuse_impossible_size
from framework.data.tiff_tags import Page, TiffError, read_pages
from framework.errors import FoldwiseError

_UNCOMPRESSED, _LZW, _DEFLATE, _OLD_DEFLATE, _PACKBITS = 1, 5, 8, 32946, 32773
_LARGEST_WITH_32_BITS = 2**32 - 2**25
"""Bytes before compression; larger files get offsets of 64 bits, in case they do not shrink."""
_DECODED = (_UNCOMPRESSED, _DEFLATE, _OLD_DEFLATE)


def read(path: Path) -> tuple[np.ndarray, int]:
    """A TIFF file as (Y, X), (Z, Y, X), or with colours last, and the number of values in a voxel.

    Raises:
        FoldwiseError: the file is missing, damaged, has more than three dimensions, or is stored in a way that
            cannot be read exactly.
    """
    if not path.is_file():
        raise FoldwiseError(f"{path} does not exist.")
    content = path.read_bytes()
    try:
        pages = read_pages(content)
        first = pages[0]
        # Other sizes are thumbnails and levels of a pyramid.
        pages = [page for page in pages if page.layout == first.layout]
        refuse_impossible_size(len(pages) * _padded_size(first) * max(first.bits, 8) // 8, path)
        if _can_decode(first):
            array = _decode(content, pages)
        else:
            array = _read_with_itk(path, len(pages), first)
    except (TiffError, struct.error, zlib.error, ValueError, IndexError, OverflowError) as error:
        if isinstance(error, FoldwiseError):
            raise
        raise FoldwiseError(f"{path} cannot be read, it may be truncated or damaged: {error}.") from error
    num_components = first.samples if not first.planar else 1
    if array.ndim > 3 + (num_components > 1):
        raise FoldwiseError(
            f"{path} has the shape {array.shape}, more than three dimensions. Save each channel or time point as a "
            "file of its own."
        )
    return array, num_components


def write(path: Path, array: np.ndarray) -> None:
    """Write (Y, X) or (Z, Y, X) unsigned integers, deflated, with the shape that tifffile looks for."""
    pages = array[None] if array.ndim == 2 else array
    kind = array.dtype.newbyteorder("<")
    big = array.nbytes > _LARGEST_WITH_32_BITS
    offset_format, entry_format = ("<Q", "<HHQQ") if big else ("<I", "<HHII")
    description = json.dumps({"shape": list(array.shape)}).encode() + b"\0"
    with open(path, "wb") as file:
        file.write(struct.pack("<2sHHHQ", b"II", 43, 8, 0, 16) if big else struct.pack("<2sHI", b"II", 42, 8))
        link = file.tell() - struct.calcsize(offset_format)  # where the offset of the next directory is written
        for page in pages:
            packed = zlib.compress(page.astype(kind, copy=False).tobytes(), 6)
            strip_at = file.tell()
            file.write(packed + bytes(-len(packed) % 2))
            text_at = file.tell()
            file.write(description + bytes(-len(description) % 2))
            # (tag, type, count, value): type 2 is text, 3 is 16 bits, 4 is 32 bits
            entries = [
                (256, 4, 1, page.shape[1]),
                (257, 4, 1, page.shape[0]),
                (258, 3, 1, array.dtype.itemsize * 8),
                (259, 3, 1, _DEFLATE),
                (262, 3, 1, 1),  # zero is black
                (270, 2, len(description), text_at),
                (273, 16 if big else 4, 1, strip_at),
                (277, 3, 1, 1),
                (278, 4, 1, page.shape[0]),
                (279, 16 if big else 4, 1, len(packed)),
                (339, 3, 1, 1),  # unsigned integers
            ]
            directory_at = file.tell()
            file.write(struct.pack("<Q" if big else "<H", len(entries)))
            for entry in entries:
                file.write(struct.pack(entry_format, *entry))
            end = file.tell()
            file.write(bytes(struct.calcsize(offset_format)))
            file.seek(link)
            file.write(struct.pack(offset_format, directory_at))
            file.seek(0, 2)
            link = end


def _padded_size(page: Page) -> int:
    """Values of a page in whole strips or tiles."""
    height, width = page.segment
    if height < 1 or width < 1:
        raise TiffError(f"it is stored in parts of {height} rows and {width} columns")
    return -(-page.length // height) * height * -(-page.width // width) * width * page.samples


def _can_decode(page: Page) -> bool:
    return (
        page.compression in _DECODED
        and page.predictor in (1, 2)
        and page.kind is not None
        and page.fill_order == 1
        and page.depth == 1
    )


def _decode(content: bytes, pages: list[Page]) -> np.ndarray:
    stated = _stated_shape(pages[0], len(pages))
    per_page = math.prod(pages[0].shape)
    if stated is not None and math.prod(stated) > per_page * len(pages) and pages[0].compression == _UNCOMPRESSED:
        # Only the first page is described; the others follow it without a gap.
        kind, start = pages[0].kind, pages[0].offsets[0]
        assert kind is not None
        whole = np.frombuffer(content, pages[0].byte_order + kind, math.prod(stated), start)
        return whole.astype(whole.dtype.newbyteorder("="), copy=False).reshape(stated)
    stack = np.stack([_decode_page(content, page) for page in pages])
    if stated is not None and math.prod(stated) == stack.size:
        return stack.reshape(stated)
    return stack[0] if len(pages) == 1 else stack


def _stated_shape(page: Page, num_pages: int) -> tuple[int, ...] | None:
    """The shape that the writing program put into the description: tifffile, ImageJ or OME."""
    text = page.description
    if text.startswith('{"shape":'):
        try:
            shape = json.loads(text)["shape"]
        except RecursionError:
            raise TiffError("its description cannot be read") from None
        if not isinstance(shape, list) or not all(type(length) is int and length > 0 for length in shape):
            raise TiffError(f"its description says that its shape is {shape!r:.100}")
        return tuple(shape)
    if text.startswith("ImageJ="):
        found = dict(re.findall(r"^(images|frames|slices|channels)=(\d+)", text, re.MULTILINE))
        counts = [int(found.get(name, 1)) for name in ("frames", "slices", "channels")]
        if math.prod(counts) == 1:
            counts = [int(found.get("images", 1))]
    elif "<OME " in text[:2000]:
        # One of several orders of axes; where only one of them is longer than 1, the order does not matter.
        counts = [int(match) for match in re.findall(r'\bSize[ZCT]="(\d+)"', text)[:3]]
        if page.samples > 1 or math.prod(counts) != num_pages:
            return None
    else:
        return None
    axes = [count for count in counts if count > 1]
    return (*axes, *page.shape) if axes else None


def _decode_page(content: bytes, page: Page) -> np.ndarray:
    """One page as (Y, X), (Y, X, colours), or (planes, Y, X) where every colour is stored by itself."""
    assert page.kind is not None
    height, width = page.segment
    down, across = -(-page.length // height), -(-page.width // width)
    planes, samples = (page.samples, 1) if page.planar else (1, page.samples)
    kind = np.dtype(page.byte_order + page.kind)
    needed = planes * down * across
    if min(len(page.offsets), len(page.counts)) < needed:
        raise TiffError(f"{len(page.offsets)} parts of the image are listed, {needed} are needed")
    array = np.zeros((planes, down * height, across * width, samples), kind.newbyteorder("="))
    places = [(plane, row, column) for plane in range(planes) for row in range(down) for column in range(across)]
    for (plane, row, column), offset, count in zip(places, page.offsets, page.counts):
        if count == 0:
            continue  # left out by the writer: zeros
        packed = content[offset : offset + count]
        if len(packed) < count:
            raise TiffError("it ends before its last voxel")
        # The last strip may be short; tiles are always whole.
        rows = height if page.tiled else min(height, page.length - row * height)
        most = rows * width * samples * max(kind.itemsize, 1)
        raw = packed if page.compression == _UNCOMPRESSED else zlib.decompressobj().decompress(packed, most)
        block = _unpacked(raw, rows, width, samples, page.bits, kind)
        if page.predictor == 2:
            block = np.cumsum(block, axis=1, dtype=block.dtype)
        top, left = row * height, column * width
        array[plane, top : top + rows, left : left + width] = block
    array = array[:, : page.length, : page.width]
    return array.reshape(page.shape)


def _unpacked(raw: bytes, rows: int, width: int, samples: int, bits: int, kind: np.dtype) -> np.ndarray:
    """(rows, width, samples) in the byte order of this machine."""
    if bits == 1:
        bytes_per_row = -(-width * samples // 8)
        packed = np.frombuffer(raw, np.uint8, rows * bytes_per_row).reshape(rows, bytes_per_row)
        return np.unpackbits(packed, axis=1, count=width * samples).reshape(rows, width, samples)
    block = np.frombuffer(raw, kind, rows * width * samples).reshape(rows, width, samples)
    return block.astype(kind.newbyteorder("="), copy=False)


def _read_with_itk(path: Path, num_pages: int, page: Page) -> np.ndarray:
    from framework.data import itk_files

    plain = (
        not page.tiled
        and not page.planar
        and page.kind in ("u1", "i1", "u2", "i2", "u4", "i4", "f4")
        and page.bits >= 8
        and page.depth == 1
        and page.samples in (1, 3, 4)
        and page.compression in (*_DECODED, _LZW, _PACKBITS)
        and page.photometric in (0, 1, 2)
    )
    if plain:
        array, _, _ = itk_files.read(path)
        expected = page.shape if num_pages == 1 else (num_pages, *page.shape)
        if array.shape == expected and array.dtype == np.dtype(page.kind):
            return array
    raise FoldwiseError(
        f"{path} is stored in a way that cannot be read exactly (TIFF compression {page.compression}, {page.bits} bits"
        f"{', tiles' if page.tiled else ''}{', JPEG or palette colours' if page.photometric > 2 else ''}). "
        "Save it uncompressed or with deflate (zlib)."
    )
