"""`Predictor`: label images from trained folds."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, overload

import numpy as np

from framework.errors import DatasetError, FoldwiseError
from framework.inference.file_prediction import Source, predict_to_files
from framework.inference.model_folder import TrainedModel
from framework.inference.network_input import network_input
from framework.inference.prediction_options import Observer, PredictionOptions

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn

# torch is imported where it is first needed: a command reads its first scan meanwhile.


class Predictor:
    """Segment scans with one or several folds of a training, of Foldwise's or of nnU-Net's.

    Args:
        folder: the model folder ``.../TRAINER__PLANS__CONFIG``, or one of its folds.
        folds: which to use; their logits are averaged. None for all that hold the checkpoint.
        checkpoint: ``final``, ``best``, ``latest``, or a file name.
        device: ``auto``, ``cpu``, ``cuda``, ``mps``.
        mirror: average over mirrored views, if the training mirrored.
        step: distance of tiles as a part of the patch.
        results_device: where the logits are summed; None for the device, or the CPU when its memory does not
            suffice.
        load: False for loading the networks when they are first used.

    Attributes:
        model: what was trained: plans, labels, channels.
        networks: one for each fold, on the device.

    Raises:
        CheckpointError, FoldwiseError: a folder, fold or checkpoint is missing, or does not fit the plans.
    """

    def __init__(
        self,
        folder: Path | str,
        folds: Sequence[int | str] | None = None,
        *,
        checkpoint: str = "final",
        device: str | torch.device = "auto",
        mirror: bool = True,
        step: float = 0.5,
        results_device: str | None = None,
        load: bool = True,
    ) -> None:
        if not 0 < step <= 1:
            raise FoldwiseError(f"found step {step}, expected a part of the patch: above 0, at most 1.")
        self.model = TrainedModel.open(folder, folds, checkpoint)
        self.device_name, self.mirror, self.step, self.results_device = device, mirror, step, results_device
        self.networks: list[nn.Module] = []
        self.mirror_axes: tuple[int, ...] = ()
        if load:
            self.load()

    @property
    def identity(self) -> dict[str, Any]:
        """What decides the result, apart from the scan; plain values."""
        folder = self.model.folder
        return {
            "name": f"{folder.parent.name}/{folder.name}",
            "folds": self.model.fold_names,
            "checkpoint": self.model.checkpoints[0].name,
            "mirroring": self.mirror,
            "step_size": self.step,
        }

    def load(self) -> None:
        """Load the networks, if that has not been done."""
        if self.networks:
            return
        from framework.allocator import keep_freed_memory
        from framework.device import choose_device
        from framework.inference.fold_networks import load_fold_network

        device = choose_device(self.device_name)
        if device.type == "cpu":
            keep_freed_memory()
        loaded = [load_fold_network(self.model.experiment, file, device) for file in self.model.checkpoints]
        self.networks = [network for network, _ in loaded]
        self.mirror_axes = loaded[0][1] if self.mirror else ()
        self.device = device

    @overload
    def predict(
        self,
        image: np.ndarray,
        spacing: Sequence[float] = ...,
        *,
        previous_stage: np.ndarray | None = ...,
        return_probabilities: Literal[False] = ...,
    ) -> np.ndarray: ...

    @overload
    def predict(
        self,
        image: np.ndarray,
        spacing: Sequence[float] = ...,
        *,
        previous_stage: np.ndarray | None = ...,
        return_probabilities: Literal[True],
    ) -> tuple[np.ndarray, np.ndarray]: ...

    def predict(
        self,
        image: np.ndarray,
        spacing: Sequence[float] = (1.0, 1.0, 1.0),
        *,
        previous_stage: np.ndarray | None = None,
        return_probabilities: bool = False,
    ) -> np.ndarray | tuple[np.ndarray, np.ndarray]:
        """Segment one scan that is in memory.

        Args:
            image: (X, Y, Z), or (C, X, Y, Z) with all channels of the training, in array order.
            spacing: in mm, in the same order.
            previous_stage: (X, Y, Z) labels that the previous stage of a cascade gave to this scan; without them
                the previous stage is predicted first, with the model beside this one.
            return_probabilities: also return the probability of every head.

        Returns:
            (X, Y, Z) integer labels; and (K, X, Y, Z) float32, if asked for.
        """
        channels = self._checked_image(image)
        if len(spacing) != 3 or not all(length > 0 for length in spacing):
            raise DatasetError(f"found spacing {tuple(spacing)}, expected three positive numbers in mm.")
        if self.model.previous_stage is not None and previous_stage is None:
            previous_stage = self.of_previous_stage().predict(image, spacing)
        previous = None if previous_stage is None else _checked_previous_stage(previous_stage, channels.shape[1:])
        self.load()
        from framework.inference.export import label_map_from_logits, probabilities_from_logits

        model = self.model
        data, properties = network_input(
            channels,
            previous,
            {"spacing": [float(length) for length in spacing]},
            model.plans,
            model.configuration,
            model.labels,
        )
        arguments = (self.logits(data), properties, model.plans, model.configuration, model.labels)
        if not return_probabilities:
            return label_map_from_logits(*arguments)
        probabilities = probabilities_from_logits(*arguments)
        dtype = np.uint8 if max(model.labels.all_labels) < 255 else np.uint16
        return np.asarray(model.labels.segmentation_from_probabilities(probabilities)).astype(dtype), probabilities

    def predict_files(
        self,
        source: Source,
        target: Path | str,
        *,
        save_probabilities: bool = False,
        overwrite: bool = True,
        draw_picture: Callable[..., None] | None = None,
        previous_stage: Path | str | None = None,
        num_readers: int | None = None,
        num_writers: int | None = None,
        report: Callable[[str], None] = print,
    ) -> list[Path]:
        """Segment every case of a folder (``CASE_0000.nii.gz``, ``CASE_0001.nii.gz``, ...).

        Reading, the network, and writing overlap. A case that cannot be predicted does not stop the others.

        Args:
            source: folder of images, named as in a raw dataset, or of DICOM series, one folder each; one image; or
                a list of them.
            target: folder where ``CASE.nii.gz`` goes; or a file name, if there is one case.
            save_probabilities: also write ``CASE.npz`` and ``CASE.pkl``.
            overwrite: predict cases again whose output is there, whole, and fits the scan.
            draw_picture: writes ``pictures/CASE.png``: `framework.evaluation.picture.draw_case`, for example.
            previous_stage: for a cascade, folder with the label images of the previous stage; without it they are
                predicted first, with the model beside this one.
            num_readers, num_writers: threads; see `PredictionOptions`.

        Returns:
            The label images, in the order of case names.

        Raises:
            FailedCases: when all others were predicted, if some could not be; names them, with the reasons.
        """
        options = PredictionOptions(
            save_probabilities, draw_picture, overwrite, previous_stage, num_readers, num_writers
        )
        outcome = predict_to_files(self, source, target, options, Observer(report=report, verbose=True))
        outcome.raise_failures()
        return list(outcome.files.values())

    def logits(self, data: np.ndarray, progress: Callable[[int, int], None] | None = None) -> Tensor:
        """The mean logits of all folds.

        Args:
            data: (C, X, Y, Z) float32, preprocessed.
            progress: told the number of finished tiles and of all tiles.

        Returns:
            (K, X, Y, Z) float32 on the preprocessed grid.
        """
        import torch

        from framework.inference.sliding_window import sliding_window_logits

        return sliding_window_logits(
            self.networks,
            torch.from_numpy(np.ascontiguousarray(data)),
            self.model.configuration.patch_size,
            mirror_axes=self.mirror_axes,
            step=self.step,
            results_device=self.results_device,
            autocast_dtype=torch.float16 if self.device.type == "cuda" else None,
            progress=progress,
        )

    def of_previous_stage(self) -> Predictor:
        """For the second stage of a cascade: the same folds of the stage before, used in the same way."""
        model = self.model.of_previous_stage()
        return Predictor(
            model.folder,
            model.fold_names,
            checkpoint=model.checkpoints[0].name,
            device=self.device_name,
            mirror=self.mirror,
            step=self.step,
            results_device=self.results_device,
            load=False,
        )

    def _checked_image(self, image: np.ndarray) -> np.ndarray:
        image = np.asarray(image, dtype=np.float32)
        image = image[None] if image.ndim == 3 else image
        names = self.model.channel_names
        if image.ndim != 4 or len(image) != len(names):
            raise DatasetError(
                f"found an image of shape {image.shape}, expected ({len(names)}, X, Y, Z): "
                f"this network was trained with the channels {', '.join(names)}."
            )
        if not np.isfinite(image).all():
            num_bad = int(image.size - np.isfinite(image).sum())
            raise DatasetError(f"the image has {num_bad} NaN or infinite voxels. Replace them, for example by 0.")
        return image


def _checked_previous_stage(labels: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    labels = np.asarray(labels)
    labels = labels[None] if labels.ndim == 3 else labels
    if labels.shape != (1, *shape) or not np.issubdtype(labels.dtype, np.integer):
        raise DatasetError(
            f"found a previous stage of shape {labels.shape} and type {labels.dtype}, expected integer labels of the "
            f"shape of the scan, {shape}."
        )
    return labels
