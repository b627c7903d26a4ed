"""Every path of a run. A run folder is complete in itself: plans, dataset, checkpoints, history, predictions."""

from __future__ import annotations

import os
import time
import weakref
from contextlib import suppress
from pathlib import Path
from typing import IO

from framework.errors import FoldwiseError, WriteError

_held: weakref.WeakSet[IO[str]] = weakref.WeakSet()


def _let_go_in_child() -> None:
    # A data worker that outlives a killed training for some seconds would keep the fold locked.
    for file in list(_held):
        file.close()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_let_go_in_child)


class RunFolder:
    """``RESULTS/DATASET/TRAINER__PLANS__CONFIG/fold_X``.

    The folder above it, shared by the folds, holds ``plans.json``, ``dataset.json`` and the fingerprint, as
    nnU-Net expects them; each fold has its own effective plans beside its checkpoints.
    """

    def __init__(self, folder: Path | str) -> None:
        self.folder = Path(folder)
        self._lock: IO[str] | None = None

    @classmethod
    def of(
        cls, results: Path, dataset: str, trainer: str, plans: str, configuration: str, fold: int | str
    ) -> RunFolder:
        return cls(results / dataset / f"{trainer}__{plans}__{configuration}" / f"fold_{fold}")

    @property
    def model_folder(self) -> Path:
        return self.folder.parent

    @property
    def plans(self) -> Path:
        return self.folder / "plans.json"

    @property
    def latest_checkpoint(self) -> Path:
        return self.checkpoint("latest")

    @property
    def best_checkpoint(self) -> Path:
        return self.checkpoint("best")

    @property
    def final_checkpoint(self) -> Path:
        return self.checkpoint("final")

    def checkpoint(self, tag: str) -> Path:
        return self.folder / f"checkpoint_{tag}.pth"

    def checkpoints(self) -> list[Path]:
        """Every checkpoint that is there; of several that reached the same moment the first is the one to use."""
        order = ("final", "latest", "best")
        named = [self.checkpoint(tag) for tag in order]
        others = sorted(path for path in self.folder.glob("checkpoint_*.pth") if path not in named)
        return [path for path in (*named, *others) if path.is_file()]

    @property
    def stop_file(self) -> Path:
        """Whoever makes this file ends the run at its next step, with a checkpoint."""
        return self.folder / "STOP"

    @property
    def launch_file(self) -> Path:
        """Names the launch (of torchrun) that this run was begun by."""
        return self.folder / ".launch"

    @property
    def history(self) -> Path:
        return self.folder / "history.jsonl"

    @property
    def non_finite(self) -> Path:
        """A line for every batch with NaN or Inf in its loss or gradients."""
        return self.folder / "non_finite.jsonl"

    @property
    def non_finite_batch(self) -> Path:
        """The batch at which a training was ended because of NaN or Inf."""
        return self.folder / "non_finite_batch.pth"

    @property
    def progress_picture(self) -> Path:
        return self.folder / "progress.png"

    @property
    def validation(self) -> Path:
        return self.folder / "validation"

    @property
    def validation_summary(self) -> Path:
        return self.validation / "summary.json"

    def new_log(self) -> Path:
        """A log file of this start, named by the time as nnU-Net names it."""
        return self.folder / time.strftime("training_log_%Y_%m_%d_%H_%M_%S.txt")

    def was_begun_by(self, launch: str | None) -> bool:
        """Whether the run was begun by this launch, so that what is there may be gone on with unasked."""
        return launch is not None and self.launch_file.is_file() and self.launch_file.read_text("utf-8") == launch

    def has_run(self) -> bool:
        """Whether a training has been here."""
        return self.history.exists() or self.non_finite.exists() or bool(self.checkpoints())

    def move_aside(self) -> Path | None:
        """Keep an earlier run under another name so that a new one can start; None if there was none."""
        if not self.has_run():
            return None
        number = 1
        while (kept := self.folder.with_name(f"{self.folder.name}_before_{number}")).exists():
            number += 1
        os.replace(self.folder, kept)
        return kept

    def lock(self) -> None:
        """Refuse to train one fold in two processes at once. The lock ends with the process, however it ends."""
        try:
            import fcntl
        except ImportError:  # Windows
            return
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            file = open(self.folder / ".lock", "a+")  # noqa: SIM115  held until the process ends
        except OSError as error:
            reason = error.strerror or str(error)
            raise WriteError(self.folder, reason, "Make the folder writable, or set FW_RESULTS to another.") from error
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            file.seek(0)
            holder = file.read().strip() or "another process"
            file.close()
            raise FoldwiseError(
                f"{self.folder} is being trained by {holder}. Wait until it has ended, or stop it first."
            ) from None
        except OSError:
            file.close()  # some network file systems know no locks
            return
        self._lock = file
        _held.add(file)
        with suppress(OSError):  # on a full disk the holder is not named
            file.seek(0)
            file.truncate()
            file.write(f"process {os.getpid()}")
            file.flush()

    def unlock(self) -> None:
        if self._lock is not None:
            with suppress(OSError):  # what could not be written is flushed again
                self._lock.close()
            self._lock = None
