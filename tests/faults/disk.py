"""Disks that are full, read-only, over quota, broken or away, for every file that a training writes."""

from __future__ import annotations

import random
from dataclasses import dataclass
from typing import Any

from tests.faults.outcome import WORKERS, Outcome
from tests.faults.run_with_fault import Fault
from tests.faults.small_training import Ended, SmallTraining


@dataclass(frozen=True)
class Refusal:
    """A file that cannot be written, and what is right then.

    Attributes:
        ends: whether the run ends with exit code 2; else it tells and goes on.
        named: what the message must name; empty if nothing need be said.
    """

    fault: Fault
    ends: bool
    named: str


_ERRORS = ("ENOSPC", "EDQUOT", "EROFS", "EACCES", "EIO", "ESTALE", "EXDEV")
_PLACES = ("open", "write", "fsync", "replace")


def refusals(chance: random.Random) -> list[Refusal]:
    """Every rule once, in random order, with a random errno at a random step of the writing."""

    def refused(path: str, number: int, times: int = 0) -> Fault:
        place = chance.choice(_PLACES)
        errors = {"open": ("EROFS", "EACCES", "ENOSPC"), "replace": ("ESTALE", "EXDEV", "EIO", "EDQUOT")}
        return Fault(place, number, chance.choice(errors.get(place, _ERRORS)), path, times)

    def unstarted(path: str, place: str, number: int = 1) -> Fault:
        """For files that are not written by us."""
        return Fault(place, number, chance.choice(_ERRORS), path, 0)

    rules = [
        Refusal(refused("checkpoint_latest", chance.randint(2, 3)), True, "checkpoint_latest.pth"),
        Refusal(refused("checkpoint_latest", 1), True, "checkpoint_latest.pth"),
        # A second name of a file, which is never opened.
        Refusal(unstarted("checkpoint_best", chance.choice(("fsync", "replace"))), True, "checkpoint_best.pth"),
        Refusal(unstarted("checkpoint_earlier_1", "replace"), True, "checkpoint_earlier_1.pth"),
        Refusal(refused("checkpoint_final", 1), True, "checkpoint_final.pth"),
        Refusal(refused("checkpoint_", chance.randint(1, 4), times=1), False, ""),  # a moment only
        Refusal(unstarted("checkpoint_", "replace", chance.randint(1, 4)), True, "checkpoint_"),
        Refusal(refused("results", chance.randint(15, 30)), True, "could not be written"),  # everything
        Refusal(refused("history", 1), False, "history.jsonl"),
        Refusal(refused("history", chance.randint(2, 3), times=1), False, "history.jsonl"),
        Refusal(Fault(chance.choice(("open", "write")), 2, "ENOSPC", "training_log", 0), False, "training_log"),
        Refusal(unstarted("progress.png", "replace"), False, "progress.png"),
        Refusal(refused("fold_0/plans", 1), True, "plans.json"),
        Refusal(Fault("open", 1, "EROFS", r"fold_0/\.lock", 0), True, "fold_0"),
        Refusal(unstarted("nii.gz", "fsync", chance.randint(1, 2)), True, ".nii.gz"),
        Refusal(refused("predicted.json", chance.randint(1, 3)), True, ".predicted.json"),
        Refusal(refused("summary.json", 1), True, "summary.json"),
        Refusal(unstarted("metrics.csv", "replace"), True, "metrics.csv"),
        Refusal(unstarted("pictures", "replace"), False, "could not be drawn"),
        Refusal(Fault("on_epoch_end", chance.randint(1, 3), "LIMIT"), True, "File too large"),
        Refusal(Fault("predict", 1, "LIMIT"), False, ""),  # what comes then is short
        Refusal(Fault("on_step_start", chance.randint(1, 12), "STDOUT"), False, ""),
    ]
    chance.shuffle(rules)
    return rules


def refuse(training: SmallTraining, seed: int, number: int, clean: dict[str, Any]) -> Outcome:
    """Train on a disk that refuses, as drawn for (seed, number); then go on without that."""
    rules: list[Refusal] = []
    chance = random.Random(f"{seed} disk {number}")
    ordered = random.Random(f"{seed} disk")
    while len(rules) <= number:
        rules += refusals(ordered)
    rule = rules[number]
    run = training.new_run(f"disk_{number}")
    outcome = Outcome(number, "disk")
    ended = run.start(workers=chance.choice(WORKERS), fault=rule.fault)
    name = rule.fault.action if rule.fault.place != "replace" else f"{rule.fault.action} of a rename"
    outcome.note(str(rule.fault), name, ended)
    _check_answer(outcome, rule, ended)
    outcome.check_files(run)
    if chance.random() < 0.3 and rule.ends:
        # Somebody tries again before the disk is mended.
        ended = run.start(workers=chance.choice(WORKERS), fault=rule.fault)
        outcome.expect(ended.code in (0, 2), f"the second try gave exit code {ended.code}", ended)
        outcome.check_files(run)
    outcome.finish(run, clean, chance)
    return outcome


def _check_answer(outcome: Outcome, rule: Refusal, ended: Ended) -> None:
    wanted = 2 if rule.ends else 0
    outcome.expect(ended.code == wanted, f"{rule.fault}: exit code {ended.code}, expected {wanted}", ended)
    outcome.expect(rule.named in ended.output, f"{rule.fault}: the message does not name {rule.named}", ended)
    outcome.expect("Traceback" not in ended.output, f"{rule.fault}: a traceback", ended)
    if rule.ends and "fold_0" not in rule.fault.path:
        outcome.expect("--c" in ended.output, f"{rule.fault}: the message does not say how to go on", ended)
    if rule.ends:
        outcome.expect(ended.output.count("error: ") == 1, f"{rule.fault}: not one message", ended)
