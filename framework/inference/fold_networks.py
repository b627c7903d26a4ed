"""The network of a trained fold, with its weights, ready to predict."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from framework.checkpoint import load_checkpoint
from framework.errors import CheckpointError, FoldwiseError
from framework.experiment import Experiment
from framework.extensions import find_trainer
from framework.inference.network_for_inference import prepared_for_inference
from framework.named_code import why_not_run
from framework.networks.nnunet_names import from_nnunet_state

_NUM_NAMED = 3
_PLAIN = "SegmentationTrainer"


def load_fold_network(
    experiment: Experiment, checkpoint: Path, device: torch.device
) -> tuple[nn.Module, tuple[int, ...]]:
    """The network of one fold in evaluation mode on `device`, and the spatial axes that its training mirrored.

    Raises:
        CheckpointError: the file is missing or damaged, its trainer cannot be found, or its weights are not
            those of the network that the trainer builds; names the first that differ.
    """
    state = load_checkpoint(checkpoint)
    location = _trainer_of(state)
    # Hooks act on a training; building them would run code that a stranger's plans name.
    settings = replace(experiment.settings, hooks=[])
    try:
        trainer = find_trainer(location, named_by=checkpoint)(settings, experiment=experiment, device="cpu")
    except FoldwiseError as error:
        raise CheckpointError(f"{checkpoint} was written by the trainer {location}: {error}") from error
    network = trainer.build_network()
    weights = from_nnunet_state(state["network_weights"])
    try:
        network.load_state_dict(weights)
    except RuntimeError as error:
        reason = _differences(network.state_dict(), weights) or str(error)
        raise CheckpointError(
            f"{checkpoint} does not fit the network that {location} builds from {experiment.plans.source}: {reason}. "
            "Were plans or checkpoint replaced after the training? Predict with the folder as the training wrote it."
        ) from None
    axes = tuple(state.get("inference_allowed_mirroring_axes") or ())
    del state, weights  # the optimizer's state is twice as large as the network
    return prepared_for_inference(network, device), axes


def _trainer_of(state: Mapping[str, Any]) -> str:
    """The trainer class that builds the network."""
    # A run of ours names its trainer class, whose network may differ from what the plans describe.
    location = state.get("foldwise", {}).get("trainer", _PLAIN)
    # Where the network is the plans' own, no code of a stranger's is needed.
    if state.get("trainer_name") == "nnUNetTrainer" and why_not_run(location) is not None:
        return _PLAIN
    return str(location)


def _differences(expected: Mapping[str, Tensor], found: Mapping[str, Tensor]) -> str:
    """The first weights that differ, in the order of the network; empty if names and shapes are the same."""
    differing = []
    for name in [*expected, *(name for name in found if name not in expected)]:
        here = list(expected[name].shape) if name in expected else "missing"
        there = list(found[name].shape) if name in found else "missing"
        if here != there:
            differing.append(f"{name} ({there} in the checkpoint, {here} in the network)")
    if not differing:
        return ""
    return f"{len(differing)} of {len(expected)} weights differ, first {', '.join(differing[:_NUM_NAMED])}"
