"""Images whose headers announce what is not there, or what no computer has."""

from __future__ import annotations

import gzip
import math
import struct
import zipfile
import zlib
from pathlib import Path
from typing import Any

import blosc2
import numpy as np
import pytest
import SimpleITK

from framework.data.blosc_format import open_packed
from framework.data.case_files import load_case, read_header
from framework.data.image_io import read_images, read_segmentation
from framework.data.readers import READERS
from framework.errors import CaseError, FoldwiseError
from framework.selection.probability_files import ProbabilityFile
from tests.safety.bounds import at_most

MIB = 1 << 20
SHAPE = (4, 5, 6)
NIFTI_READERS = ["SimpleITKIO", "SimpleITKIOWithReorient", "NibabelIO", "NibabelIOWithReorient"]


@pytest.fixture(scope="module")
def good() -> bytes:
    """A NIfTI-1 file of floats."""
    path = Path("good.nii")
    SimpleITK.WriteImage(SimpleITK.GetImageFromArray(np.ones(SHAPE, np.float32)), str(path))
    content = path.read_bytes()
    path.unlink()
    return content


def changed(content: bytes, *fields: tuple[int, str, tuple[float, ...]]) -> bytes:
    """Numbers in a header replaced: (offset, format, values)."""
    result = bytearray(content)
    for offset, form, values in fields:
        struct.pack_into(f"<{form}", result, offset, *values)
    return bytes(result)


def read_or_refused(path: Path, reader: str) -> tuple[np.ndarray, dict[str, Any]] | None:
    """What was read, or None where it was refused with a message that names the file."""
    try:
        return read_images([path], reader)
    except FoldwiseError as error:
        message = str(error)
    assert path.name in message
    return None


HEADERS = {
    "more voxels than there are": (40, "4h", (3, 500, 500, 500)),
    "the largest size": (40, "8h", (7, *[32767] * 7)),
    "negative sizes": (40, "4h", (3, -5, 6, 7)),
    "no voxels": (40, "4h", (3, 0, 6, 7)),
    "eight dimensions": (40, "h", (8,)),
    "an offset behind the end": (108, "f", (1e9,)),
    "an endless offset": (108, "f", (math.inf,)),
    "a negative offset": (108, "f", (-500.0,)),
    "an offset that is no number": (108, "f", (math.nan,)),
    "bits that are not those of the type": (72, "h", (8,)),
    "a type that does not exist": (70, "h", (77,)),
    "a spacing that is no number": (80, "3f", (math.nan,) * 3),
    "an infinite spacing": (80, "3f", (math.inf,) * 3),
}


@pytest.mark.parametrize("reader", NIFTI_READERS)
@pytest.mark.parametrize("what", HEADERS)
def test_a_nifti_header_with_impossible_numbers_is_refused(what: str, reader: str, good: bytes, tmp_path: Path):
    content = changed(good, HEADERS[what])
    if "spacing" in what:
        content = changed(content, (252, "2h", (0, 0)))  # nothing else describes the space
    (tmp_path / "a.nii").write_bytes(content)
    (tmp_path / "a.nii.gz").write_bytes(gzip.compress(content))
    for name in ("a.nii", "a.nii.gz"):
        with at_most(60 * MIB):
            found = read_or_refused(tmp_path / name, reader)
        # ITK repairs some of them: what is read is an image then.
        if found is not None:
            assert np.isfinite(found[1]["spacing"]).all()
            assert found[0].size <= 2 * math.prod(SHAPE)


@pytest.mark.parametrize("value", [math.nan, math.inf, 0.0])
@pytest.mark.parametrize("reader", NIFTI_READERS)
def test_an_affine_matrix_that_places_nothing_is_refused(value: float, reader: str, good: bytes, tmp_path: Path):
    (tmp_path / "a.nii").write_bytes(changed(good, (252, "2h", (0, 1)), (280, "12f", (value,) * 12)))
    found = read_or_refused(tmp_path / "a.nii", reader)
    assert found is None or np.isfinite(found[1]["spacing"]).all()
    if reader.startswith("Nibabel"):
        with pytest.raises(FoldwiseError, match="affine matrix that says of no voxel where it lies"):
            read_images([tmp_path / "a.nii"], reader)


@pytest.mark.parametrize("reader", NIFTI_READERS)
def test_a_small_gz_that_unpacks_to_more_than_its_header_says_is_not_unpacked(reader: str, good: bytes, tmp_path: Path):
    with gzip.open(tmp_path / "bomb.nii.gz", "wb", 1) as file:
        file.write(good)
        for _ in range(150):
            file.write(bytes(MIB))
    with at_most(80 * MIB):
        image, _ = read_images([tmp_path / "bomb.nii.gz"], reader)
    assert image.shape == (1, *SHAPE)
    assert (image == 1).all()


def test_a_header_that_no_file_of_this_size_can_fill_is_refused(good: bytes, tmp_path: Path):
    """Deflate packs at most 1032 bytes into one."""
    content = changed(good, (40, "4h", (3, 3000, 3000, 3000)))
    (tmp_path / "a.nii.gz").write_bytes(gzip.compress(content))
    (tmp_path / "a.mha").write_bytes(
        b"ObjectType = Image\nNDims = 3\nDimSize = 30000 30000 3000\nElementType = MET_FLOAT\nElementSpacing = 1 1 1\n"
        b"CompressedData = True\nElementDataFile = LOCAL\n" + zlib.compress(b"x")
    )
    (tmp_path / "a.nrrd").write_bytes(
        b"NRRD0004\ntype: double\ndimension: 3\nsizes: 30000 30000 3000\nencoding: gzip\nendian: little\n\n"
        + gzip.compress(b"x")
    )
    png = SimpleITK.GetImageFromArray(np.zeros((4, 5), np.uint8))
    SimpleITK.WriteImage(png, str(tmp_path / "a.png"))
    start = (tmp_path / "a.png").read_bytes()
    size = b"IHDR" + struct.pack(">2I", 400_000, 400_000) + start[24:29]
    (tmp_path / "a.png").write_bytes(start[:12] + size + struct.pack(">I", zlib.crc32(size)) + start[33:])
    for name in ("a.nii.gz", "a.mha", "a.nrrd", "a.png"):
        with at_most(60 * MIB), pytest.raises(FoldwiseError, match=rf"{name} "):
            read_images([tmp_path / name])


def tiff_file(
    *, width: int = 4, length: int = 4, rows: int = 4, counts: int = 16, packed: bytes = b"", text: bytes = b""
):
    """A TIFF of one strip of bytes; `packed`: deflated."""
    data = packed or bytes(16)
    entries = [
        (256, 4, 1, width), (257, 4, 1, length), (258, 3, 1, 8), (259, 3, 1, 8 if packed else 1), (262, 3, 1, 1),
        (273, 4, 1, 8), (277, 3, 1, 1), (278, 4, 1, rows), (279, 4, 1, len(packed) or counts),
    ]  # fmt: skip
    at = 8 + len(data)
    if text:
        entries.insert(5, (270, 2, len(text), at + 2 + 12 * (len(entries) + 1) + 4))
    table = struct.pack("<H", len(entries)) + b"".join(struct.pack("<HHII", *entry) for entry in entries)
    return struct.pack("<2sHI", b"II", 42, at) + data + table + bytes(4) + text


@pytest.mark.parametrize(
    "content",
    [
        tiff_file(width=2**31, length=2**31),
        tiff_file(width=2**32 - 1, length=1, rows=1),
        tiff_file(length=2**32 - 1, rows=1),
        tiff_file(length=2**32 - 1, counts=0, rows=2**32 - 1),
        tiff_file(rows=0),
        tiff_file(counts=2**32 - 1),
        tiff_file(width=0),
        tiff_file(text=b'{"shape": "x"}\0'),
        tiff_file(text=b'{"shape": [-1, 4]}\0'),
        tiff_file(text=b'{"shape": ' + b"[" * 5000 + b"\0"),
        tiff_file(text=b"ImageJ=1\nimages=999999999999\n\0"),
    ],
    ids=range(11),
)
def test_a_tiff_with_impossible_numbers_is_refused_or_read_as_what_it_holds(content: bytes, tmp_path: Path):
    (tmp_path / "a.tif").write_bytes(content)
    for reader in ("NaturalImage2DIO", "Tiff3DIO"):
        with at_most(60 * MIB):
            found = read_or_refused(tmp_path / "a.tif", reader)
        assert found is None or found[0].size == 16


def test_a_tiff_strip_unpacks_to_no_more_than_its_size(tmp_path: Path):
    (tmp_path / "bomb.tif").write_bytes(tiff_file(packed=zlib.compress(bytes(100 * MIB))))
    with at_most(60 * MIB):
        image, _ = read_images([tmp_path / "bomb.tif"], "NaturalImage2DIO")
    assert image.shape == (1, 1, 4, 4)


@pytest.mark.parametrize("name", ["../secret.raw", "{folder}/secret.raw", "LIST\nsecret.raw", "s%d.raw 1 2 1"])
@pytest.mark.parametrize("ending", [".mha", ".mhd", ".nrrd", ".nhdr"])
def test_a_header_cannot_take_its_voxels_from_a_file_elsewhere(name: str, ending: str, tmp_path: Path):
    (tmp_path / "secret.raw").write_bytes(b"\x07" * 8)
    folder = tmp_path / "in"
    folder.mkdir()
    place = name.format(folder=tmp_path)
    if ending.startswith(".m"):
        text = f"ObjectType = Image\nNDims = 3\nDimSize = 2 2 2\nElementType = MET_UCHAR\nElementDataFile = {place}\n"
    else:
        text = f"NRRD0004\ntype: uchar\ndimension: 3\nsizes: 2 2 2\nencoding: raw\ndata file: {place}\n\n"
    (folder / f"a{ending}").write_text(text)
    with pytest.raises(FoldwiseError, match=r"Only a file beside it is read"):
        read_images([folder / f"a{ending}"], "SimpleITKIO")


@pytest.mark.parametrize("reader", READERS)
def test_every_reader_refuses_what_is_no_image(reader: str, tmp_path: Path):
    for ending in (".nii", ".nii.gz", ".nrrd", ".mha", ".gipl", ".tif", ".png", ".bmp", ".jpg"):
        for number, content in enumerate((b"", b"\0", b"\x1f\x8b", b"\x5c\x01\0\0" + bytes(400), bytes(1000))):
            path = tmp_path / f"{number}{ending}"
            path.write_bytes(content)
            for read in (lambda path: read_images([path], reader), lambda path: read_segmentation(path, reader)):
                with at_most(60 * MIB), pytest.raises(FoldwiseError):
                    read(path)


def test_a_preprocessed_case_that_is_a_program_is_not_opened(tmp_path: Path):
    """blosc2 keeps expressions and functions in files of the same kind, and older versions run them on opening."""
    for name in ("LazyArray", "proxy-source", "b2o"):
        path = tmp_path / f"{name}.b2nd"
        blosc2.asarray(np.zeros(4), urlpath=str(path), mode="w", meta={name: {"UDF": "import os; os.mkdir('ran')"}})
        with pytest.raises(OSError, match="an expression or a function that would be run"):
            open_packed(path)
    assert not Path("ran").exists()


def test_arrays_that_claim_more_than_their_file_holds_are_refused(tmp_path: Path):
    def header(shape: tuple[int, ...]) -> bytes:
        text = f"{{'descr': '<f4', 'fortran_order': False, 'shape': {shape}, }}".ljust(117) + "\n"
        return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(text)) + text.encode()

    for number, shape in enumerate(((1, 10**5, 10**5, 10**5), (1, -1, 2, 3), (1, 2, 2, 10**9))):
        path = tmp_path / f"{number}.npz"
        with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
            for name in ("data", "seg", "probabilities"):
                archive.writestr(f"{name}.npy", header(shape) + bytes(64))
        for read in (lambda path: ProbabilityFile(path), lambda path: load_case(path.parent, path.stem)):
            with at_most(60 * MIB), pytest.raises(CaseError, match=r"cannot be read"):
                read(path)
        with pytest.raises(CaseError):
            read_header(tmp_path, path.stem)
