"""Files that are damaged between two starts."""

from __future__ import annotations

import os
import random
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.faults.outcome import WORKERS, Outcome
from tests.faults.run_with_fault import Fault
from tests.faults.small_training import Run, SmallTraining

Damage = Callable[[Path, random.Random], None]


def truncated(path: Path, chance: random.Random) -> None:
    os.truncate(path, chance.randint(1, max(1, path.stat().st_size - 1)))


def emptied(path: Path, chance: random.Random) -> None:
    os.truncate(path, 0)


def zeroed(path: Path, chance: random.Random) -> None:
    with open(path, "rb+") as file:
        file.write(bytes(path.stat().st_size))


def flipped(path: Path, chance: random.Random) -> None:
    with open(path, "rb+") as file:
        place = chance.randrange(path.stat().st_size)
        file.seek(place)
        byte = file.read(1)[0]
        file.seek(place)
        file.write(bytes([byte ^ (1 << chance.randrange(8))]))


ANY = (truncated, emptied, zeroed)
"""What every file must survive; flipped bits are found only where a format has checksums."""
ALL = (*ANY, flipped)


@dataclass(frozen=True)
class Target:
    """A file, when it is damaged, and what is right then.

    Attributes:
        files: patterns below the fold's folder, or below that of the dataset with ``data:`` before.
        after: the fault that stops the run before; an empty place lets it end.
        told: whether the next start must say something.
        may_end: whether it may end with exit code 2; the file is then put back.
        not_compared: entries of the comparison that cannot be the same again.
    """

    files: tuple[str, ...]
    damages: tuple[Damage, ...]
    after: Fault
    told: str = ""
    may_end: bool = False
    not_compared: tuple[str, ...] = ()


_IN_TRAINING = Fault("on_step_start", 12, "TERM")
_IN_VALIDATION = Fault("export", 2, "KILL")
_AFTER = Fault("", 1)
TARGETS = [
    Target(("checkpoint_latest.pth",), ALL, _IN_TRAINING, "warning: passing over checkpoint_latest.pth"),
    Target(("checkpoint_latest.pth",), ALL, Fault("replaced", 3, "KILL", "checkpoint_latest"), "passing over"),
    Target(("checkpoint_best.pth",), ALL, _IN_TRAINING, "passing over checkpoint_best", not_compared=("best",)),
    Target(("checkpoint_*.pth",), ALL, _IN_TRAINING, "none of its checkpoints can be read", may_end=True),
    Target(("checkpoint_final.pth",), ALL, _IN_VALIDATION, "passing over checkpoint_final"),
    Target(("plans.json",), ANY, _IN_TRAINING, "plans.json", may_end=True),
    Target(("../plans.json", "../dataset.json"), ALL, _IN_TRAINING),
    Target(("history.jsonl",), ALL, _IN_TRAINING),
    Target(("history.jsonl",), ALL, _AFTER),
    Target(("progress.png",), ALL, _AFTER),
    # Predictions of unknown origin are kept beside: there is a further folder then.
    Target(("validation/.predicted.json",), ANY, _IN_VALIDATION, not_compared=("files",)),
    Target(("validation/*.nii.gz",), ALL, _IN_VALIDATION),
    Target(("validation/*.nii.gz",), ALL, _AFTER),
    Target(("validation/summary.json", "validation/metrics.csv"), ALL, _AFTER),
    Target(("data:laptop_3d_fullres/*[0-9].b2nd",), ANY, _IN_TRAINING, may_end=True),
    Target(("data:laptop_3d_fullres/*_seg.b2nd",), ANY, _IN_TRAINING, may_end=True),
    Target(("data:laptop_3d_fullres/*.pkl",), ANY, _IN_TRAINING, may_end=True),
    Target(("data:splits_final.json",), ANY, _IN_TRAINING, "splits_final.json", may_end=True),
    Target(("data:dataset.json",), ANY, _IN_TRAINING, "dataset.json", may_end=True),
    Target(("data:laptop.json",), ANY, _IN_TRAINING, "laptop.json", may_end=True),
    Target(("data:foldwise/*.json",), ANY, _IN_TRAINING, may_end=True),
]


def damage(training: SmallTraining, seed: int, number: int, clean: dict[str, Any]) -> Outcome:
    """Stop a run, damage a file of it as drawn for (seed, number), and go on."""
    ordered = random.Random(f"{seed} damage")
    targets: list[Target] = []
    while len(targets) <= number:
        targets += ordered.sample(TARGETS, len(TARGETS))
    target, chance = targets[number], random.Random(f"{seed} damage {number}")
    run = training.new_run(f"damage_{number}", own_data=True)
    outcome = Outcome(number, "damage")
    ended = run.start(workers=chance.choice(WORKERS), fault=target.after)
    outcome.check_files(run)
    way = chance.choice(target.damages)
    kept = [_damage(path, way, chance, run.folder / "kept") for path in _files(run, target, chance)]
    if not kept:
        outcome.expect(False, f"no file {target.files} is there to be damaged", ended)
        return outcome
    _leave_things_about(run)
    ended = run.start(workers=chance.choice(WORKERS), repeat_settings=chance.random() < 0.5)
    names = ", ".join(path.name for path, _ in kept)
    outcome.note(f"{names} {way.__name__}", f"{way.__name__}: {target.files[0].rpartition('/')[2]}", ended)
    outcome.places[-1] = (outcome.places[-1][0], "between two starts")
    outcome.expect(ended.code in ((0, 2) if target.may_end else (0,)), f"{names}: exit code {ended.code}", ended)
    # A bit may have been flipped where it means nothing, in the padding of an archive for example.
    told = target.told in ended.output or way is flipped
    outcome.expect(told, f"{names}: nothing is said of it", ended)
    outcome.expect("Traceback" not in ended.output, f"{names}: a traceback", ended)
    if ended.code == 2:
        outcome.expect(ended.output.count("error: ") == 1, f"{names}: not one message", ended)
        for path, copy in kept:
            shutil.copy2(copy, path)
    outcome.finish(run, clean, chance, target.not_compared)
    return outcome


def _files(run: Run, target: Target, chance: random.Random) -> list[Path]:
    found = []
    for pattern in target.files:
        folder, pattern = (run.dataset, pattern[5:]) if pattern.startswith("data:") else (run.fold, pattern)
        paths = sorted(folder.glob(pattern))
        if pattern.startswith("laptop_3d"):
            paths = [chance.choice(paths)]
        found += paths
    return found


def _damage(path: Path, way: Damage, chance: random.Random, folder: Path) -> tuple[Path, Path]:
    """In place, as a disk does it, so that a second name of the file is damaged too; keeps a copy."""
    folder.mkdir(exist_ok=True)
    copy = folder / f"{len(list(folder.iterdir()))}_{path.name}"
    shutil.copy2(path, copy)
    way(path, chance)
    return path, copy


def _leave_things_about(run: Run) -> None:
    """What a killed process may have left, and a lock that nobody holds."""
    for name in (".checkpoint_latest.0123abcd.tmp.pth", "validation/.hippocampus_001.0123abcd.tmp.nii.gz"):
        path = run.fold / name
        if path.parent.is_dir():
            path.write_bytes(b"half a file")
    (run.fold / ".lock").write_text("process 1")
