"""Which batches had a loss or gradients of NaN or Inf: ``non_finite.jsonl``, and the batch that ended a training."""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import fields, is_dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from framework.checkpoint import save_checkpoint
from framework.errors import NonFiniteError
from framework.files import write_text
from framework.hook import Hook

if TYPE_CHECKING:
    from framework.base_trainer import BaseTrainer

_NUM_NAMED = 3

Line = dict[str, Any]


class NonFiniteRecord(Hook):
    """Write a line for every batch whose loss or gradients were NaN or Inf, and save the batch that ends a training.

    `ParameterUpdate` skips and counts such updates; this hook says which they were. Within an epoch it only notes
    what the host knows (cases, learning rate). Values are read at its end, where the device is waited for anyway.

    A line has ``phase`` (training or validation), ``epoch`` and ``step`` (both from 0), ``case_names``, ``losses``
    (every part), and for training also ``global_step``, ``gradient_norm`` (of the update that the batch belonged to),
    ``lr`` and, with fp16, ``loss_scale``. NaN and Inf are the words "nan", "inf" and "-inf", since JSON has neither.

    Of several batches in one update those with a bad loss are listed, or all of them if only the gradients were bad.
    Updates that fp16 skips while it searches its loss scale, with losses that are finite, are no fault: they are
    listed only if they lead to the limit. With several processes, case names and losses are those of this one; a bad
    gradient norm without a bad loss then points to the batch of another process.
    """

    priority = -5  # after `RunDescription` has moved an earlier run aside, before `TextLog` writes an error down

    def __init__(self) -> None:
        self._steps: list[dict[str, Any]] = []  # what the host knows of each step of the running epoch
        self._skipped_by_scaling: list[Line] = []  # the last updates without interruption that fp16 skipped
        # Of the running step only, so that no memory is held for longer.
        self._batch: Any = None
        self._losses: dict[str, Tensor] | None = None

    def on_train_start(self, trainer: BaseTrainer) -> None:
        """Drop the lines of everything that a resumed run is going to repeat."""
        assert trainer.run_folder is not None
        path = trainer.run_folder.non_finite
        if path.exists():
            completed = trainer.progress.epochs_completed
            trained = trainer.progress.phase in ("validation", "after validation")

            def is_past(line: Line) -> bool:
                return line["epoch"] < completed + (trained and line["phase"] == "training")

            lines = path.read_text(encoding="utf-8").splitlines(keepends=True)
            write_text(path, "".join(line for line in lines if is_past(json.loads(line))))

    def on_train_epoch_start(self, trainer: BaseTrainer) -> None:
        self._steps = []

    def on_step_start(self, trainer: BaseTrainer, batch: Any) -> None:
        self._batch = batch
        self._steps.append({"case_names": _case_names(batch), "lr": trainer.lr})

    def on_loss(self, trainer: BaseTrainer, losses: dict[str, Any]) -> None:
        self._losses = losses

    def on_backward(self, trainer: BaseTrainer) -> None:
        scaler = trainer.update.scaler
        if scaler.is_enabled():
            # As a tensor: `get_scale` would wait for the device.
            self._steps[-1]["loss_scale"] = scaler.scale(torch.ones((), device=trainer.device))

    def on_step_end(self, trainer: BaseTrainer, outputs: dict[str, Any]) -> None:
        self._batch = self._losses = None

    def on_train_epoch_end(self, trainer: BaseTrainer, outputs: list[dict[str, Any]]) -> None:
        lines, self._skipped_by_scaling = self._training_lines(trainer, outputs)
        self._steps = []
        self._record(trainer, lines, len(outputs))

    def on_validation_epoch_end(self, trainer: BaseTrainer, outputs: list[dict[str, Any]]) -> None:
        position = {"phase": "validation", "epoch": trainer.progress.epochs_completed}
        lines = [
            {**position, "step": step, "case_names": outputs[step].get("case_names", []), "losses": losses}
            for step, losses in enumerate(_numbers(outputs))
            if not _are_finite(losses)
        ]
        self._record(trainer, lines, len(outputs))

    def on_exception(self, trainer: BaseTrainer, error: BaseException) -> None:
        if not isinstance(error, NonFiniteError) or self._losses is None:
            return  # prediction raises this error too
        assert trainer.run_folder is not None
        losses = {name: part.detach() for name, part in self._losses.items()}
        outputs = [*trainer.train_outputs, losses | {"gradient_norm": trainer.update.gradient_norm}]
        lines, by_scaling = self._training_lines(trainer, outputs)
        lines = sorted(lines + by_scaling, key=lambda line: line["global_step"])
        # Told step by step, so that the message is right whatever fails here.
        error.add(_most_frequent(lines))
        self._write(trainer, lines)
        error.add(f"All such batches are listed in {trainer.run_folder.non_finite}.")
        number = lines[-1]["global_step"]
        batch = self._batch
        if number != trainer.global_step:  # an earlier one of the batches of the same update
            trainer.training_batches.seek(number)
            batch = next(trainer.training_batches)
        path = trainer.run_folder.non_finite_batch
        error.add(f"In batch {number}, the last of them, {_where_not_finite(batch)}.")
        save_checkpoint(path, {**lines[-1], "batch": _plain(batch)})
        error.add(f"That batch is saved as {path}.")

    def state_dict(self) -> dict[str, Any]:
        return {"steps": self._steps, "skipped_by_scaling": self._skipped_by_scaling}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self._steps = [dict(step) for step in state["steps"]]
        self._skipped_by_scaling = [dict(line) for line in state["skipped_by_scaling"]]

    def _training_lines(self, trainer: BaseTrainer, outputs: list[dict[str, Any]]) -> tuple[list[Line], list[Line]]:
        """Of the epoch's steps so far: the faults, and those in the last run of updates that loss scaling skipped."""
        values = _numbers(outputs)
        # A checkpoint of an older version, written inside an epoch, knows nothing of its first steps.
        unknown: list[dict[str, Any]] = [{}] * (len(outputs) - len(self._steps))
        steps = [*unknown, *self._steps]
        epoch, length = trainer.progress.epochs_completed, trainer.settings.gradient_accumulation
        faults, by_scaling = [], list(self._skipped_by_scaling)
        for start in range(0, len(outputs), length):
            update = range(start, min(start + length, len(outputs)))
            norm = values[update[-1]].pop("gradient_norm", None)  # None: a train_step that does not return it
            bad = [step for step in update if not _are_finite(values[step])]
            skipped = norm is not None and not math.isfinite(norm)
            lines = []
            for step in bad or (update if skipped else ()):
                line = {
                    "phase": "training",
                    "epoch": epoch,
                    "step": step,
                    "global_step": epoch * trainer.steps_per_epoch + step,
                    "case_names": steps[step].get("case_names", []),
                    "losses": values[step],
                    "gradient_norm": norm,
                    "lr": steps[step].get("lr"),
                }
                if "loss_scale" in steps[update[-1]]:
                    line["loss_scale"] = float(steps[update[-1]]["loss_scale"])
                lines.append(line)
            if skipped and not bad and trainer.update.scaler.is_enabled():
                by_scaling += lines
            else:
                faults += lines
                by_scaling = by_scaling if skipped else []
        return faults, by_scaling

    def _record(self, trainer: BaseTrainer, lines: list[Line], num_steps: int) -> None:
        """Write the lines of one phase of an epoch, and say so."""
        if not lines:
            return
        self._write(trainer, lines)
        assert trainer.run_folder is not None
        trainer.report(
            f"warning: NaN or Inf in {len(lines)} of {num_steps} {lines[0]['phase']} batches of this epoch, listed in "
            f"{trainer.run_folder.non_finite}. {_most_frequent(lines)}".rstrip()
        )

    def _write(self, trainer: BaseTrainer, lines: list[Line]) -> None:
        assert trainer.run_folder is not None
        path = trainer.run_folder.non_finite
        earlier = path.read_text(encoding="utf-8") if path.exists() else ""
        write_text(path, earlier + "".join(json.dumps(_in_words(line)) + "\n" for line in lines))


def _case_names(batch: Any) -> list[str]:
    """The names of a batch's cases, if it is something that has them."""
    names = batch.get("case_names") if isinstance(batch, Mapping) else getattr(batch, "case_names", None)
    return [str(name) for name in names] if isinstance(names, Sequence) and not isinstance(names, str) else []


def _numbers(outputs: list[dict[str, Any]]) -> list[dict[str, float]]:
    """The scalars that each step returned, fetched from the device all at once."""
    found = [
        (step, name, value)
        for step, output in enumerate(outputs)
        for name, value in output.items()
        if isinstance(value, Tensor) and value.ndim == 0 and value.is_floating_point()
    ]
    numbers: list[dict[str, float]] = [{} for _ in outputs]
    if found:
        device = found[0][2].device
        values = torch.stack([value.to(device, torch.float32) for _, _, value in found]).tolist()
        for (step, name, _), value in zip(found, values):
            numbers[step][name] = value
    return numbers


def _are_finite(numbers: Mapping[str, float]) -> bool:
    return all(math.isfinite(number) for number in numbers.values())


def _most_frequent(lines: list[Line]) -> str:
    """The cases that the batches have in common: a fault in one case comes back with it."""
    counts = Counter(name for line in lines for name in dict.fromkeys(line["case_names"]))
    named = [f"'{name}' ({count} of {len(lines)})" for name, count in counts.most_common(_NUM_NAMED)]
    return f"Most frequent cases in these batches: {', '.join(named)}." if named else ""


def _in_words(value: Any) -> Any:
    """NaN and infinite numbers as words."""
    if isinstance(value, dict):
        return {key: _in_words(entry) for key, entry in value.items()}
    return str(value) if isinstance(value, float) and not math.isfinite(value) else value


def _where_not_finite(batch: Any) -> str:
    """Which of the batch's own tensors hold NaN or Inf, and in which cases; not what the network made of them."""
    names = _case_names(batch)
    places = []
    for place, tensor in _named_tensors(batch):
        if not tensor.is_floating_point() or tensor.grad_fn is not None or bool(torch.isfinite(tensor).all()):
            continue
        if names and tensor.ndim and len(tensor) == len(names):
            cases = {name: None for name, part in zip(names, tensor) if not torch.isfinite(part).all()}
            places.append(f"{place} of case {', '.join(repr(name) for name in cases)}")
        else:
            places.append(place)
    return f"{' and '.join(places)} has NaN or Inf" if places else "the data themselves are finite"


def _named_tensors(value: Any, place: str = "data") -> Iterator[tuple[str, Tensor]]:
    """Every tensor in nested dicts, lists, tuples and dataclasses, with the name it has there."""
    if isinstance(value, Tensor):
        yield place, value
    elif is_dataclass(value):
        for field in fields(value):
            yield from _named_tensors(getattr(value, field.name), field.name)
    elif isinstance(value, Mapping):
        for key, entry in value.items():
            yield from _named_tensors(entry, str(key))
    elif isinstance(value, (list, tuple)):
        for index, entry in enumerate(value):
            yield from _named_tensors(entry, f"{place}[{index}]")


def _plain(value: Any) -> Any:
    """A batch as plain types and tensors of its own on the CPU; of anything else what it looks like."""
    if isinstance(value, Tensor):
        return value.detach().to("cpu", copy=True)
    if is_dataclass(value):
        return {field.name: _plain(getattr(value, field.name)) for field in fields(value)}
    if isinstance(value, Mapping):
        return {str(key): _plain(entry) for key, entry in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(entry) for entry in value]
    if value is None or isinstance(value, (bool, int, float, str, np.ndarray, np.generic)):
        return value
    return repr(value)
