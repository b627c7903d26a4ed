"""The directories of a TIFF or BigTIFF file: how its pages are stored, not yet their voxels."""

from __future__ import annotations

import struct
from dataclasses import dataclass

_TYPES = {1: "B", 2: "c", 3: "H", 4: "I", 6: "b", 7: "B", 8: "h", 9: "i", 11: "f", 12: "d", 13: "I", 16: "Q", 18: "Q"}
"""TIFF's codes for the types of values; fractions (5, 10) stand in no tag that matters here."""
_KINDS = {1: "u", 2: "i", 3: "f", 4: "u"}  # sample formats


class TiffError(ValueError):
    """The file is no TIFF, or damaged; the message ends a sentence about the file."""


@dataclass(frozen=True)
class Page:
    """One image of the file."""

    byte_order: str
    width: int
    length: int
    samples: int
    bits: int
    kind: str | None
    """numpy's type of a voxel, without byte order; None if it has none."""
    planar: bool
    """Every colour is stored by itself."""
    compression: int
    predictor: int
    photometric: int
    fill_order: int
    depth: int
    tiled: bool
    segment: tuple[int, int]
    """Rows and columns of a strip or tile."""
    offsets: tuple[int, ...]
    counts: tuple[int, ...]
    description: str

    @property
    def shape(self) -> tuple[int, ...]:
        if self.samples == 1:
            return (self.length, self.width)
        return (self.samples, self.length, self.width) if self.planar else (self.length, self.width, self.samples)

    @property
    def layout(self) -> tuple[object, ...]:
        """What pages of one stack have in common."""
        return (self.shape, self.planar, self.kind, self.bits, self.compression, self.photometric)


def read_pages(content: bytes) -> list[Page]:
    """All pages of a file, in order.

    Raises:
        TiffError, struct.error: the file is no TIFF, or damaged.
    """
    order = {b"II": "<", b"MM": ">"}.get(content[:2])
    version = struct.unpack_from(f"{order}H", content, 2)[0] if order and len(content) >= 8 else 0
    if order is None or version not in (42, 43):
        raise TiffError("it does not begin like a TIFF file")
    big = version == 43
    offset = struct.unpack_from(order + ("Q" if big else "I"), content, 8 if big else 4)[0]
    pages, seen = [], set()
    while offset and offset not in seen:
        seen.add(offset)
        tags, offset = _directory(content, offset, order, big)
        pages.append(_page(tags, order))
    if not pages:
        raise TiffError("it holds no image")
    return pages


def _directory(content: bytes, offset: int, order: str, big: bool) -> tuple[dict[int, tuple], int]:
    """The tags of one directory, and the offset of the next."""
    number_format, entry_size, value_size = ("Q", 20, 8) if big else ("H", 12, 4)
    word = "Q" if big else "I"
    number = struct.unpack_from(order + number_format, content, offset)[0]
    offset += struct.calcsize(number_format)
    tags: dict[int, tuple] = {}
    for start in range(offset, offset + number * entry_size, entry_size):
        tag, kind = struct.unpack_from(order + "HH", content, start)
        count = struct.unpack_from(order + word, content, start + 4)[0]
        if kind not in _TYPES:
            continue
        value_at = start + entry_size - value_size
        if count * struct.calcsize(_TYPES[kind]) > value_size:
            value_at = struct.unpack_from(order + word, content, value_at)[0]
        tags[tag] = struct.unpack_from(f"{order}{count}{_TYPES[kind]}", content, value_at)
    return tags, struct.unpack_from(order + word, content, offset + number * entry_size)[0]


def _page(tags: dict[int, tuple], order: str) -> Page:
    def value(tag: int, default: int = 0) -> int:
        return int(tags.get(tag, (default,))[0])

    width, length, samples = value(256), value(257), value(277, 1)
    if width < 1 or length < 1 or samples < 1:
        raise TiffError(f"one of its images has {length} rows, {width} columns and {samples} values in a pixel")
    tiled = 322 in tags
    bits = set(tags.get(258, (1,)))
    formats = set(tags.get(339, (1,)))
    return Page(
        byte_order=order,
        width=width,
        length=length,
        samples=samples,
        bits=max(bits),
        kind=_kind(bits, formats),
        planar=value(284, 1) == 2 and samples > 1,
        compression=value(259, 1),
        predictor=value(317, 1),
        photometric=value(262, 1),
        fill_order=value(266, 1),
        depth=value(32997, 1),
        tiled=tiled,
        segment=(value(323), value(322)) if tiled else (min(value(278, length), length), width),
        offsets=tags.get(324 if tiled else 273, ()),
        counts=tags.get(325 if tiled else 279, ()),
        description=b"".join(tags.get(270, ())).rstrip(b"\0").decode("utf-8", "replace"),
    )


def _kind(bits: set[int], formats: set[int]) -> str | None:
    if len(bits) != 1 or len(formats) != 1:
        return None
    width, kind = bits.pop(), _KINDS.get(formats.pop())
    if width == 1 and kind == "u":
        return "u1"
    known = (16, 32, 64) if kind == "f" else (8, 16, 32, 64)
    return f"{kind}{width // 8}" if kind and width in known else None
