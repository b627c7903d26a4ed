"""Small logits made up from a seed, with scans and plans, that take every turn that export knows."""

from __future__ import annotations

import base64
import zlib
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from scipy import ndimage

from framework.data.labels import Labels
from framework.inference.export import label_map_from_logits, probabilities_from_logits
from framework.plans import Plans
from tests.interop.preprocessing_cases import PreprocessingCase

_SAMPLES = 60
_REGIONS = {"background": 0, "whole": [1, 2, 3], "rim": [1], "core": [3, 2], "ignore": 4}


@dataclass(frozen=True)
class ExportCase:
    """Logits on the grid of the network, and the scan that they are exported to.

    Attributes:
        network_shape: of the logits; in the order of the plans.
        scan: whose spacing (order of the scan), `target` and `forward` (of the plans), and labels count.
        margin: voxels that were cropped at the start and at the end of every axis, in the order of the plans.
        smooth: blurred blobs with a little noise, as networks give them; else noise alone.
    """

    network_shape: tuple[int, int, int]
    scan: PreprocessingCase
    margin: tuple[tuple[int, int], ...] = ((0, 0),) * 3
    smooth: bool = True
    seed: int = field(default=0)

    @property
    def labels(self) -> Labels:
        return Labels.from_dataset_json(self.scan.dataset_json)

    @property
    def properties(self) -> dict[str, Any]:
        """What preprocessing would have noted; `scan.shape` is that of the whole scan."""
        whole = [self.scan.shape[axis] for axis in self.scan.forward]
        box = [[before, length - after] for (before, after), length in zip(self.margin, whole)]
        return {
            "spacing": list(self.scan.spacing),
            "shape_before_cropping": whole,
            "bbox_used_for_cropping": box,
            "shape_after_cropping_and_before_resampling": [stop - start for start, stop in box],
        }

    def logits(self) -> np.ndarray:
        """(K, X, Y, Z) float32."""
        random = np.random.RandomState(self.seed)
        num_heads = self.labels.num_heads
        noise = random.standard_normal((num_heads, *self.network_shape)).astype(np.float32)
        if not self.smooth:
            return noise
        owner = np.argmax([ndimage.gaussian_filter(head, 2.5, mode="wrap") for head in noise], 0)
        if self.labels.has_regions:
            inside = [(owner == k) | (k == 0) for k in range(num_heads)]
        else:
            inside = [owner == k for k in range(num_heads)]
        blurred = (ndimage.gaussian_filter(mask.astype(np.float32), 0.8) for mask in inside)
        return np.stack([12 * share - 5 for share in blurred]) + np.float32(0.3) * noise


def _case(network_shape: tuple, shape: tuple, spacing: tuple, target: tuple, **options: Any) -> ExportCase:
    own = {key: options.pop(key) for key in ("margin", "smooth", "seed") if key in options}
    return ExportCase(network_shape, PreprocessingCase(shape, spacing, target, **options), **own)


CASES = {
    "finer": _case((11, 12, 9), (22, 24, 18), (1.0, 1.0, 1.0), (2.0, 2.0, 2.0), num_labels=6),
    "odd factors": _case((11, 12, 13), (15, 14, 30), (1.1, 1.3, 0.8), (1.5, 1.5, 1.8), num_labels=6),
    "noise": _case((9, 8, 10), (17, 19, 24), (1.0, 1.0, 1.0), (1.9, 2.3, 2.4), num_labels=9, smooth=False),
    "coarser": _case((24, 26, 22), (13, 9, 20), (1.9, 2.7, 1.1), (1.0, 1.0, 1.0), num_labels=6),
    "one axis coarser": _case((24, 13, 12), (11, 21, 25), (2.1, 1.0, 0.9), (1.0, 1.6, 1.9), num_labels=4),
    "cropped": _case(
        (10, 11, 9), (27, 30, 24), (1.0, 1.0, 1.0), (2.0, 2.0, 2.0), num_labels=4, margin=((2, 5), (8, 0), (1, 4))
    ),
    "transposed": _case(
        (8, 11, 9), (20, 24, 18), (0.9, 0.8, 1.2), (2.4, 1.7, 1.7), num_labels=4, forward=(2, 0, 1),
        margin=((2, 0), (0, 1), (3, 2)),
    ),
    "thick slices": _case((5, 14, 12), (9, 21, 20), (3.2, 0.7, 0.7), (6.0, 1.0, 1.0), num_labels=5),
    "thick slices made thicker": _case((9, 14, 12), (5, 21, 20), (6.0, 0.7, 0.7), (3.4, 1.0, 1.0), num_labels=5),
    "thick slices only in the scan": _case((12, 14, 12), (5, 21, 20), (4.8, 0.7, 0.7), (2.0, 1.0, 1.0), num_labels=5),
    "thick slices as many": _case((6, 14, 12), (6, 21, 20), (5.0, 0.7, 0.7), (5.0, 1.0, 1.0), num_labels=5),
    "thick slices in the middle": _case((14, 5, 12), (21, 9, 20), (0.7, 3.2, 0.7), (1.0, 6.0, 1.0), num_labels=5),
    "slices one by one by request": _case(
        (9, 14, 12), (14, 21, 20), (1.0, 0.7, 0.7), (1.6, 1.0, 1.0), num_labels=5, separate_z=True
    ),
    "slices of a volume": _case((7, 14, 12), (7, 21, 20), (3.0, 0.7, 0.7), (1.0, 1.1), num_labels=5),
    "photograph": _case((1, 26, 22), (1, 51, 40), (999.0, 1.0, 1.0), (2.0, 2.0), num_labels=3),
    "regions": _case(
        (10, 11, 12), (19, 23, 25), (1.0, 1.0, 1.0), (1.9, 2.1, 2.1), labels=_REGIONS, num_labels=4,
        margin=((1, 0), (0, 2), (1, 1)),
    ),
    "regions in noise": _case(
        (10, 11, 12), (19, 23, 25), (1.0, 1.0, 1.0), (1.9, 2.1, 2.1), labels=_REGIONS, num_labels=4, smooth=False
    ),
    "ignore label": _case(
        (9, 10, 8), (17, 15, 16), (1.0, 1.0, 1.0), (1.9, 1.5, 2.0), num_labels=3,
        labels={"background": 0, "part": 1, "other": 2, "ignore": 3},
    ),
    "many labels": _case((6, 5, 7), (11, 10, 14), (1.0, 1.0, 1.0), (1.9, 1.9, 2.0), num_labels=300),
    "single voxels": _case((1, 9, 1), (4, 16, 3), (1.0, 1.0, 1.0), (4.0, 1.8, 3.0), num_labels=4),
    "as it is": _case((9, 10, 8), (12, 11, 8), (1.0, 1.0, 1.0), (1.0, 1.0, 1.0), num_labels=4,
                      margin=((1, 2), (0, 1), (0, 0))),
}  # fmt: skip

LARGE_CASES = {
    "forty organs": _case((64, 96, 96), (128, 192, 192), (1.0, 1.0, 1.0), (2.0, 2.0, 2.0), num_labels=40),
    "forty organs in noise": _case(
        (48, 64, 64), (96, 128, 128), (1.0, 1.0, 1.0), (2.0, 2.0, 2.0), num_labels=40, smooth=False
    ),
    "large, thick slices": _case((30, 160, 150), (47, 250, 230), (3.2, 0.8, 0.8), (5.0, 1.25, 1.25), num_labels=12),
}
"""As large as real scans are, for full comparisons only."""


def exported(case: ExportCase) -> tuple[np.ndarray, np.ndarray]:
    """Label map and probabilities by Foldwise."""
    plans = Plans.from_dict(case.scan.plans)
    arguments = case.logits(), case.properties, plans, plans.configuration("some"), case.labels
    return label_map_from_logits(*arguments), probabilities_from_logits(*arguments)


def sampled(label_map: np.ndarray, probabilities: np.ndarray) -> dict[str, Any]:
    """The whole label map, compressed, and a few probabilities at places that follow from the shape alone."""
    places = np.random.RandomState(0).randint(0, probabilities.size, _SAMPLES)
    return {
        "type": str(label_map.dtype),
        "shape": list(probabilities.shape),
        "label_map": base64.b64encode(zlib.compress(label_map.astype("<u2").tobytes(), 9)).decode(),
        "probabilities": [float(f"{value:.6g}") for value in probabilities.ravel()[places]],
    }


def label_map_of(sample: dict[str, Any]) -> np.ndarray:
    """The label map of `sampled`, as it was."""
    flat = np.frombuffer(zlib.decompress(base64.b64decode(sample["label_map"])), "<u2")
    return flat.reshape(sample["shape"][1:]).astype(sample["type"])
