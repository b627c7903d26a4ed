"""``python -m tests.faults.run_with_fault FAULT -- fw_train's arguments``: a training with one fault in it.

FAULT is ``PLACE[/NUMBER[/ACTION[/PATH[/TIMES]]]]``: what happens when a place is reached for the NUMBERth time.

    step/7/KILL                          kill -9 before the seventh step
    replace/2/TERM/checkpoint_latest     SIGTERM just before the second rename to checkpoint_latest.pth
    write/1/ENOSPC/checkpoint_final/0    from its first write on, the disk is full for checkpoint_final.pth
    on_epoch_end/2/LIMIT                 after two epochs no file may become longer than 100 kB (a real limit)

The product holds no code for this: functions that it calls are replaced before it starts.
"""

from __future__ import annotations

import builtins
import errno
import mmap
import os
import re
import resource
import signal
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from framework.files import TEMPORARY_NAME, write_bytes

FILE_PLACES = ("open", "write", "fsync", "replace", "replaced", "link")
LIMIT_BYTES = 100_000
_NOTE_BYTES = 256


@dataclass(frozen=True)
class Fault:
    """What happens where.

    Attributes:
        place: a point of the loop such as ``on_update``; ``validation_step``, ``predict``, ``export``, ``score``,
            ``draw``; ``make_batch`` in a worker; or one of `FILE_PLACES`. Empty: nothing happens.
        number: at which of its visits; those of files count where `path` fits.
        action: a signal without SIG, an errno, ``LIMIT`` (of the length of files), or ``STDOUT`` (a full disk there).
        path: regular expression for the file's final name with its folder; for `FILE_PLACES`.
        times: how often in succession an errno is raised; 0 is from then on.
    """

    place: str = ""
    number: int = 1
    action: str = "KILL"
    path: str = ""
    times: int = 1

    @classmethod
    def of_text(cls, text: str) -> Fault:
        fields = [*text.split("/"), "", "", "", ""][:5]
        return cls(fields[0], int(fields[1] or 1), fields[2] or "KILL", fields[3], int(fields[4] or 1))

    def __str__(self) -> str:
        return "/".join(str(field) for field in (self.place, self.number, self.action, self.path, self.times))


class Note:
    """A few words that outlive the process that wrote them.

    Attributes:
        place, file: where it was last, and which file it was writing there, or none.
        num_checkpoints: how many it had completed.
        hit: where the fault happened, if it did.
    """

    def __init__(self, path: Path) -> None:
        if not path.exists():
            path.write_bytes(b" " * _NOTE_BYTES)
        with open(path, "rb+") as file:
            self._map = mmap.mmap(file.fileno(), _NOTE_BYTES)
        self.place, self.file, self.num_checkpoints, self.hit = "start-up", "", 0, ""

    def write(self) -> None:
        text = f"{self.place}|{self.file}|{self.num_checkpoints}|{self.hit}|"
        self._map[:] = text.encode()[:_NOTE_BYTES].ljust(_NOTE_BYTES)

    def read(self) -> Note:
        """Take over what another process has written."""
        fields = self._map[:].decode().split("|")
        if len(fields) > 4:
            self.place, self.file, self.num_checkpoints, self.hit = fields[0], fields[1], int(fields[2]), fields[3]
        return self

    @property
    def where(self) -> str:
        """Place, and what is being written there."""
        return f"{self.place}, writing {self.file}" if self.file else self.place


class Places:
    """Counts visits, takes the note, and lets the fault happen."""

    def __init__(self, fault: Fault, note: Note | None) -> None:
        self.fault, self.note = fault, note
        self.process = os.getpid()
        self.visits = 0

    def reach(self, place: str, path: str = "") -> None:
        in_worker = os.getpid() != self.process
        if in_worker and place != "make_batch":
            return
        if self.note is not None and not in_worker:
            self._take_note(place, path)
        fault = self.fault
        if place != fault.place or (place == "make_batch") != in_worker or not re.search(fault.path, path):
            return
        self.visits += 1
        last = fault.number + fault.times - 1 if fault.times else float("inf")
        if fault.number <= self.visits <= last:
            self._act(path)

    def _take_note(self, place: str, path: str) -> None:
        assert self.note is not None
        if place not in FILE_PLACES:
            self.note.place = place
        elif place == "replaced":
            self.note.file = ""
            self.note.num_checkpoints += "checkpoint_" in path
        elif "training_log" not in path:
            self.note.file = Path(path).name
        self.note.write()

    def _act(self, path: str) -> None:
        action = self.fault.action
        if self.note is not None and os.getpid() == self.process and not self.note.hit:
            self.note.hit = f"{self.note.place}, writing {Path(path).name}" if path else self.note.place
            self.note.write()
        if action == "LIMIT":
            resource.setrlimit(resource.RLIMIT_FSIZE, (LIMIT_BYTES, resource.RLIM_INFINITY))
        elif action == "STDOUT":
            os.dup2(os.open("/dev/full", os.O_WRONLY), 1)
        elif hasattr(signal, f"SIG{action}"):
            os.kill(os.getpid(), getattr(signal, f"SIG{action}"))
        else:
            code = getattr(errno, action)
            raise OSError(code, os.strerror(code), path)


def install(places: Places) -> None:
    """Replace what the product calls by the same with `places.reach` before it."""
    _watch_files(places)
    from framework import batch_loader, checkpoint_writer, hook
    from framework.hooks import progress_plot
    from trainers import fold_validation, validation_pictures
    from trainers.segmentation import SegmentationTrainer

    # Drawing would take half of the time of so small a training: pictures are written as any, but hold a word.
    progress_plot.draw_progress = lambda history, path, names: write_bytes(path, b"picture")  # type: ignore[assignment]
    validation_pictures.draw_case = lambda path, *rest, **options: write_bytes(path, b"picture")  # type: ignore
    checkpoint_writer.SECONDS_BEFORE_TRYING_AGAIN = (0.05, 0.05, 0.05)
    for name in ("announce", "announce_guarded"):
        _before(hook.HookList, name, lambda self, point, *rest, **options: places.reach(point))
    _before(SegmentationTrainer, "validation_step", lambda *rest: places.reach("validation_step"))
    _before(batch_loader._Series, "make", lambda *rest: places.reach("make_batch"))
    for owner, name, place in (
        (fold_validation, "_predict_case", "predict"),
        (fold_validation, "_write_case", "export"),
        (fold_validation, "_score", "score"),
        (validation_pictures, "_draw", "draw"),
    ):
        _before(owner, name, lambda *rest, place=place, **options: places.reach(place))


def _before(owner: Any, name: str, call: Callable[..., None]) -> None:
    original = getattr(owner, name)

    def replaced(*arguments: Any, **options: Any) -> Any:
        call(*arguments, **options)
        return original(*arguments, **options)

    setattr(owner, name, replaced)


def _watch_files(places: Places) -> None:
    original_open, original_fsync = builtins.open, os.fsync
    original_replace, original_link = os.replace, os.link

    def opened(file: Any, mode: str = "r", *rest: Any, **options: Any) -> Any:
        if not isinstance(file, (str, os.PathLike)) or not set(mode) & set("wa+x"):
            return original_open(file, mode, *rest, **options)
        path = final_path(file)
        if not is_watched(path):
            return original_open(file, mode, *rest, **options)
        places.reach("open", path)
        return _WatchedFile(original_open(file, mode, *rest, **options), lambda: places.reach("write", path))

    def fsync(descriptor: int) -> None:
        path = final_path(os.readlink(f"/proc/self/fd/{descriptor}"))
        if is_watched(path) and not os.path.isdir(path):
            places.reach("fsync", path)
        original_fsync(descriptor)

    def replace(source: Any, target: Any) -> None:
        places.reach("replace", str(target))
        original_replace(source, target)
        places.reach("replaced", str(target))

    def link(source: Any, target: Any) -> None:
        places.reach("link", final_path(target))
        original_link(source, target)

    def is_watched(path: str) -> bool:
        return path.startswith(os.environ["FW_RESULTS"])

    builtins.open, os.fsync, os.replace, os.link = opened, fsync, replace, link  # type: ignore[assignment]


class _WatchedFile:
    """A file whose every write is announced before it is done."""

    def __init__(self, file: Any, before_write: Callable[[], None]) -> None:
        self._file, self._before_write = file, before_write

    def write(self, content: Any) -> Any:
        self._before_write()
        return self._file.write(content)

    def __enter__(self) -> _WatchedFile:
        return self

    def __exit__(self, *error: object) -> None:
        self._file.close()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._file, name)


def final_path(file: Any) -> str:
    """The path that a temporary file of `atomic_write` is to get; of any other file its own."""
    path = Path(os.fspath(file))
    match = TEMPORARY_NAME.fullmatch(path.name)
    return str(path.with_name(match[1] + match[2]) if match else path)


def run(fault: Fault, note: Note | None, arguments: list[str]) -> int:
    """`fw_train` in this process."""
    install(Places(fault, note))
    from framework.commands.train import main

    return main(arguments)


if __name__ == "__main__":
    division = sys.argv.index("--")
    options = sys.argv[1:division]
    note = Note(Path(os.environ["FAULT_NOTE"])) if "FAULT_NOTE" in os.environ else None
    sys.exit(run(Fault.of_text(options[0] if options else ""), note, sys.argv[division + 1 :]))
