"""`SegmentationTrainer`: nnU-Net's recipe on the loop of `BaseTrainer`."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from framework.augmentation.recipe import Augmentation
from framework.base_trainer import BaseTrainer, Outputs
from framework.checkpoint import load_checkpoint
from framework.data.batch import SegmentationBatch
from framework.data.case_files import file_sizes
from framework.data.device_store import DeviceStore, why_not_on_device
from framework.data.labels import Labels
from framework.data.patch_batches import PatchBatches
from framework.data.raw_dataset import read_channel_names
from framework.data.splits import fold_cases, load_or_create_splits
from framework.data.store import CaseStore, list_cases
from framework.device import free_memory, memory_format_for
from framework.errors import CheckpointError, FoldwiseError, PlansError
from framework.experiment import Experiment
from framework.hook import Hook
from framework.losses.deep_supervision import deep_supervision_weights
from framework.losses.segmentation_loss import SegmentationLoss
from framework.metrics import confusion_counts
from framework.named_code import refuse_unnamed_code
from framework.networks.build import build_network
from framework.networks.nnunet_names import from_nnunet_state, to_nnunet_state
from framework.networks.unet import UNet
from framework.plans import Configuration, Plans
from framework.run_identity import digest
from trainers.cascade import checked_previous_stage
from trainers.dataset_preparation import prepare_segmentation_dataset
from trainers.fold_validation import FoldValidation, validate_fold
from trainers.nnunet_checkpoint import history_rows, nnunet_logging
from trainers.segmentation_metrics import SegmentationMetrics


class SegmentationTrainer(BaseTrainer):
    """Train a segmentation network on one fold of a preprocessed dataset.

    The plans drive everything: network, patches, batches, augmentation, optimizer, schedule. Built with
    `from_dataset`, or from an `Experiment`.

    Reference:
        Isensee et al. (2021), nnU-Net: a self-configuring method for deep learning-based biomedical image
        segmentation, Nature Methods 18.
    """

    monitor = "ema_fg_dice"
    monitor_mode = "max"
    save_probabilities = False
    """Write ``CASE.npz`` beside every validation prediction (``--npz``)."""

    # ---------------------------------------------------------------- parts

    def build_network(self) -> nn.Module:
        architecture = self.configuration.architecture
        if architecture is None:
            raise PlansError(
                f"{self.plans.source}: configuration '{self.configuration.name}' has no 'architecture'. "
                "Add one, or override build_network in a trainer."
            )
        return build_network(
            architecture, self.num_input_channels, self.num_output_channels, self.settings.deep_supervision
        )

    def build_loss(self) -> nn.Module:
        return SegmentationLoss(
            has_regions=self.labels.has_regions,
            batch_dice=self.configuration.batch_dice,
            ignore_label=self.labels.ignore_label,
        )

    def build_batches(self) -> tuple[Any, Any]:
        self.patch_store.prepare()
        training = self._patches(self.training_cases, "training", self.augmentation)
        validation = self._patches(self.validation_cases, "validation", None)
        return training, validation

    def _patches(self, cases: list[str], stream: str, augmentation: Augmentation | None) -> PatchBatches:
        return PatchBatches(
            store=self.patch_store,
            case_names=cases,
            labels=self.labels,
            patch_size=self.configuration.patch_size,
            batch_size=self.configuration.batch_size,
            oversample_foreground_percent=self.settings.oversample_foreground_percent,
            use_mask_for_norm=self.configuration.use_mask_for_norm,
            augmentation=augmentation,
            previous_stage_labels=self.previous_stage_labels,
            seed=self.settings.seed,
            stream=stream,
        )

    def compute_losses(self, batch: SegmentationBatch) -> dict[str, Tensor]:
        """Dice and cross-entropy; leaves the full-resolution output in ``batch.logits`` for further losses."""
        outputs = self.forward(batch.data.contiguous(memory_format=self._memory_format))
        batch.outputs = list(outputs) if isinstance(outputs, (list, tuple)) else [outputs]
        batch.logits = batch.outputs[0]
        assert self.loss is not None
        return self.loss(batch.outputs if len(batch.outputs) > 1 else batch.logits, batch.target)

    def validation_step(self, batch: SegmentationBatch) -> Outputs:
        """The losses, the voxel counts from which the Dice of the epoch is computed, and whose voxels they were."""
        outputs = super().validation_step(batch)
        assert batch.logits is not None
        counts = confusion_counts(
            batch.logits,
            batch.target,
            has_regions=self.labels.has_regions,
            ignore_label=self.labels.ignore_label,
        )
        return outputs | {"counts": counts.stacked(), "case_names": batch.case_names}

    def default_hooks(self) -> list[Hook]:
        hooks = [*super().default_hooks(), SegmentationMetrics()]
        if self.run_folder is not None and self.settings.final_validation:
            hooks.append(FoldValidation())
        return hooks

    def merge_outputs(self, name: str, values: Sequence[Any]) -> Any:
        return torch.stack(list(values)).sum(0) if name == "counts" else super().merge_outputs(name, values)

    def setup(self) -> None:
        super().setup()
        if isinstance(self.network, UNet):
            # The lowest resolution has no weight in the loss; its head need not be computed.
            decoder = self.network.decoder
            resolutions = len(decoder.stages)
            wanted = sum(weight > 0 for weight in deep_supervision_weights(resolutions))
            decoder.num_outputs = wanted
            for head in decoder.seg_layers[: -wanted if decoder.deep_supervision else -1]:
                head.requires_grad_(False)
            self.find_unused_parameters = False
            assert isinstance(self.loss, SegmentationLoss)
            self.loss.output_weights = deep_supervision_weights(resolutions)

    @cached_property
    def _memory_format(self) -> torch.memory_format:
        return memory_format_for(self.network) if self.execution.channels_last else torch.contiguous_format

    # ---------------------------------------------------------------- what the parts are made from

    @property
    def _experiment(self) -> Experiment:
        if self.experiment is None:
            raise FoldwiseError(
                f"{type(self).__name__} needs a dataset: build it with {type(self).__name__}.from_dataset(...)."
            )
        return self.experiment

    @cached_property
    def configuration(self) -> Configuration:
        return self._experiment.configuration

    @cached_property
    def labels(self) -> Labels:
        return Labels.from_dataset_json(self._experiment.dataset_json, self.dataset_folder / "dataset.json")

    @property
    def plans(self) -> Plans:
        return self._experiment.plans

    @property
    def dataset_folder(self) -> Path:
        """``PREPROCESSED/DATASET``."""
        return self._experiment.preprocessed_folder

    @property
    def dataset_reader(self) -> str:
        """Name of the image reader and writer."""
        return self.plans.image_reader_writer

    @property
    def file_ending(self) -> str:
        return self._experiment.dataset_json["file_ending"]

    @property
    def class_names(self) -> tuple[str, ...]:  # type: ignore[override]
        return self.labels.foreground_names

    @property
    def num_input_channels(self) -> int:
        return len(read_channel_names(self._experiment.dataset_json)) + len(self.previous_stage_labels)

    @property
    def previous_stage_labels(self) -> tuple[int, ...]:
        """In a cascade, the labels of the previous stage's segmentation that are input channels; else none."""
        return self.labels.foreground_labels if self.configuration.previous_stage else ()

    @property
    def num_output_channels(self) -> int:
        return self.labels.num_heads

    @cached_property
    def augmentation(self) -> Augmentation:
        refuse_unnamed_code(self.configuration, self.plans.source)
        return Augmentation.from_plans(
            self.configuration.augmentation,
            self.configuration.patch_size,
            f"{self.plans.source}: configurations.{self.configuration.name}.augmentation",
        )

    @property
    def mirror_axes(self) -> tuple[int, ...]:
        """Spatial axes that prediction mirrors: those that training mirrored."""
        return self.augmentation.mirror_axes

    @cached_property
    def _fold(self) -> tuple[list[str], list[str]]:
        cases = list_cases(self._experiment.data_folder)
        splits = load_or_create_splits(self.dataset_folder, cases)
        return fold_cases(splits, self._experiment.fold, cases)

    @property
    def training_cases(self) -> list[str]:
        return self._fold[0]

    @property
    def validation_cases(self) -> list[str]:
        return self._fold[1]

    @cached_property
    def store(self) -> CaseStore:
        """The fold's cases."""
        names = list(dict.fromkeys([*self.training_cases, *self.validation_cases]))
        mode = "auto" if self.settings.store == "device" else self.settings.store
        store = CaseStore(self._experiment.data_folder, names, mode, checked_previous_stage(self, names))
        store.check()
        return store

    @cached_property
    def patch_store(self) -> CaseStore | DeviceStore:
        """Where patches are cut from: `store`, or copies of its cases on the device."""
        store: CaseStore | DeviceStore = self.store
        if self.settings.store == "device":
            needs_cpu = self.augmentation.needs_cpu or bool(self.previous_stage_labels)
            refusal = why_not_on_device(self.store, self.device, free_memory(self.device), needs_cpu)
            if refusal is None:
                # Read packed: no second copy stays in memory.
                packed = CaseStore(self.store.folder, self.store.case_names, "packed", self.store.previous_stage)
                store = DeviceStore(packed, self.device)
            else:
                self.report(f"{refusal}; they are read as with 'auto'.")
        self.report(store.explain())
        return store

    # ---------------------------------------------------------------- from raw data to a validated fold

    @classmethod
    def prepare(
        cls,
        dataset: str | int,
        configuration: str,
        plans: str | None,
        device: torch.device,
        report: Callable[[str], None],
        progress: Callable[[str, int, int], None] | None = None,
    ) -> tuple[str, Path]:
        """Plan and preprocess what is missing."""
        return prepare_segmentation_dataset(dataset, configuration, plans, device, report, progress)

    def validate_fold(self) -> dict[str, Any]:
        """Predict the fold's validation cases whole, score them, and return the summary (nnU-Net's form)."""
        return validate_fold(self)

    # ---------------------------------------------------------------- checkpoints

    def state_dict(self) -> dict[str, Any]:
        """As the base's, complete enough for nnU-Net to predict with and to continue from."""
        state = super().state_dict()
        unchanged_network = type(self).build_network is SegmentationTrainer.build_network
        return state | {
            "network_weights": to_nnunet_state(state["network_weights"], self.network),
            # Where the network is what the plans describe, nnU-Net needs no code of ours to use it.
            "trainer_name": "nnUNetTrainer" if unchanged_network else state["trainer_name"],
            "init_args": self._experiment.to_record() | {"device": str(self.device)},
            "inference_allowed_mirroring_axes": self.mirror_axes or None,
            **nnunet_logging(self.history),
        }

    def load_state_dict(self, state: dict[str, Any], source: Path | str = "checkpoint") -> None:
        super().load_state_dict(state, source)
        if "foldwise" not in state and "logging" in state:
            self.history.load_state_dict({"rows": history_rows(state["logging"]), "running": None})

    def data_identity(self) -> dict[str, str]:
        return {
            "the training cases": digest(self.training_cases),
            "the validation cases": digest(self.validation_cases),
            "the preprocessed files": digest(self._file_sizes),
        }

    @cached_property
    def _file_sizes(self) -> list[tuple[str, int]]:
        return file_sizes(self._experiment.data_folder, sorted({*self.training_cases, *self.validation_cases}))

    def load_network_weights(self, weights: dict[str, Tensor]) -> None:
        self.network.load_state_dict(from_nnunet_state(weights))

    def load_pretrained_weights(self, path: Path | str) -> None:
        """Start from the weights of another training; the segmentation heads stay as they are.

        Raises:
            CheckpointError: a weight is missing or has another shape; lists the first ones.
        """
        self.setup()
        loaded = from_nnunet_state(load_checkpoint(path)["network_weights"])
        wanted = {name: tensor for name, tensor in self.network.state_dict().items() if ".seg_layers." not in name}
        wrong = [
            f"{name}: {list(tensor.shape)} here, {list(loaded[name].shape) if name in loaded else 'missing'} there"
            for name, tensor in wanted.items()
            if name not in loaded or loaded[name].shape != tensor.shape
        ]
        if wrong:
            raise CheckpointError(
                f"{path} does not fit the network of this plan: {len(wrong)} of {len(wanted)} weights differ, such as "
                f"{'; '.join(wrong[:3])}. Use plans with the same architecture as the pretrained model."
            )
        self.network.load_state_dict(self.network.state_dict() | {name: loaded[name] for name in wanted})
        self.report(f"{len(wanted)} pretrained weights loaded from {path}")
