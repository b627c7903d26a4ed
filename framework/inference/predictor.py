"""`Predictor`: label images from trained folds."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from framework.allocator import keep_freed_memory
from framework.checkpoint import load_checkpoint
from framework.data.labels import Labels
from framework.data.prediction_input import cases_to_predict, read_case_to_predict
from framework.data.raw_dataset import RawCase, read_channel_names
from framework.device import choose_device, memory_format_for
from framework.errors import CheckpointError, DatasetError, FoldwiseError
from framework.experiment import Experiment
from framework.extensions import find_trainer
from framework.files import write_json
from framework.inference.export import export_prediction, label_map_from_logits
from framework.inference.sliding_window import sliding_window_logits
from framework.networks.nnunet_names import from_nnunet_state
from framework.preprocessing.preprocess import preprocess_array


class Predictor:
    """Segment scans with one or several folds of a training, of Foldwise's or of nnU-Net's.

    Args:
        folder: the model folder ``.../TRAINER__PLANS__CONFIG``, or one of its folds.
        folds: which to use; their logits are averaged. None for all that hold the checkpoint.
        checkpoint: ``final``, ``best`` or ``latest``.
        device: ``auto``, ``cpu``, ``cuda``, ``mps``.
        mirror: average over mirrored views, if the training mirrored.
        step: distance of tiles as a part of the patch.
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
    ) -> None:
        self.device = choose_device(device)
        self.step = step
        files = _checkpoint_files(Path(folder), folds, checkpoint)
        experiment = Experiment.of_run_folder(files[0].parent)
        self.plans = experiment.plans
        self.configuration = experiment.configuration
        if self.configuration.previous_stage is not None:
            raise FoldwiseError(
                f"{folder}: '{self.configuration.name}' is the second stage of a cascade and needs the segmentation of "
                f"'{self.configuration.previous_stage}' beside each scan, which prediction does not make yet. Predict "
                "with another configuration; the fold's own validation cases are predicted by fw_train."
            )
        self.dataset_json = experiment.dataset_json
        self.labels = Labels.from_dataset_json(self.dataset_json, files[0].parent.parent / "dataset.json")
        self.channel_names = read_channel_names(self.dataset_json)
        states = [load_checkpoint(file) for file in files]
        axes = states[0].get("inference_allowed_mirroring_axes")
        self.mirror_axes: tuple[int, ...] = tuple(axes) if mirror and axes else ()
        if self.device.type == "cpu":
            keep_freed_memory()
        self.networks = [self._network(experiment, state, file) for state, file in zip(states, files)]

    def predict(self, image: np.ndarray, spacing: Sequence[float] = (1.0, 1.0, 1.0)) -> np.ndarray:
        """Segment one scan that is in memory.

        Args:
            image: (X, Y, Z), or (C, X, Y, Z) with all channels of the training, in array order.
            spacing: in mm, in the same order.

        Returns:
            (X, Y, Z) integer labels.
        """
        image = np.asarray(image, dtype=np.float32)
        image = image[None] if image.ndim == 3 else image
        if image.ndim != 4 or len(image) != len(self.channel_names):
            raise DatasetError(
                f"found an image of shape {image.shape}, expected ({len(self.channel_names)}, X, Y, Z): "
                f"this network was trained with the channels {', '.join(self.channel_names)}."
            )
        if len(spacing) != 3 or not all(length > 0 for length in spacing):
            raise DatasetError(f"found spacing {tuple(spacing)}, expected three positive numbers in mm.")
        logits, properties = self._logits(image, {"spacing": [float(length) for length in spacing]})
        return label_map_from_logits(logits, properties, self.plans, self.configuration, self.labels)

    def predict_files(
        self,
        source: Path | str,
        target: Path | str,
        *,
        save_probabilities: bool = False,
        overwrite: bool = True,
        report: Callable[[str], None] = print,
    ) -> list[Path]:
        """Segment every case of a folder (``CASE_0000.nii.gz``, ``CASE_0001.nii.gz``, ...).

        Args:
            source: folder of images, named as in a raw dataset, or of DICOM series, one folder each.
            target: where ``CASE.nii.gz`` goes.
            overwrite: predict cases again whose label image is there.

        Returns:
            The label images, in the order of case names.
        """
        target = Path(target)
        cases = self._cases_in(Path(source))
        ending = self.dataset_json["file_ending"]
        write_json(target / "dataset.json", self.dataset_json)
        write_json(target / "plans.json", self.plans.to_dict())
        written = []
        for number, (case, files) in enumerate(cases.items(), start=1):
            file = target / f"{case}{ending}"
            written.append(file)
            if file.is_file() and not overwrite:
                continue
            reader = self.plans.image_reader_writer
            image, properties = read_case_to_predict(files, self.labels, len(self.channel_names), reader, report)
            logits, properties = self._logits(image, properties)
            export_prediction(
                logits,
                properties,
                self.plans,
                self.configuration,
                self.labels,
                target / case,
                file_ending=ending,
                save_probabilities=save_probabilities,
            )
            report(f"{number}/{len(cases)}  {file}")
        return written

    def _logits(
        self, image: np.ndarray | list[np.ndarray], properties: dict[str, Any]
    ) -> tuple[Tensor, dict[str, Any]]:
        """(K, X, Y, Z) on the preprocessed grid: the mean over folds."""
        data, _, properties = preprocess_array(image, None, properties, self.plans, self.configuration, self.labels)
        tensor = torch.from_numpy(np.ascontiguousarray(data))
        total: Tensor | None = None
        for network in self.networks:
            logits = sliding_window_logits(
                network,
                tensor,
                self.configuration.patch_size,
                mirror_axes=self.mirror_axes,
                step=self.step,
                autocast_dtype=torch.float16 if self.device.type == "cuda" else None,
            )
            total = logits if total is None else total + logits
        assert total is not None
        return total / len(self.networks), properties

    def _network(self, experiment: Experiment, state: dict[str, Any], file: Path) -> nn.Module:
        # A run of ours names its trainer class, whose network may differ from what the plans describe.
        location = state.get("foldwise", {}).get("trainer", "SegmentationTrainer")
        trainer = find_trainer(location)(experiment.settings, experiment=experiment, device="cpu")
        network = trainer.build_network()
        try:
            network.load_state_dict(from_nnunet_state(state["network_weights"]))
        except RuntimeError as error:
            raise CheckpointError(f"{file} does not fit the network that {location} builds: {error}") from None
        network = network.to(self.device).eval()
        if self.device.type == "cpu":
            network = network.to(memory_format=memory_format_for(network))
        return network

    def _cases_in(self, folder: Path) -> dict[str, RawCase]:
        ending = self.dataset_json["file_ending"]
        if not folder.is_dir():
            raise DatasetError(f"{folder} is not a folder. Give the folder that holds the images to segment.")
        return cases_to_predict(folder, ending, len(self.channel_names))


def _checkpoint_files(folder: Path, folds: Sequence[int | str] | None, checkpoint: str) -> list[Path]:
    name = f"checkpoint_{checkpoint}.pth"
    if not folder.is_dir():
        raise FoldwiseError(f"{folder} is not a folder. Give .../TRAINER__PLANS__CONFIG, as training writes it.")
    if folder.name.startswith("fold_"):
        folder, folds = folder.parent, [folder.name.removeprefix("fold_")]
    if folds is None:
        found = sorted(folder.glob(f"fold_*/{name}"))
        # An earlier run that was moved aside is no fold.
        files = [file for file in found if re.fullmatch(r"fold_(\d+|all)", file.parent.name)]
        if not files:
            raise CheckpointError(f"{folder} holds no fold with {name}. Train one, or name another checkpoint.")
        return files
    files = [folder / f"fold_{fold}" / name for fold in folds]
    missing = [str(file) for file in files if not file.is_file()]
    if missing:
        raise CheckpointError(f"not found: {', '.join(missing)}. Train these folds, or leave them out.")
    return files
