"""A ball in noise as a raw dataset, and plans for it with one configuration, ``some``, whose data are in ``data``."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from framework.plans import Plans
from tests.framework.raw_builder import write_raw_dataset


def plans_of(spacing: list[float], forward: tuple[int, ...] = (0, 1, 2), **more: Any) -> Plans:
    configuration = {
        "data_identifier": "data",
        "patch_size": [8] * len(spacing),
        "spacing": spacing,
        "normalization_schemes": ["ZScoreNormalization"],
        "use_mask_for_norm": [False],
        "median_image_size_in_voxels": [16] * len(spacing),
        **more,
    }
    return Plans.from_dict(
        {
            "plans_name": "test",
            "transpose_forward": list(forward),
            "transpose_backward": np.argsort(forward).tolist(),
            "configurations": {"some": configuration},
        }
    )


def ball(shape: tuple[int, ...] = (12, 14, 16)) -> tuple[np.ndarray, np.ndarray]:
    """Image (1, X, Y, Z) with a rim of zeros, and labels (1, X, Y, Z): two halves of a ball in noise."""
    random = np.random.RandomState(0)
    image = np.zeros((1, *shape), np.float32)
    inner = tuple(slice(1, length - 2) for length in shape)
    image[0][inner] = random.uniform(1, 2, image[0][inner].shape)
    distance = np.linalg.norm(np.indices(shape).T - np.array(shape) / 2, axis=-1).T
    labels = (distance < 4).astype(np.int16)
    labels[:, :, shape[2] // 2 :] *= 2
    image[0] += labels * (image[0] != 0)
    return image, labels[None]


def write_balls(folder: Path, num_cases: int = 3) -> Path:
    image, labels = ball()
    cases = {f"ball_{index}": (image + index * (image != 0), labels[0]) for index in range(num_cases)}
    return write_raw_dataset(folder, cases, {"background": 0, "a": 1, "b": 2})
