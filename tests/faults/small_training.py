"""A real training that takes seconds: ten hippocampus scans, the laptop plan made small."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path

from tests.faults.run_with_fault import Fault, Note, run

DATASET = "Dataset004_Hippocampus"
_NUM_CASES = 10
_SETTINGS = {
    "training.num_epochs": 3,
    "training.iterations_per_epoch": 5,
    "training.validation_iterations_per_epoch": 2,
    "training.checkpoint_every_epochs": 1,
    "training.checkpoint_every_minutes": 0.006,  # now and then inside an epoch as well
    "training.checkpoint_keep_last": 2,
    "patch_size": [16, 16, 16],
    "architecture.arch_kwargs.features_per_stage": [8, 8, 12, 16],
}
_TIMEOUT_SECONDS = 240.0


@dataclass
class SmallTraining:
    """Prepared once; every run gets results, and where it damages them also data, of its own.

    Args:
        raw: folder of the raw dataset.
        folder: for everything that is made.
    """

    raw: Path
    folder: Path
    preprocessed: Path = field(init=False)

    def __post_init__(self) -> None:
        self.preprocessed = self.folder / "preprocessed"

    def prepare(self) -> None:
        """A raw dataset of few cases, planned and preprocessed."""
        target = self.folder / "raw" / DATASET
        for name in ("imagesTr", "labelsTr"):
            (target / name).mkdir(parents=True)
        labels = sorted((self.raw / "labelsTr").glob("*.nii.gz"))[:_NUM_CASES]
        for path in labels:
            shutil.copy2(path, target / "labelsTr")
            shutil.copy2(self.raw / "imagesTr" / path.name.replace(".nii.gz", "_0000.nii.gz"), target / "imagesTr")
        description = json.loads((self.raw / "dataset.json").read_text())
        (target / "dataset.json").write_text(json.dumps(description | {"numTraining": len(labels)}))
        command = [sys.executable, "-m", "framework.commands.preprocess", "4", "-p", "laptop", "-c", "3d_fullres"]
        subprocess.run(command, check=True, env=os.environ | self._environment(self.folder / "none"), stdout=2)

    def new_run(self, name: str, own_data: bool = False) -> Run:
        folder = self.folder / "runs" / name
        folder.mkdir(parents=True)
        preprocessed = self.preprocessed
        if own_data:
            preprocessed = folder / "preprocessed"
            shutil.copytree(self.preprocessed, preprocessed)
        return Run(folder, self._environment(folder) | {"FW_PREPROCESSED": str(preprocessed)})

    def _environment(self, folder: Path) -> dict[str, str]:
        return {
            "FW_RAW": str(self.folder / "raw"),
            "FW_PREPROCESSED": str(self.preprocessed),
            "FW_RESULTS": str(folder / "results"),
        }


@dataclass
class Ended:
    """How one start has ended.

    Attributes:
        code: the exit code; minus the signal that ended it.
        output: of stdout and stderr.
        where: the place where it was when the fault happened, and after a comma what it was writing.
    """

    code: int
    output: str
    where: str
    was_hit: bool

    @property
    def place(self) -> str:
        return self.where.partition(",")[0]


@dataclass
class Run:
    """One fold that is trained in one or more starts."""

    folder: Path
    environment: dict[str, str]
    num_starts: int = 0
    a_checkpoint_was_written: bool = False

    @property
    def fold(self) -> Path:
        return self.folder / "results" / DATASET / "SegmentationTrainer__laptop__3d_fullres" / "fold_0"

    @property
    def dataset(self) -> Path:
        return Path(self.environment["FW_PREPROCESSED"]) / DATASET

    def start(
        self,
        *,
        workers: int,
        fault: Fault | None = None,
        signals: list[tuple[float, signal.Signals, str]] | None = None,
        cold: bool = False,
        repeat_settings: bool = True,
    ) -> Ended:
        """Start, or go on with ``--c``, and wait for the end.

        Args:
            workers: of this start.
            signals: sent from outside: seconds after the start, which, and to ``main`` or ``worker``.
            cold: start Python anew; else a process is forked in which everything is imported already.
            repeat_settings: give ``--set`` again, as who repeats a command does; without, the run knows them.
        """
        arguments = ["4", "3d_fullres", "0", "-p", "laptop", "-device", "cpu"]
        if self.num_starts:
            arguments.append("--c")
        if repeat_settings or not (self.fold / "plans.json").exists():
            arguments += [f"--set={name}={json.dumps(value)}" for name, value in _SETTINGS.items()]
        arguments.append(f"--set=training.num_workers={workers}")
        self.num_starts += 1
        output, note_file = (self.folder / f"{kind}_{self.num_starts}" for kind in ("output", "note"))
        note = Note(note_file)
        process = self._fork(arguments, fault or Fault(), output, note_file, cold)
        code = _wait(process, signals or [], note)
        self.a_checkpoint_was_written |= note.read().num_checkpoints > 0
        if fault is not None and fault.place == "make_batch" and code:
            note.hit = "make_batch"  # a worker takes no notes
        return Ended(code, output.read_text(errors="replace"), note.hit or note.where, bool(note.hit) or code < 0)

    def _fork(self, arguments: list[str], fault: Fault, output: Path, note: Path, cold: bool) -> int:
        process = os.fork()
        if process:
            return process
        os.setsid()
        os.environ.update(self.environment | {"FAULT_NOTE": str(note)})
        descriptor = os.open(output, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_APPEND)
        os.dup2(descriptor, 1)
        os.dup2(descriptor, 2)
        if cold:
            os.chdir(Path(__file__).parents[2])
            command = [sys.executable, "-m", "tests.faults.run_with_fault", str(fault), "--", *arguments]
            os.execv(sys.executable, command)
        # Up through all callers and out: Python ends as it always does, clean-up at exit included.
        raise SystemExit(run(fault, Note(note), arguments))


def _wait(process: int, signals: list[tuple[float, signal.Signals, str]], note: Note) -> int:
    """The exit code; sends the signals meanwhile, and notes where the process is then."""
    started = time.monotonic()
    hit, killed = "", False
    waiting = sorted(signals, reverse=True)
    while True:
        ended, status = os.waitpid(process, os.WNOHANG)
        if ended:
            note.read()
            if killed and os.waitstatus_to_exitcode(status) >= 0:
                hit = ""  # it was on its way out
            note.hit = note.hit or hit
            note.write()
            return os.waitstatus_to_exitcode(status)
        seconds = time.monotonic() - started
        if waiting and seconds >= waiting[-1][0]:
            _, number, whom = waiting.pop()
            targets = _workers_of(process) if whom == "worker" else [process]
            for target in targets[:1]:
                hit = note.read().where
                os.kill(target, number)
                killed = whom == "main" and number == signal.SIGKILL
        if seconds > _TIMEOUT_SECONDS:
            os.kill(process, signal.SIGABRT)
            time.sleep(1)
            os.kill(process, signal.SIGKILL)
        time.sleep(0.002)


def _workers_of(process: int) -> list[int]:
    try:
        text = Path(f"/proc/{process}/task/{process}/children").read_text()
    except OSError:
        return []
    return [int(word) for word in text.split()]
