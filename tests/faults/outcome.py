"""What became of one series of faults, and the starts that bring its run to an end."""

from __future__ import annotations

import random
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from tests.faults.comparison import differences, left_by, what_is_broken
from tests.faults.small_training import Ended, Run

_MAX_STARTS = 6
WORKERS = (0, 2)


@dataclass
class Outcome:
    """One run and its faults.

    Attributes:
        kind: such as ``kill -9``; with `place` the row of the report.
        place: where the run was when it happened.
        faults: every fault in words, so that it can be repeated.
        messages: what was told.
        problems: empty if nothing was lost.
    """

    number: int
    kind: str
    faults: list[str] = field(default_factory=list)
    places: list[tuple[str, str]] = field(default_factory=list)
    messages: list[str] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)

    def note(self, fault: str, kind: str, ended: Ended) -> None:
        """Count a fault, with the phase that it met; one that came too late for its run is not counted."""
        self.faults.append(f"{fault} at {ended.where}: exit code {ended.code}")
        self.messages += [line for line in ended.output.splitlines() if line.startswith(("error:", "warning:"))]
        if ended.was_hit or self.kind == "damage":
            self.places.append((kind, phase_of(ended)))

    def expect(self, condition: bool, problem: str, ended: Ended | None = None) -> None:
        if not condition:
            tail = f"\n{ended.output[-2000:]}" if ended is not None else ""
            self.problems.append(problem + tail)

    def check_files(self, run: Run) -> None:
        self.problems += what_is_broken(run.fold, run.a_checkpoint_was_written)

    def finish(self, run: Run, clean: dict[str, Any], chance: random.Random, ignored: Iterable[str] = ()) -> None:
        """Go on with ``--c`` until the run is done, and compare it with the clean one."""
        codes = []
        while run.num_starts < _MAX_STARTS + 4:
            ended = run.start(workers=chance.choice(WORKERS), repeat_settings=chance.random() < 0.5)
            codes.append(ended.code)
            if ended.code != 75:
                break
        if codes[-1] != 0:
            self.expect(False, f"going on ended with {codes}", ended)
            return
        found = differences(left_by(run.fold, run.dataset), clean)
        found = [name for name in found if not name.startswith(tuple(ignored) or ("nothing",))]
        self.expect(not found, f"differs from the clean run: {', '.join(found)}")


_PHASES = {
    "start-up": "start-up",
    "on_train_start": "start-up",
    "on_step_start": "training step",
    "on_forward": "training step",
    "on_loss": "training step",
    "on_backward": "training step",
    "on_update": "training step",
    "on_step_end": "training step",
    "make_batch": "training step",
    "on_epoch_start": "between epochs",
    "on_train_epoch_start": "between epochs",
    "on_train_epoch_end": "between epochs",
    "on_validation_epoch_start": "epoch's validation",
    "validation_step": "epoch's validation",
    "on_validation_epoch_end": "epoch's validation",
    "on_epoch_end": "between epochs",
    "on_checkpoint": "between epochs",
    "on_train_end": "end of training",
    "predict": "final validation",
    "export": "final validation",
    "score": "scoring, tables",
    "draw": "pictures",
    "on_exception": "teardown",
    "on_teardown": "teardown",
}


def phase_of(ended: Ended) -> str:
    if "writing checkpoint_" in ended.where:
        return "writing a checkpoint"
    return _PHASES.get(ended.place, ended.place)
