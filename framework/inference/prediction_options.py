"""What a prediction of files is asked for, and who is told how far it is."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from threading import Lock

from framework.errors import FoldwiseError


@dataclass(frozen=True)
class PredictionOptions:
    """How files are predicted.

    Attributes:
        save_probabilities: also write CASE.npz and CASE.pkl.
        draw_picture: also write pictures/CASE.png, by `framework.evaluation.picture.draw_case` or something that
            takes the same arguments; None for no pictures.
        overwrite: predict all cases; else those are kept whose output is there, whole, and fits the scan.
        previous_stage: for a cascade, folder with the previous stage's label images CASE.EXT; None for having
            them predicted first.
        num_readers, num_writers: threads that read and preprocess, and that write. None: as many as there are
            processors left beside the network, at most three; 0: in turn with the network.
        part, num_parts: predict only the cases part, part + num_parts, ... in the order of names.
    """

    save_probabilities: bool = False
    draw_picture: Callable[..., None] | None = None
    overwrite: bool = True
    previous_stage: Path | str | None = None
    num_readers: int | None = None
    num_writers: int | None = None
    part: int = 0
    num_parts: int = 1

    @property
    def readers(self) -> int:
        """Threads that read, decided."""
        return _num_threads(self.num_readers)

    @property
    def writers(self) -> int:
        """Threads that write, decided."""
        return _num_threads(self.num_writers)

    def __post_init__(self) -> None:
        if not 0 <= self.part < self.num_parts:
            raise FoldwiseError(
                f"-part_id {self.part} with -num_parts {self.num_parts}: parts are counted from 0 to "
                f"{max(0, self.num_parts - 1)}."
            )
        for name, value in (("-npp", self.num_readers), ("-nps", self.num_writers)):
            if value is not None and value < 0:
                raise FoldwiseError(f"{name} {value}: expected 0 or more.")


@dataclass(frozen=True)
class Observer:
    """Who is told how far a prediction is, and may stop it.

    Attributes:
        report: called with lines of text.
        progress: called with (what is done, done, in all).
        stop: True once the prediction should end; cases that have passed the network are still written.
        verbose: also report every case that is written, and where in the program a failure came from.
    """

    report: Callable[[str], None] = print
    progress: Callable[[str, int, int], None] = field(default=lambda what, done, total: None)
    stop: Callable[[], bool] = field(default=lambda: False)
    verbose: bool = False

    def one_at_a_time(self) -> Observer:
        """The same, for several threads: report and progress are never called twice at once."""
        lock = Lock()

        def report(text: str) -> None:
            with lock:
                self.report(text)

        def progress(what: str, done: int, total: int) -> None:
            with lock:
                self.progress(what, done, total)

        return replace(self, report=report, progress=progress)


def _num_threads(wanted: int | None) -> int:
    if wanted is not None:
        return wanted
    processors = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, min(3, processors // 4))
