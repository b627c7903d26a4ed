"""Any change of an image file: it is read, or it is one of our errors."""

from __future__ import annotations

import gzip
import warnings
from pathlib import Path

import numpy as np
import pytest
import SimpleITK
from hypothesis import given
from hypothesis import strategies as st

from framework.data import tiff
from framework.data.image_io import read_images, read_segmentation
from framework.errors import FoldwiseError
from tests.safety.mutations import QUICK, THOROUGH, changed_bytes, settings

SEEDS = st.integers(0, 2**32 - 1)
LABELS = (np.arange(120).reshape(4, 5, 6) % 3).astype(np.uint8)
NIFTI = (None, "NibabelIO", "NibabelIOWithReorient", "SimpleITKIOWithReorient")
READERS = {
    "float.nii": NIFTI, "label.nii": NIFTI, "packed.nii.gz": NIFTI, "plain.mha": (None,), "packed.mha": (None,),
    "packed.nrrd": (None,), "volume.gipl": (None,), "stack.tif": ("Tiff3DIO", "NaturalImage2DIO"), "grey.png": (None,),
    "grey.bmp": (None,), "grey.jpg": (None,),
}  # fmt: skip


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("images")
    for name in READERS:
        array = LABELS.astype(np.float32) if name == "float.nii" else LABELS
        if name.startswith("grey"):
            array = array[0] * 50
        if name.endswith(".tif"):
            tiff.write(folder / name, array)
        else:
            image = SimpleITK.GetImageFromArray(array)
            image.SetSpacing([1.0, 2.0, 3.0][: array.ndim])
            SimpleITK.WriteImage(image, str(folder / name), name.startswith("packed"))
    return {name: folder / name for name in READERS}


def is_read_or_refused(path: Path, seed: int) -> None:
    content = path.read_bytes()
    if path.suffix == ".gz" and seed % 2:
        content = gzip.compress(changed_bytes(gzip.decompress(content), seed, 352), 1)
    else:
        content = changed_bytes(content, seed, 352)
    changed = path.with_name(f"changed {path.name}")
    changed.write_bytes(content)
    for reader in READERS[path.name]:
        for read in (lambda name, path: read_images([path], name), lambda name, path: read_segmentation(path, name)):
            try:
                with warnings.catch_warnings():
                    warnings.simplefilter("ignore")
                    array, properties = read(reader, changed)
            except FoldwiseError:
                continue
            assert array.ndim == 4
            assert np.isfinite(properties["spacing"]).all()


@pytest.mark.parametrize("name", READERS)
@settings(QUICK, max_examples=25)
@given(seed=SEEDS)
def test_any_change_is_read_or_refused(files: dict[str, Path], name: str, seed: int):
    is_read_or_refused(files[name], seed)


@pytest.mark.slow
@pytest.mark.parametrize("name", READERS)
@settings(THOROUGH, max_examples=600)
@given(seed=SEEDS)
def test_very_many_changes_are_read_or_refused(files: dict[str, Path], name: str, seed: int):
    is_read_or_refused(files[name], seed)
