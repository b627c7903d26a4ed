"""`Progress`: how far a training has come."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass
class Progress:
    """Counts of what is completed. A step is one batch; an iteration is one update, of one or more steps.

    `phase` is ``between epochs``, ``training``, ``validation`` or ``after validation``; the two step counts are
    those of the running epoch.
    """

    epochs_completed: int = 0
    phase: str = "between epochs"
    steps_completed: int = 0
    validation_steps_completed: int = 0
    validation_epochs_completed: int = 0
    finished: bool = False

    def global_step(self, steps_per_epoch: int) -> int:
        """Training batches used so far, over all epochs."""
        trained = self.phase in ("validation", "after validation")
        return self.epochs_completed * steps_per_epoch + (steps_per_epoch if trained else self.steps_completed)

    def describe(self) -> str:
        """Where the training is, for people."""
        step = self.validation_steps_completed if self.phase == "validation" else self.steps_completed
        return f"{self.phase} step {step + 1} of epoch {self.epochs_completed + 1}"

    def begin_epoch(self) -> None:
        self.steps_completed = self.validation_steps_completed = 0

    def complete_epoch(self) -> None:
        self.epochs_completed += 1
        self.phase = "between epochs"
        self.steps_completed = self.validation_steps_completed = 0
