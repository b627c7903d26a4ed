"""Processes that are killed or asked to stop, at random instants and at chosen ones."""

from __future__ import annotations

import random
import signal
from typing import Any

from tests.faults.outcome import WORKERS, Outcome
from tests.faults.run_with_fault import Fault
from tests.faults.small_training import Ended, Run, SmallTraining

_ASKED = {"TERM": signal.SIGTERM, "INT": signal.SIGINT, "USR1": signal.SIGUSR1}
_LISTENING = {"start-up", "on_train_start", "on_exception", "on_teardown"}
"""Places where a signal need not be answered: there is nothing to save yet, or everything is saved."""


def num_kills_of(seed: int, number: int) -> int:
    """How many faults the run of that number meets, one after the other: most one, some two or three."""
    return _drawn(seed, number)[1]


def kill(training: SmallTraining, seed: int, number: int, clean: dict[str, Any], seconds: float) -> Outcome:
    """Train with faults drawn for (seed, number).

    Args:
        seconds: of the clean run; random instants are drawn from it.
    """
    chance, count = _drawn(seed, number)
    run = training.new_run(f"kill_{number}")
    outcome = Outcome(number, "kill")
    for _ in range(count):
        _one_kill(run, outcome, chance, seconds)
        outcome.check_files(run)
    outcome.finish(run, clean, chance)
    return outcome


def _drawn(seed: int, number: int) -> tuple[random.Random, int]:
    chance = random.Random(f"{seed} kills {number}")
    return chance, chance.choices((1, 2, 3), (6, 3, 1))[0]


def _one_kill(run: Run, outcome: Outcome, chance: random.Random, seconds: float) -> None:
    action = chance.choices(("KILL", "TERM", "INT", "USR1", "worker"), (5, 2, 2, 1, 2))[0]
    workers = 2 if action == "worker" else chance.choice(WORKERS)
    options: dict[str, Any] = {"workers": workers, "repeat_settings": chance.random() < 0.5}
    aimed = chance.random() < 0.6
    if action == "worker" and aimed:
        fault = Fault("make_batch", chance.randint(1, 6))
        ended, words = run.start(fault=fault, **options), str(fault)
    elif action == "worker":
        instant = chance.uniform(0.1, 0.7) * seconds
        signals = [(instant, signal.SIGKILL, "worker")]
        ended, words = run.start(signals=signals, **options), f"kill -9 of a worker after {instant:.2f} s"
    elif aimed:
        fault = _aimed(chance, action)
        ended, words = run.start(fault=fault, **options), str(fault)
    else:
        cold = chance.random() < 0.15
        instant = chance.uniform(0.0, 1.1) * seconds + (chance.uniform(0.0, 4.0) if cold else 0.0)
        signals = [(instant, _ASKED.get(action, signal.SIGKILL), "main")]
        ended = run.start(signals=signals, cold=cold, **options)
        words = f"{action} after {instant:.2f} s{' of a new Python' if cold else ''}"
    kind = {"KILL": "kill -9", "worker": "kill -9 of a worker"}.get(action, f"SIG{action}")
    outcome.note(words, kind, ended)
    _check_answer(outcome, action, ended)


def _aimed(chance: random.Random, action: str) -> Fault:
    """An instant that a random one would hardly ever meet."""
    place = chance.choice(
        ("on_train_start", "on_step_start", "on_update", "on_step_end", "on_train_epoch_end", "validation_step",
         "on_epoch_end", "on_checkpoint", "on_train_end", "predict", "export", "score", "draw", "on_teardown",
         "open", "write", "fsync", "fsync", "replace", "replace", "replaced", "replaced", "link")
    )  # fmt: skip
    if place in ("open", "write", "fsync", "replace", "replaced"):
        path = chance.choice(("checkpoint_", "checkpoint_", "checkpoint_final", "history", "predicted", "nii.gz", ""))
        most = {"checkpoint_final": 1, "nii.gz": 2, "predicted": 3, "history": 3}.get(path, 6)
        return Fault(place, chance.randint(1, most), action, path)
    most = {
        "on_step_start": 12, "on_update": 12, "on_step_end": 12, "validation_step": 5, "on_train_epoch_end": 3,
        "on_epoch_end": 3, "on_checkpoint": 3, "predict": 2, "export": 2, "draw": 2, "link": 3,
    }.get(place, 1)  # fmt: skip
    return Fault(place, chance.randint(1, most), action)


def _check_answer(outcome: Outcome, action: str, ended: Ended) -> None:
    """Exit code and message, where the fault can be answered. A fault may also come too late to meet the run."""
    if ended.code == 0:
        return
    if action == "KILL":
        outcome.expect(ended.code == -signal.SIGKILL, f"exit code {ended.code} after kill -9", ended)
    elif action == "worker":
        told = "a data worker was ended by the system" in ended.output and "run out of memory" in ended.output
        outcome.expect(ended.code == 2 and told, f"a killed worker gave exit code {ended.code}", ended)
        outcome.expect("Traceback" not in ended.output, "a killed worker gave a traceback", ended)
    elif ended.place not in _LISTENING or ended.code == 75:
        told = "--c" in ended.output
        outcome.expect(ended.code == 75 and told, f"SIG{action} gave exit code {ended.code}", ended)
        outcome.expect("Traceback" not in ended.output, f"SIG{action} gave a traceback", ended)
