"""Save and load checkpoints: atomic, verified, and safe to load from a stranger.

A checkpoint holds only tensors and plain types and loads with ``torch.load(weights_only=True)``. Files that
nnU-Net wrote hold numpy scalars and a few harmless torch types as well; these are allowed by name.
"""

from __future__ import annotations

import os
import shutil
import zipfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import torch

from framework.checkpoint_content import check_content, numpy_globals, refuse_packed
from framework.errors import CheckpointError
from framework.files import atomic_write


def save_checkpoint(path: Path | str, state: dict[str, Any]) -> None:
    """Write `state` atomically, after every value in it was turned into a tensor or a plain type.

    The file is read back before it takes the place of an earlier one.
    """
    plain = plain_types(state)
    with atomic_write(path) as temporary:
        _save(plain, temporary)
        damage = _damage(temporary)
        if damage:
            raise OSError(f"what was read back is not what was written: {damage}")


def copy_checkpoint(source: Path | str, target: Path | str) -> None:
    """Give a checkpoint a second name, atomically; without a second copy where the file system can."""
    with atomic_write(target) as temporary:
        try:
            os.link(source, temporary)
        except OSError:
            shutil.copyfile(source, temporary)


def load_checkpoint(path: Path | str, device: torch.device | str = "cpu") -> dict[str, Any]:
    """Read a checkpoint of ours or of nnU-Net's without executing anything that is in it.

    Raises:
        CheckpointError: missing, damaged, it holds objects of other types or of the wrong form, or it would take far
            more memory than its file; says which.
    """
    path = Path(path)
    if not path.is_file():
        raise CheckpointError(f"{path} does not exist.")
    try:
        refuse_packed(path)
        damage = _damage(path)
        if damage:
            raise ValueError(damage)
        with torch.serialization.safe_globals(numpy_globals()):
            state = torch.load(path, map_location=device, weights_only=True)
    except Exception as error:
        text = str(error).strip()
        reason = text.splitlines()[0][:500] if text else type(error).__name__
        raise CheckpointError(
            f"{path} cannot be read: {reason} The file is damaged or holds objects that are not safe to load. "
            "Use another checkpoint of the same run (checkpoint_best.pth, checkpoint_latest.pth)."
        ) from error
    check_content(state, path, path.stat().st_size)
    return state


def newest_checkpoint(paths: Iterable[Path], warn: Any = print) -> tuple[Path, dict[str, Any]] | None:
    """The readable checkpoint that is furthest in training, or None. Damaged files are reported and passed over."""
    best: tuple[tuple[int, int, int], Path, dict[str, Any]] | None = None
    for order, path in enumerate(paths):
        if not path.is_file():
            continue
        try:
            state = load_checkpoint(path)
        except CheckpointError as error:
            warn(f"warning: passing over {path.name}: {error}")
            continue
        progress = state.get("foldwise", {}).get("progress", {})
        inside = progress.get("steps_completed", 0) + progress.get("validation_steps_completed", 0)
        reached = (int(state.get("current_epoch", 0)), int(inside), -order)
        if best is None or reached > best[0]:
            best = (reached, path, state)
    return None if best is None else (best[1], best[2])


def plain_types(value: Any, where: str = "state") -> Any:
    """`value` with numpy numbers and arrays, paths and devices as tensors and plain types.

    Raises:
        TypeError: something else is in it; names the place.
    """
    if value is None or isinstance(value, (bool, int, float, str, bytes)):
        # A bool of numpy is no bool, but its float64 is a float; both become Python's own below.
        return float(value) if type(value) is np.float64 else value
    if isinstance(value, torch.Tensor):
        return value.detach()
    if isinstance(value, np.ndarray):
        return torch.from_numpy(np.ascontiguousarray(value))
    if isinstance(value, np.generic):
        return value.item()
    if isinstance(value, (Path, torch.device, torch.dtype)):
        return str(value)
    if isinstance(value, dict):
        converted = {key: plain_types(entry, f"{where}.{key}") for key, entry in value.items()}
        if not all(isinstance(key, (str, int, float, bool, tuple)) for key in converted):
            raise TypeError(f"{where} has keys that cannot be saved in a checkpoint: {list(converted)[:3]}")
        return converted
    if isinstance(value, (list, set, frozenset)):
        return [plain_types(entry, f"{where}[{index}]") for index, entry in enumerate(value)]
    if isinstance(value, tuple):
        return tuple(plain_types(entry, f"{where}[{index}]") for index, entry in enumerate(value))
    raise TypeError(
        f"{where} is a {type(value).__name__} and cannot be saved in a checkpoint: only tensors, numbers, text, "
        "lists and dicts can. Return plain types from state_dict."
    )


def _save(plain: Any, path: Path) -> None:
    """torch.save, with the error of the disk as what it is.

    torch itself ends a failed write with a RuntimeError on positions in its archive.
    """
    with open(path, "wb") as file:
        try:
            torch.save(plain, file)
        except RuntimeError as error:
            if isinstance(error.__context__, OSError):
                raise error.__context__ from None
            raise


def _damage(path: Path) -> str:
    """What the checksums in the file object to; empty if nothing.

    torch.save writes a zip archive with a CRC-32 of every entry, which torch.load does not look at.
    """
    with zipfile.ZipFile(path) as archive:
        entry = archive.testzip()
    return "" if entry is None else f"the checksum of its entry {entry} is wrong."
