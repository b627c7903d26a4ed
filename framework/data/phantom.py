"""Simulated scans with a known segmentation, for a first training, for tests and for benchmarks.

A slice through a trunk: fat, muscle, a spine, a large organ with lesions, a kidney, vessels, and structures
of the same brightness that only shape and surroundings tell apart. It is imaged with partial volume, a
smooth bias field and noise, on anisotropic voxels. Everything is a function of seed and index.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import numpy as np

from framework.data.phantom_anatomy import Grid, Structure, build_anatomy, label_names, smooth_noise
from framework.files import atomic_write, write_json
from framework.randomness import generator

DATASET_NAME = "Dataset000_Phantom"

Modality = Literal["mr", "ct"]

# Brightness of tissues in the first MR channel (roughly T1-weighted), in the second (T2), and in CT (HU).
_TISSUES: dict[str, tuple[float, float, float]] = {
    "air": (0.0, 0.0, -1000.0),
    "fat": (0.92, 0.75, -95.0),
    "muscle": (0.40, 0.25, 50.0),
    "bone": (0.12, 0.10, 480.0),
    "marrow": (0.70, 0.50, 210.0),
    "organ": (0.62, 0.40, 105.0),
    "kidney": (0.20, 0.66, 165.0),
    "vessel": (0.80, 0.15, 190.0),
    "lesion": (0.28, 0.82, 60.0),
}
_CHANNEL_NAMES = ("MR_T1", "MR_T2")
_MR_SCALE = 1000.0  # scanners store MR brightness as integers of about this size
_CT_RANGE = (-1024, 3071)


def phantom_case(
    index: int,
    *,
    shape: Sequence[int] = (28, 64, 64),
    spacing: Sequence[float] = (2.5, 1.0, 1.0),
    num_channels: int = 1,
    num_labels: int = 3,
    dimensions: int = 3,
    modality: Modality = "mr",
    noise: float = 0.035,
    variation: float = 0.08,
    seed: int = 0,
) -> tuple[np.ndarray, np.ndarray, tuple[float, float, float]]:
    """One simulated patient.

    Args:
        index: which patient; the same (seed, index) gives the same anatomy whatever the number of channels.
        shape: voxels along each axis in array order (the slice axis first); two numbers will do in 2D.
        spacing: in mm, same order.
        num_channels: different contrasts of the same anatomy.
        num_labels: structures in the segmentation; fewer leave the small ones unlabelled, more add small
        glands.
        dimensions: 3, or 2 for a single slice.
        modality: ``mr`` (brightness about 0 to 1000, Rician noise) or ``ct`` (Hounsfield units, Gaussian
        noise).
        noise: standard deviation relative to the brightest tissue.
        variation: shape and spacing differ by up to this share from patient to patient.
        seed: of the whole dataset.

    Returns:
        Image (C, X, Y, Z) float32, segmentation (X, Y, Z) int16, and the spacing in mm; in 2D X is 1.
    """
    _check_arguments(shape, spacing, num_channels, num_labels, dimensions, modality)
    rng = generator(seed, "phantom/anatomy", index)
    grid = _grid(rng, shape, spacing, dimensions, variation)
    structures = build_anatomy(rng, grid, num_labels)
    segmentation = np.zeros(grid.shape, np.int16)
    for structure in structures:
        if structure.label is not None:
            segmentation[structure.depth > 0] = structure.label
    image = np.stack(
        [_scan(structures, grid, seed, index, channel, modality, noise) for channel in range(num_channels)]
    )
    return image, segmentation, (grid.spacing[0], grid.spacing[1], grid.spacing[2])


def make_phantom_dataset(
    raw_root: Path | str,
    name: str = DATASET_NAME,
    num_cases: int = 40,
    *,
    num_test_cases: int = 0,
    shape: Sequence[int] = (28, 64, 64),
    spacing: Sequence[float] = (2.5, 1.0, 1.0),
    num_channels: int = 1,
    num_labels: int = 3,
    dimensions: int = 3,
    modality: Modality = "mr",
    noise: float = 0.035,
    variation: float = 0.08,
    seed: int = 0,
    file_ending: str = ".nii.gz",
) -> Path:
    """Write simulated patients as a raw dataset, ``dataset.json`` last; a complete one is left as it is.

    Arguments are those of `phantom_case`. Test cases go to ``imagesTs``, with their answers in ``labelsTs``.

    Returns:
        The folder of the dataset.
    """
    folder = Path(raw_root) / name
    if (folder / "dataset.json").is_file():
        return folder
    for index in range(num_cases + num_test_cases):
        image, segmentation, voxel = phantom_case(
            index,
            shape=shape,
            spacing=spacing,
            num_channels=num_channels,
            num_labels=num_labels,
            dimensions=dimensions,
            modality=modality,
            noise=noise,
            variation=variation,
            seed=seed,
        )
        part = "Tr" if index < num_cases else "Ts"
        case = f"phantom_{index:03d}"
        for channel, scan in enumerate(image):
            _write(
                scan,
                folder / f"images{part}" / f"{case}_{channel:04d}{file_ending}",
                voxel,
                dimensions,
                modality,
            )
        _write(
            segmentation.astype(np.uint8),
            folder / f"labels{part}" / f"{case}{file_ending}",
            voxel,
            dimensions,
        )
    write_json(
        folder / "dataset.json",
        {
            "channel_names": {str(channel): _channel_name(channel, modality) for channel in range(num_channels)},
            "labels": label_names(num_labels),
            "numTraining": num_cases,
            "file_ending": file_ending,
            "name": name.split("_", 1)[-1],
            "description": "Simulated scans with known segmentations, made by foldwise",
            "licence": "CC0",
        },
    )
    return folder


def _check_arguments(
    shape: Sequence[int],
    spacing: Sequence[float],
    num_channels: int,
    num_labels: int,
    dimensions: int,
    modality: str,
) -> None:
    if dimensions not in (2, 3) or len(shape) not in (dimensions, 3) or len(spacing) not in (dimensions, 3):
        raise ValueError(
            f"dimensions {dimensions} with shape {tuple(shape)} and spacing {tuple(spacing)} do not go together"
        )
    if min(shape[-2:]) < 16 or min(spacing) <= 0:
        raise ValueError(
            f"shape {tuple(shape)}: slices need 16 voxels a side, and spacing {tuple(spacing)} must be positive"
        )
    if num_channels < 1 or not 1 <= num_labels <= 255:
        raise ValueError(f"{num_channels} channels, {num_labels} labels: at least one of each, at most 255 labels")
    if modality not in ("mr", "ct"):
        raise ValueError(f"modality '{modality}': expected 'mr' or 'ct'")


def _grid(
    rng: np.random.Generator,
    shape: Sequence[int],
    spacing: Sequence[float],
    dimensions: int,
    variation: float,
) -> Grid:
    length = [round(n * (1 + variation * rng.uniform(-1, 1))) for n in (1, 1, *shape)[-3:]]
    voxel = [s * (1 + 0.5 * variation * rng.uniform(-1, 1)) for s in (1.0, 1.0, *spacing)[-3:]]
    voxel[2] = voxel[1]  # scanners make square pixels
    if spacing[-1] != spacing[-2]:
        voxel[2] = voxel[1] * spacing[-1] / spacing[-2]
    if dimensions == 2:
        length[0], voxel[0] = 1, 1.0
    return Grid(tuple(max(1, n) for n in length), tuple(round(s, 4) for s in voxel))


def _scan(
    structures: list[Structure],
    grid: Grid,
    seed: int,
    index: int,
    channel: int,
    modality: Modality,
    noise: float,
) -> np.ndarray:
    """What the scanner makes of the anatomy in one channel: (X, Y, Z) float32."""
    from scipy.ndimage import gaussian_filter

    rng = generator(seed, f"phantom/{modality}{channel}", index)
    brightness = _contrast(seed, channel, modality, {structure.tissue for structure in structures})
    span = max(brightness.values()) - brightness["muscle"] if modality == "mr" else 250.0
    # patients differ a little in every tissue
    own = {tissue: value + 0.03 * span * rng.standard_normal() for tissue, value in sorted(brightness.items())}
    own["air"] = brightness["air"]
    image = np.full(grid.shape, own["air"], np.float32)
    texture = 0.6 * smooth_noise(rng, grid, 3.0) + 0.4 * smooth_noise(rng, grid, 9.0)
    softness = np.float32(min(grid.spacing[1:]))
    for structure in structures:
        # A voxel on the surface holds a bit of both sides.
        share = np.clip(structure.depth / softness + 0.5, 0, 1)
        touched = share > 0
        value = own[structure.tissue] + 0.05 * span * texture[touched]
        image[touched] += share[touched] * (value - image[touched])
    # The point spread of the scanner: sharper in the slice than across slices.
    image = gaussian_filter(image, [0.45 if length > 1 else 0.0 for length in grid.shape])
    if modality == "ct":
        image += np.float32(noise * 400) * rng.standard_normal(grid.shape, dtype=np.float32)
        return np.clip(np.rint(image), *_CT_RANGE).astype(np.float32)
    image *= np.exp(0.17 * smooth_noise(rng, grid, 1.2 * max(grid.half_size)))
    # The magnitude of a complex signal with Gaussian noise in both parts is Rician.
    real = image + np.float32(noise) * rng.standard_normal(grid.shape, dtype=np.float32)
    imaginary = np.float32(noise) * rng.standard_normal(grid.shape, dtype=np.float32)
    gain = _MR_SCALE * rng.uniform(0.7, 1.4)  # MR brightness has no unit; every scan has its own scale
    return np.rint(np.hypot(real, imaginary) * gain).astype(np.float32)


def _contrast(seed: int, channel: int, modality: Modality, tissues: set[str]) -> dict[str, float]:
    """Brightness of every tissue in a channel: the same for all patients of a dataset."""
    rng = generator(seed, f"phantom/contrast/{modality}", channel)
    column = 2 if modality == "ct" else min(channel, 1)
    known = {tissue: values[column] for tissue, values in _TISSUES.items()}
    low, high = (40.0, 220.0) if modality == "ct" else (0.15, 0.95)
    if channel > (0 if modality == "ct" else 1):
        values = np.linspace(low, high, len(known) - 1)
        known |= dict(zip([tissue for tissue in known if tissue != "air"], rng.permutation(values).tolist()))
    for tissue in sorted(tissues - set(known)):
        known[tissue] = float(rng.uniform(low, high))
    return known


def _channel_name(channel: int, modality: Modality) -> str:
    if modality == "ct":
        return "CT"  # the name decides on the normalisation
    return _CHANNEL_NAMES[channel] if channel < len(_CHANNEL_NAMES) else f"MR_{channel}"


def _write(
    array: np.ndarray, path: Path, spacing: Sequence[float], dimensions: int, modality: Modality | None = None
) -> None:
    """Write (X, Y, Z); `modality` None is a segmentation. Photograph formats hold a byte for each pixel."""
    from framework.data import itk_files

    if path.suffix in (".png", ".bmp", ".tif"):
        if modality is not None:
            low, high = (-200, 300) if modality == "ct" else (0, 1.3 * _MR_SCALE)
            array = (np.clip((array - low) / (high - low), 0, 1) * 255).astype(np.uint8)
        with atomic_write(path) as temporary:
            itk_files.write(array[0], temporary, {})
        return
    if modality is not None:
        array = array.astype(np.int16)
    steps, lengths = list(reversed(spacing))[:dimensions], list(reversed(array.shape))[:dimensions]
    # The first two axes of the arrays run from right to left and from front to back, the directions in which the
    # header counts millimetres.
    signs = [1.0, 1.0, 1.0][:dimensions]
    geometry = {
        "spacing": steps,
        "origin": [-sign * step * (length - 1) / 2 for sign, step, length in zip(signs, steps, lengths)],
        "direction": np.diag(signs).ravel().tolist(),
    }
    with atomic_write(path) as temporary:
        itk_files.write(array[0] if dimensions == 2 else array, temporary, geometry)
