"""What a finished run has left, in a form that two runs can be compared by."""

from __future__ import annotations

import gzip
import hashlib
import json
import re
from pathlib import Path
from typing import Any

import torch

from framework.checkpoint import load_checkpoint
from framework.errors import CheckpointError
from framework.files import TEMPORARY_NAME

_OF_THE_CLOCK = re.compile("second|time|timestamp|peak|memory")
_LOGS = re.compile(r"training_log_.*\.txt")


def left_by(run: Path, dataset: Path) -> dict[str, Any]:
    """Name -> content, or a digest of it: weights, optimizer, averages, hooks, history, scores, label images.

    Wall-clock times are left out, and the number of workers, which a resumed run may change.
    """
    found: dict[str, Any] = {}
    for tag in ("final", "best"):
        found |= {f"{tag}: {name}": value for name, value in _checkpoint(run / f"checkpoint_{tag}.pth").items()}
    lines = (run / "history.jsonl").read_text().splitlines()
    found["history.jsonl"] = [_without_clock(json.loads(line)) for line in lines]
    found["plans.json"] = _without_workers(json.loads((run / "plans.json").read_text()))
    validation = run / "validation"
    for name in ("summary.json", "metrics.csv"):
        found[name] = (validation / name).read_text().replace(str(run), "RUN").replace(str(dataset), "DATASET")
    for path in sorted(validation.glob("*.nii.gz")):
        found[path.name] = hashlib.sha256(gzip.decompress(path.read_bytes())).hexdigest()
    found["pictures"] = sorted(path.name for path in (validation / "pictures").glob("*.png"))
    found["files"] = sorted(path.name for path in run.iterdir() if not _LOGS.fullmatch(path.name))
    found["temporary files"] = [str(path) for path in run.rglob("*") if TEMPORARY_NAME.fullmatch(path.name)]
    return found


def differences(one: dict[str, Any], other: dict[str, Any]) -> list[str]:
    """Names of what differs."""
    return sorted(name for name in one.keys() | other.keys() if one.get(name) != other.get(name))


def what_is_broken(run: Path, a_checkpoint_was_written: bool) -> list[str]:
    """What must hold at any instant, and does not: files that are there are whole, and a checkpoint stays."""
    problems = []
    for path in [run / "plans.json", *run.glob("validation/*.json"), run / "validation/.predicted.json"]:
        if path.exists() and not TEMPORARY_NAME.fullmatch(path.name):
            problems += _json_problem(path, path.read_text())
    if (run / "history.jsonl").exists():
        for line in (run / "history.jsonl").read_text().splitlines():
            problems += _json_problem(run / "history.jsonl", line)
    checkpoints = list(run.glob("checkpoint_*.pth"))
    for path in checkpoints:
        try:
            load_checkpoint(path)
        except CheckpointError as error:
            problems.append(str(error))
    if a_checkpoint_was_written and not checkpoints:
        problems.append("a checkpoint had been written, and none is there")
    return problems


def _json_problem(path: Path, text: str) -> list[str]:
    try:
        json.loads(text)
    except ValueError as error:
        return [f"{path} is no JSON: {error}"]
    return []


def _checkpoint(path: Path) -> dict[str, Any]:
    if not path.exists():
        return {"there": False}
    try:
        state = load_checkpoint(path)
    except CheckpointError:
        return {"readable": False}
    own = state["foldwise"]
    parts = {
        "weights": state["network_weights"],
        "optimizer": state["optimizer_state"],
        "scaler": state["grad_scaler_state"],
        "update": own["update"],
        "hooks": _without_clock(own["hooks"]),
        "outputs": [own["train_outputs"], own["validation_outputs"]],
    }
    return {
        **{name: _digest(value) for name, value in parts.items()},
        "progress": own["progress"],
        "history": [_without_clock(row) for row in own["history"]["rows"]],
    }


def _digest(value: Any) -> str:
    hashed = hashlib.sha256()

    def add(entry: Any) -> None:
        if isinstance(entry, torch.Tensor):
            hashed.update(f"{entry.dtype}{tuple(entry.shape)}".encode())
            hashed.update(entry.detach().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
        elif isinstance(entry, dict):
            for name, each in entry.items():
                hashed.update(repr(name).encode())
                add(each)
        elif isinstance(entry, (list, tuple)):
            for each in entry:
                add(each)
        else:
            hashed.update(repr(entry).encode())

    add(value)
    return hashed.hexdigest()


def _without_clock(value: Any) -> Any:
    if isinstance(value, dict):
        return {
            name: _without_clock(entry) for name, entry in value.items() if not _OF_THE_CLOCK.search(str(name).lower())
        }
    return value


def _without_workers(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _without_workers(entry) for name, entry in value.items() if name != "num_workers"}
    return value
