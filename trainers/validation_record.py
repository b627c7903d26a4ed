"""Which cases of a fold were predicted, and with what: a validation goes on where it was, and mixes nothing."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from threading import Lock
from typing import Any

import torch
from torch import nn

from framework.errors import FoldwiseError
from framework.files import read_json, write_json

RECORD_NAME = ".predicted.json"
SCORES = ("summary.json", "metrics.csv")


class ValidationRecord:
    """``validation/.predicted.json``: the predictions of one state of the network.

    Each of several processes notes its own in a file of its own; rank 0 reads those of all.

    Args:
        folder: of the predictions.
        made_with: names the weights and everything else that decides on the predictions.
        rank: of the process.
    """

    def __init__(self, folder: Path, made_with: str, rank: int = 0) -> None:
        self.path = folder / (f".predicted.{rank}.json" if rank else RECORD_NAME)
        self.made_with = made_with
        self._lock = Lock()
        self._files: dict[str, dict[str, int]] = {}
        self.is_complete = False
        """Whether all cases were predicted and scored; a further validation then starts from the beginning."""
        self.is_own = False
        """Whether the folder holds predictions of the same making."""
        found = _read(self.path)
        if found is not None and found["made_with"] == made_with:
            self.is_own = True
            self._files, self.is_complete = found["files"], found["is_complete"]

    def has(self, case: str, files: Iterable[Path]) -> bool:
        """Whether all of these files of a case were written, and are as they were."""
        noted = self._files.get(case, {})
        return all(noted.get(path.name) == _size(path) is not None for path in files)

    def add(self, case: str, files: Iterable[Path]) -> None:
        """Note that a case is predicted; may be called by several threads."""
        sizes = {path.name: _size(path) for path in files}
        with self._lock:
            self._files[case] = {name: size for name, size in sizes.items() if size is not None}
            self._write()

    def begin(self) -> None:
        """Start anew if an earlier validation was completed."""
        self.absorb_others()
        if self.is_complete:
            self._files, self.is_complete = {}, False
        self._write()

    def absorb_others(self) -> None:
        """Take over what other processes have noted, and remove their files."""
        others = sorted(self.path.parent.glob(".predicted.*.json"))
        for path in others:
            found = _read(path)
            if found is not None and found["made_with"] == self.made_with:
                self._files |= found["files"]
        if others:
            self._write()
        for path in others:
            path.unlink(missing_ok=True)

    def complete(self) -> None:
        self.is_complete = True
        self._write()

    def _write(self) -> None:
        content = {"made_with": self.made_with, "is_complete": self.is_complete, "files": self._files}
        write_json(self.path, content, indent=1)


def set_strangers_aside(
    record: ValidationRecord, cases: Sequence[str], file_ending: str
) -> tuple[Path | None, list[str]]:
    """Move predictions that do not belong to this validation into ``validation_before_N`` beside it.

    nnU-Net scores whatever lies in the folder: cases of another split, or of an earlier run. If the folder was not
    filled with the same weights all of it is moved, else only the files of cases that are not in the fold.

    Returns:
        The new folder and the names of what was moved there; None and nothing if all is well.
    """
    folder = record.path.parent
    if not folder.is_dir():
        return None, []
    predictions = [path for path in sorted(folder.iterdir()) if _is_prediction(path, file_ending)]
    if not record.is_own:
        moved = [path.name for path in predictions] + [name for name in SCORES if (folder / name).is_file()]
        if not moved:
            return None, []
        kept = _free_name(folder)
        os.replace(folder, kept)
        return kept, moved
    strangers = [path for path in predictions if _case_of(path, file_ending) not in set(cases)]
    if not strangers:
        return None, []
    kept = _free_name(folder)
    kept.mkdir()
    for path in strangers:
        os.replace(path, kept / path.name)
    return kept, [path.name for path in strangers]


def weights_digest(network: nn.Module) -> str:
    """The same for equal weights, on whatever device they are."""
    hashed = hashlib.blake2b(digest_size=12)
    for name, tensor in network.state_dict().items():
        hashed.update(name.encode())
        # Any type, bfloat16 included, which numpy does not know.
        hashed.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data)
    return hashed.hexdigest()


def _read(path: Path) -> dict[str, Any] | None:
    """None if there is no record, or none that can be understood: then nothing is known of the predictions."""
    try:
        found = read_json(path)
    except (FoldwiseError, OSError):
        return None
    wanted = {"made_with": str, "is_complete": bool, "files": dict}
    if not isinstance(found, dict) or not all(isinstance(found.get(key), kind) for key, kind in wanted.items()):
        return None
    return found if all(isinstance(files, dict) for files in found["files"].values()) else None


def _size(path: Path) -> int | None:
    try:
        return path.stat().st_size
    except OSError:
        return None


def _is_prediction(path: Path, file_ending: str) -> bool:
    return path.is_file() and not path.name.startswith(".") and path.name.endswith((file_ending, ".npz", ".pkl"))


def _case_of(path: Path, file_ending: str) -> str:
    ending = file_ending if path.name.endswith(file_ending) else path.suffix
    return path.name.removesuffix(ending)


def _free_name(folder: Path) -> Path:
    number = 1
    while (free := folder.with_name(f"{folder.name}_before_{number}")).exists():
        number += 1
    return free
