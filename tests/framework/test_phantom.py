"""Simulated scans: deterministic, complete, of the asked form, and readable as a raw dataset."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from framework.data.image_io import check_case
from framework.data.phantom import make_phantom_dataset, phantom_case
from framework.data.phantom_anatomy import Grid, label_names, smooth_noise
from framework.data.raw_dataset import RawDataset
from framework.randomness import generator

SMALL: dict[str, Any] = {"shape": (12, 32, 32)}


def test_seed_and_index_decide_everything() -> None:
    image, segmentation, spacing = phantom_case(3, **SMALL)
    again = phantom_case(3, **SMALL)
    np.testing.assert_array_equal(image, again[0])
    np.testing.assert_array_equal(segmentation, again[1])
    assert spacing == again[2]
    for other in (phantom_case(4, **SMALL), phantom_case(3, seed=1, **SMALL)):
        assert other[0].shape != image.shape or not np.array_equal(other[0], image)


def test_more_channels_show_the_same_patient() -> None:
    one, segmentation, _ = phantom_case(0, **SMALL)
    three, same, _ = phantom_case(0, num_channels=3, **SMALL)
    np.testing.assert_array_equal(three[:1], one)
    np.testing.assert_array_equal(same, segmentation)
    for first, second in ((0, 1), (0, 2), (1, 2)):
        inside = segmentation > 0
        assert abs(np.corrcoef(three[first][inside], three[second][inside])[0, 1]) < 0.95


@pytest.mark.parametrize("num_labels", [1, 2, 3, 4, 7])
def test_every_label_is_there(num_labels: int) -> None:
    found: set[int] = set()
    for index in range(4):
        segmentation = phantom_case(index, num_labels=num_labels)[1]
        assert segmentation.min() >= 0
        assert segmentation.max() <= num_labels
        found.update(np.unique(segmentation).tolist())
    assert found == set(range(num_labels + 1))
    assert list(label_names(num_labels).values()) == list(range(num_labels + 1))


def test_structures_are_large_and_small_and_stand_out_from_their_surroundings() -> None:
    image, segmentation, _ = phantom_case(0)
    sizes = np.bincount(segmentation.ravel(), minlength=4) / segmentation.size
    assert 0.02 < sizes[1] < 0.3
    assert 0.0005 < sizes[2] < 0.05
    assert 0.0002 < sizes[3] < sizes[1] / 3
    organ, lesion = (np.median(image[0][segmentation == label]) for label in (1, 3))
    assert abs(organ - lesion) > image[0][segmentation == 1].std() / 2


def test_shape_spacing_and_variation_are_as_asked() -> None:
    image, segmentation, spacing = phantom_case(0, shape=(10, 40, 48), spacing=(4, 0.8, 0.8), variation=0)
    assert image.shape == (1, 10, 40, 48)
    assert segmentation.shape == (10, 40, 48)
    assert spacing == (4, 0.8, 0.8)
    shapes = {phantom_case(index, **SMALL)[0].shape for index in range(4)}
    assert len(shapes) > 1


def test_flat_cases_are_single_slices() -> None:
    image, segmentation, _ = phantom_case(0, dimensions=2, shape=(48, 56), spacing=(1, 1), variation=0)
    assert image.shape == (1, 1, 48, 56)
    assert {1, 2} <= set(np.unique(segmentation).tolist())


def test_ct_is_in_hounsfield_units() -> None:
    image, segmentation, _ = phantom_case(0, modality="ct")
    assert -1024 <= image.min() < -900
    assert 80 < np.median(image[0][segmentation == 1]) < 130
    np.testing.assert_array_equal(image, np.rint(image))


def test_smooth_noise_has_unit_variance_and_the_asked_length() -> None:
    field = smooth_noise(generator(0, "test", 0), Grid((60, 60, 60), (1.0, 1.0, 1.0)), 5.0)
    assert abs(field.mean()) < 0.1
    assert 0.8 < field.std() < 1.2
    near = np.corrcoef(field[:-1].ravel(), field[1:].ravel())[0, 1]
    far = np.corrcoef(field[:-20].ravel(), field[20:].ravel())[0, 1]
    assert near > 0.9
    assert abs(far) < 0.15


@pytest.mark.parametrize(
    "arguments",
    [
        {"num_channels": 2},
        {"modality": "ct", "num_labels": 5},
        {"dimensions": 2, "shape": (32, 40), "spacing": (1, 1)},
        {"dimensions": 2, "shape": (32, 40), "spacing": (1, 1), "file_ending": ".png"},
        {"file_ending": ".nrrd"},
    ],
)
def test_datasets_are_complete_and_readable(tmp_path: Path, arguments: dict[str, Any]) -> None:
    arguments = {**SMALL, **arguments}
    folder = make_phantom_dataset(tmp_path, "Dataset007_Test", num_cases=2, num_test_cases=1, **arguments)
    dataset = RawDataset.open(folder)
    assert dataset.name == "Dataset007_Test"
    assert dataset.warnings == ()
    assert list(dataset.cases) == ["phantom_000", "phantom_001"]
    assert len(list((folder / "imagesTs").iterdir())) == len(dataset.channel_names)
    for index, case in enumerate(dataset.cases.values()):
        image, segmentation, properties = check_case(
            case.images, case.label, dataset.labels, case.name, len(dataset.channel_names)
        )
        expected = phantom_case(index, **{k: v for k, v in arguments.items() if k != "file_ending"})
        assert segmentation is not None
        np.testing.assert_array_equal(segmentation[0], expected[1])
        if arguments.get("file_ending") != ".png":
            np.testing.assert_array_equal(image, expected[0])
        if arguments.get("dimensions", 3) == 3:
            np.testing.assert_allclose(properties["spacing"], expected[2], rtol=1e-6)


def test_a_complete_dataset_is_left_as_it_is(tmp_path: Path) -> None:
    folder = make_phantom_dataset(tmp_path, num_cases=1, **SMALL)
    before = {path: path.stat().st_mtime_ns for path in folder.rglob("*")}
    assert make_phantom_dataset(tmp_path, num_cases=5, **SMALL) == folder
    assert {path: path.stat().st_mtime_ns for path in folder.rglob("*")} == before


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"num_labels": 0}, "at least one of each"),
        ({"dimensions": 2, "shape": (32,)}, "do not go together"),
        ({"shape": (12, 8, 8)}, "16 voxels a side"),
        ({"modality": "pet"}, "expected 'mr' or 'ct'"),
    ],
)
def test_impossible_requests_are_refused(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        phantom_case(0, **{**SMALL, **arguments})


def test_torch_is_not_needed() -> None:
    code = "import sys, framework.data.phantom; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=Path(__file__).parents[2]).returncode == 0
