"""A checkpoint cut down to what prediction needs, and a stranger's checkpoint checked."""

from __future__ import annotations

import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import IO, Any

import torch
from torch import Tensor

from framework.checkpoint import load_checkpoint, plain_types
from framework.errors import CheckpointError

NNUNET_TRAINER = "nnUNetTrainer"


def required_class(state: Mapping[str, Any]) -> str | None:
    """Location of the trainer class without which the network cannot be built; None if the plans describe it.

    A training of ours says ``nnUNetTrainer`` where its network is the plans' own, whatever else it changed.
    """
    own = state.get("foldwise")
    if not isinstance(own, Mapping) or "trainer" not in own or state.get("trainer_name") == NNUNET_TRAINER:
        return None
    return str(own["trainer"])


def weights_only(state: Mapping[str, Any], configuration: str, fold: str) -> dict[str, Any]:
    """The keys that nnU-Net and Foldwise predict with; no optimizer, history, paths or plans.

    Tensors that a checkpoint holds under several names stay one tensor; each is copied out of larger storage.
    """
    copies: dict[Any, Tensor] = {}
    weights = {}
    for name, tensor in state["network_weights"].items():
        key = (tensor.data_ptr(), tensor.dtype, tuple(tensor.shape), tensor.stride()) if tensor.numel() else name
        if key not in copies:
            copies[key] = tensor.detach().cpu().contiguous().clone()
        weights[name] = copies[key]
    axes = state.get("inference_allowed_mirroring_axes")
    cut: dict[str, Any] = {
        "network_weights": weights,
        "trainer_name": str(state.get("trainer_name", NNUNET_TRAINER)),
        "init_args": {"configuration": configuration, "fold": int(fold) if fold.isdigit() else fold},
        "inference_allowed_mirroring_axes": tuple(int(axis) for axis in axes) if axes else None,
    }
    needed = required_class(state)
    if needed is not None:
        cut["foldwise"] = {"trainer": needed}
    return cut


def write_weights(state: Mapping[str, Any], file: IO[bytes]) -> None:
    """Save to an open file: the same state gives the same bytes, which a path, stored inside, would prevent."""
    torch.save(plain_types(dict(state)), file)


def read_strangers_checkpoint(path: Path, name: str) -> dict[str, Any]:
    """Load a checkpoint that may have been made to do harm.

    Args:
        path: the unpacked file.
        name: what to call it in messages.

    Raises:
        CheckpointError: damaged, holds objects other than tensors and plain types, or would take far more memory than
            its file.
    """
    size = path.stat().st_size
    try:
        with zipfile.ZipFile(path) as archive:
            unpacked = sum(info.file_size for info in archive.infolist())
    except (zipfile.BadZipFile, OSError, NotImplementedError, ValueError) as error:
        raise CheckpointError(f"{name} is no checkpoint of torch 1.6 or later, or it is damaged ({error}).") from None
    if unpacked > size:
        raise CheckpointError(f"{name} is packed; {size} bytes unpack to {unpacked}. torch saves checkpoints unpacked.")
    try:
        state = load_checkpoint(path)
    except CheckpointError as error:
        raise CheckpointError(str(error).replace(str(path), name)) from None
    weights = state["network_weights"]
    if not isinstance(weights, Mapping) or not weights:
        raise CheckpointError(f"{name} holds no weights.")
    for key, tensor in weights.items():
        if not isinstance(key, str) or not isinstance(tensor, Tensor) or tensor.layout != torch.strided:
            raise CheckpointError(f"{name}: '{key}' among the weights is no tensor.")
        # A tensor may repeat a few bytes as often as it likes; copying it would fill the memory.
        if tensor.numel() * tensor.element_size() > tensor.untyped_storage().nbytes():
            raise CheckpointError(f"{name}: the weight '{key}' {list(tensor.shape)} is larger than what is stored.")
    return state


def problems_of(state: Mapping[str, Any], configuration: str) -> list[str]:
    """What keeps a loaded checkpoint from being used for prediction with this configuration, one line each."""
    problems = []
    bad = [key for key, tensor in state["network_weights"].items() if not _finite(tensor)]
    if bad:
        problems.append(f"{len(bad)} weights are not finite, such as '{bad[0]}'")
    if not str(state.get("trainer_name", "")).isidentifier():
        problems.append(f"trainer_name is {state.get('trainer_name')!r}, no name of a class")
    arguments = state.get("init_args")
    made_for = arguments.get("configuration") if isinstance(arguments, Mapping) else None
    if made_for != configuration:
        problems.append(f"it was trained with configuration {made_for!r}, but lies in the folder of '{configuration}'")
    axes = state.get("inference_allowed_mirroring_axes")
    if axes is not None and not (isinstance(axes, (list, tuple)) and all(axis in (0, 1, 2) for axis in axes)):
        problems.append(f"inference_allowed_mirroring_axes is {axes!r}, expected axes 0 to 2, or None")
    return problems


def _finite(tensor: Tensor) -> bool:
    return not tensor.is_floating_point() or bool(torch.isfinite(tensor).all())
