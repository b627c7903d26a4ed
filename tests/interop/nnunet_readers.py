"""Images of many formats and kinds, read and written by the real nnU-Net; runs in the yardstick's environment.

python nnunet_readers.py make FOLDER    write seeded images, and nnunet.json with what nnU-Net's readers make of them
python nnunet_readers.py again FOLDER   read label images that Foldwise wrote, named in written.json, into again.json
"""

from __future__ import annotations

import contextlib
import io
import json
import sys
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import SimpleITK
import tifffile
from nnunetv2.imageio.reader_writer_registry import recursive_find_reader_writer_by_name
from PIL import Image

NIFTI_READERS = ("NibabelIO", "NibabelIOWithReorient", "SimpleITKIO", "SimpleITKIOWithReorient")
SHAPE = (2, 2, 5)  # no axis of 3 or 4, which would be taken for colours


def main(what: str, folder: Path) -> None:
    if what == "make":
        jobs = [*nifti_files(folder), *itk_files(folder), *tiff_files(folder), *photographs(folder)]
        results = [result for name, reader in jobs if (result := read_and_write(folder, name, reader)) is not None]
        (folder / "nnunet.json").write_text(json.dumps(results))
    else:
        jobs = json.loads((folder / "written.json").read_text())
        (folder / "again.json").write_text(
            json.dumps([read(folder / name, reader, "read_seg") for name, reader in jobs])
        )


def read_and_write(folder: Path, name: str, reader: str) -> dict[str, Any] | None:
    """What a reader reads, and the label image that it writes; None if it cannot read the file."""
    try:
        result = read(folder / name, reader, "read_images")
    except Exception:
        return None
    segmentation = label_map(result["shape"][1:])
    written = f"label_{reader}_{name}"
    properties = {key: unpacked(value) for key, value in result["properties"].items()}
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            recursive_find_reader_writer_by_name(reader)().write_seg(segmentation, str(folder / written), properties)
    except Exception:
        written = ""  # 4D files, for example
    return {"file": name, "reader": reader, "written": written, **result}


def label_map(shape: list[int]) -> np.ndarray:
    """The label image that both sides write."""
    return (np.arange(np.prod(shape)).reshape(shape) % 5).astype(np.uint8)


def read(path: Path, reader: str, method: str) -> dict[str, Any]:
    with contextlib.redirect_stdout(io.StringIO()):
        instance = recursive_find_reader_writer_by_name(reader)()
        array, properties = getattr(instance, method)([str(path)] if method == "read_images" else str(path))
    array = np.asarray(array, np.float32)
    return {
        "shape": array.shape,
        "voxels": [int(value) if value == int(value) else value for value in array.ravel().tolist()],
        "properties": json.loads(json.dumps(properties, default=lambda value: value.tolist())),
    }


def unpacked(value: Any) -> Any:
    """Affines as arrays again, after JSON."""
    return {k: np.array(v) if "affine" in k else v for k, v in value.items()} if isinstance(value, dict) else value


def nifti_files(folder: Path) -> list[tuple[str, str]]:
    rng = np.random.default_rng(0)
    names = []
    for number in range(60):
        shape = SHAPE if number < 8 else (5, 6, 7)
        kind = ("i2", "f4", "u1", "f8", "i4")[number % 5]
        array = (rng.normal(size=shape) * 100).astype(kind)
        affine = np.eye(4)
        rotation = np.linalg.qr(rng.normal(size=(3, 3)))[0]
        permutation = np.eye(3)[rng.permutation(3)] * rng.choice([-1, 1], size=3)
        affine[:3, :3] = (rotation if number % 2 else permutation) * rng.uniform(0.3, 4, 3)
        affine[:3, 3] = rng.normal(size=3) * 100
        if number % 10 == 8:
            affine[:3, :3] += rng.normal(size=(3, 3)) * 0.05  # sheared
        image_class = nibabel.Nifti2Image if number % 6 == 5 else nibabel.Nifti1Image
        header = image_class(array, None).header
        where = number % 4
        if where == 3:
            header.set_zooms(rng.uniform(0.3, 4, 3))
        if where in (1, 2):
            header.set_qform(affine, 1)
        if where in (0, 2):
            header.set_sform(affine, 1)
        if where == 0:
            header["pixdim"][1:4] = np.linalg.norm(affine[:3, :3], axis=0) * (1.1 if number % 8 else 1)
        image = image_class(array, None, header)
        if number % 7 == 3:
            image.header.set_slope_inter(1.7, -3)
        names.append(f"nifti{number}.nii" + (".gz" if number % 3 else ""))
        nibabel.save(image, folder / names[-1])
    return [(name, reader) for name in names for reader in NIFTI_READERS]


def itk_files(folder: Path) -> list[tuple[str, str]]:
    rng = np.random.default_rng(1)
    jobs = []
    for ending in (".nrrd", ".mha", ".gipl", ".nii.gz", ".mhd", ".nhdr"):
        for kind in ("u1", "i2", "f4", "f8"):
            for shape in (SHAPE[1:], SHAPE, (2, *SHAPE)):
                if ending == ".gipl" and len(shape) == 4:
                    continue
                image = SimpleITK.GetImageFromArray((rng.normal(size=shape) * 50).astype(kind), isVector=False)
                image.SetSpacing(rng.uniform(0.3, 3, len(shape)).tolist())
                image.SetOrigin((rng.normal(size=len(shape)) * 50).tolist())
                if len(shape) == 3:
                    image.SetDirection(np.linalg.qr(rng.normal(size=(3, 3)))[0].ravel().tolist())
                name = f"itk_{kind}_{len(shape)}d{ending}"
                with contextlib.suppress(RuntimeError):  # not every format takes every type
                    SimpleITK.WriteImage(image, str(folder / name), True)
                    jobs += [(name, "SimpleITKIO"), (name, "SimpleITKIOWithReorient")]
    return jobs


def tiff_files(folder: Path) -> list[tuple[str, str]]:
    rng = np.random.default_rng(2)
    names = []

    def save(what: str, array: np.ndarray, **options: Any) -> None:
        name = f"tiff{len(names)}_{what}_0000.tif"
        with contextlib.suppress(Exception):  # not every type can be compressed in every way
            tifffile.imwrite(folder / name, array, **options)
            if len(names) % 3:
                (folder / name.replace("_0000.tif", ".json")).write_text('{"spacing": [2.5, 0.7, 0.3]}')
            names.append(name)

    for kind in ("u1", "i1", "u2", "i2", "u4", "i4", "f4", "f8", "f2", "u8", "i8", "?"):
        for slices in (1, 2, 3, 4, 7):
            numbers = rng.normal(size=(slices, *SHAPE[1:])) * 60
            array = (np.abs(numbers) if kind[0] == "u" else numbers).astype(kind)
            name = f"{np.dtype(kind).name}_{slices}"
            for options in ({}, {"compression": "zlib"}, {"tile": (16, 16)}, {"byteorder": ">"}):
                save(name, array, **options)
    stack = rng.integers(0, 60000, (7, 20, 30)).astype(np.uint16)
    for what, options in {
        "lzw": {"compression": "lzw"}, "packbits": {"compression": "packbits"}, "big": {"bigtiff": True},
        "predictor": {"compression": "zlib", "predictor": True}, "imagej": {"imagej": True},
        "ome": {"ome": True, "metadata": {"axes": "ZYX"}}, "truncated": {"truncate": True}, "plain": {"metadata": None},
        "white": {"photometric": "miniswhite"}, "strips": {"rowsperstrip": 7, "compression": "zlib"},
        "tiles": {"tile": (32, 16), "compression": "zlib", "predictor": True},
    }.items():  # fmt: skip
        save(what, stack, **options)
    save("float_predictor", stack.astype(np.float32), compression="zlib", predictor=True)
    save("hyperstack", stack[:6].reshape(3, 2, 20, 30), imagej=True, metadata={"axes": "ZCYX"})
    colours = rng.integers(0, 255, (5, 6, 3)).astype(np.uint8)
    for what, array in {"rgb": colours, "rgb16": colours * np.uint16(200), "grey": colours[..., 0] / 3}.items():
        save(what, array)
    return [(name, reader) for name in names for reader in ("Tiff3DIO", "NaturalImage2DIO")]


def photographs(folder: Path) -> list[tuple[str, str]]:
    rng = np.random.default_rng(3)
    names = []
    rgba = rng.integers(0, 255, (5, 6, 4)).astype(np.uint8)
    grey = rgba[..., 0]
    images = {
        "rgb": Image.fromarray(rgba[..., :3]), "rgba": Image.fromarray(rgba), "grey": Image.fromarray(grey),
        "bit": Image.fromarray(grey > 100), "palette": Image.fromarray(rgba[..., :3]).quantize(7),
        "grey16": Image.fromarray(grey.astype(np.uint16) * 200),
    }  # fmt: skip
    for what, image in images.items():
        for ending in (".png", ".bmp", ".tif", ".jpg"):
            with contextlib.suppress(OSError):  # not every format takes every kind
                image.save(folder / f"photograph_{what}{ending}")
                names.append(f"photograph_{what}{ending}")
    return [(name, "NaturalImage2DIO") for name in names]


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]))
