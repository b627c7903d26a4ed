"""Raw datasets of simulated CTs for benchmarks."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from framework.data.phantom import phantom_case
from framework.files import write_json


def write_phantom_cts(folder: Path, spacings: Sequence[Sequence[float]], shape: Sequence[int], num_labels: int) -> None:
    """One simulated trunk for each spacing (mm, array order), all of the same shape."""
    for index, spacing in enumerate(spacings):
        image, labels, voxel = phantom_case(
            index, shape=shape, spacing=spacing, num_labels=num_labels, modality="ct", variation=0.0
        )
        write_case(folder, f"ct_{index}", image[0], labels, voxel)
    write_dataset_json(folder, num_labels, len(spacings))


def write_large_ct(folder: Path, shape: Sequence[int], spacing: Sequence[float], num_labels: int) -> None:
    """One CT of any size: round organs on a regular grid in a body of soft tissue, with air around and noise."""
    random = np.random.default_rng(0)
    image = np.empty(tuple(shape), np.int16)
    labels = np.zeros(tuple(shape), np.uint8)
    rows, columns = np.ogrid[: shape[1], : shape[2]]
    body = ((rows / shape[1] - 0.5) / 0.46) ** 2 + ((columns / shape[2] - 0.5) / 0.46) ** 2 < 1
    for plane in image:
        plane[...] = np.where(body, 40, -1000) + random.normal(0, 20, body.shape)
    per_axis = int(np.ceil(num_labels ** (1 / 3)))
    for label in range(1, num_labels + 1):
        place = np.unravel_index(label - 1, (per_axis,) * 3)
        box = []
        for number, length in zip(place, shape):
            usable = 0.7 * length / per_axis
            start = 0.15 * length + number * usable
            box.append(slice(int(start), int(start + usable)))
        part = labels[tuple(box)]
        grids = np.ogrid[tuple(slice(-1, 1, complex(0, length)) for length in part.shape)]
        inside = sum(grid**2 for grid in grids) < 0.8
        part[inside] = label
        image[tuple(box)][inside] += np.int16(label)
    write_case(folder, "ct_0", image, labels, spacing)
    write_dataset_json(folder, num_labels, 1)


def write_case(folder: Path, case: str, image: np.ndarray, labels: np.ndarray, spacing: Sequence[float]) -> None:
    """Both files of a case: image (X, Y, Z) as int16, labels as uint8."""
    import SimpleITK

    for array, path in (
        (image.astype(np.int16, copy=False), folder / "imagesTr" / f"{case}_0000.nii.gz"),
        (labels.astype(np.uint8, copy=False), folder / "labelsTr" / f"{case}.nii.gz"),
    ):
        path.parent.mkdir(parents=True, exist_ok=True)
        volume = SimpleITK.GetImageFromArray(array)
        volume.SetSpacing([float(length) for length in reversed(spacing)])
        SimpleITK.WriteImage(volume, str(path), True, 1)


def write_dataset_json(folder: Path, num_labels: int, num_cases: int) -> None:
    names = {"background": 0} | {f"organ_{label}": label for label in range(1, num_labels + 1)}
    content = {"channel_names": {"0": "CT"}, "labels": names, "numTraining": num_cases, "file_ending": ".nii.gz"}
    write_json(folder / "dataset.json", content)
