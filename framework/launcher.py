"""``-num_gpus N``: the same command once for each GPU of this machine, on torch's own elastic launcher."""

from __future__ import annotations

import logging
import os
import sys
import tempfile
import threading
import uuid
from collections.abc import Sequence
from pathlib import Path
from types import FrameType

from framework.errors import FoldwiseError
from framework.stop_signal import end_signals_call

EXIT_CODE_FILE = "FW_EXIT_CODE_FILE"
"""Variable that names a file for the exit code. torchrun takes any code but 0 for a failure, to be mended by starting
again, and tells its own caller no more than that there was one."""

_LAUNCH_FOLDER = "FW_LAUNCH_FOLDER"
_MAX_RESTARTS = 3
_INTERRUPTED = 130


def is_launched() -> bool:
    """Whether this is one of several processes that a launcher has started."""
    return "TORCHELASTIC_RUN_ID" in os.environ or int(os.environ.get("WORLD_SIZE", "1")) > 1


def launch(module: str, arguments: Sequence[str], num_processes: int) -> int:
    """Run ``python -m module arguments`` in so many processes that train together, and wait for their end.

    If one of them dies, all are started again and go on from the last checkpoint, three times at most. Signals that
    ask for an end are passed on; the processes then agree on a step, save, and leave.

    Returns:
        The exit code of the command: that of rank 0.

    Raises:
        FoldwiseError: a process failed again after every restart.
    """
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.launcher.api import LaunchConfig, elastic_launch

    config = LaunchConfig(
        min_nodes=1,
        max_nodes=1,
        nproc_per_node=num_processes,
        run_id=uuid.uuid4().hex,
        rdzv_backend="c10d",
        rdzv_endpoint="localhost:0",  # a free port
        max_restarts=_MAX_RESTARTS,
    )
    failures: list[BaseException] = []

    def run() -> None:
        try:
            elastic_launch(config, sys.executable)("-m", module, *arguments)
        except BaseException as error:
            failures.append(error)

    with tempfile.TemporaryDirectory(prefix="fw_launch_") as folder:
        os.environ[_LAUNCH_FOLDER] = folder
        os.environ.setdefault(EXIT_CODE_FILE, str(Path(folder) / "exit_code"))
        cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
        os.environ.setdefault("OMP_NUM_THREADS", str(max(1, cores // num_processes)))
        # It would warn of the thread below.
        logging.getLogger("torch.distributed.elastic").setLevel(logging.ERROR)
        # In the main thread torch's launcher would answer a signal itself, and kill what has not ended half a minute
        # later. Here a signal is passed on, and the processes take the time they need.
        thread = threading.Thread(target=run, name="launcher", daemon=True)
        with _SignalsPassedOn(Path(folder)) as signals:
            thread.start()
            while thread.is_alive():
                thread.join(0.2)
                signals.pass_on()
        if failures and not isinstance(failures[0], ChildFailedError):
            raise failures[0]
        if failures and signals.received:
            return _INTERRUPTED
        if failures:
            rank, failure = failures[0].get_first_failure()  # type: ignore[attr-defined]
            raise FoldwiseError(
                f"rank {rank} failed with exit code {failure.exitcode}, and again after {_MAX_RESTARTS} restarts; its "
                "message is above. Run the same command with --c: it goes on from the last checkpoint."
            )
        return int(Path(os.environ[EXIT_CODE_FILE]).read_text(encoding="ascii"))


def announce_process() -> None:
    """In a process that `launch` has started: make it known, so that signals reach it.

    Raises:
        SystemExit: the launcher was asked to end before this process had begun.
    """
    folder = os.environ.get(_LAUNCH_FOLDER)
    if folder is not None:
        if (Path(folder) / "stop").exists():
            raise SystemExit(exit_code(_INTERRUPTED))
        (Path(folder) / f"process_{os.getpid()}").touch()


def exit_code(code: int) -> int:
    """The code to end this process with, when the command has ended with `code`."""
    path = os.environ.get(EXIT_CODE_FILE)
    if path and os.environ.get("RANK", "0") == "0":
        Path(path).write_text(f"{code}\n", encoding="ascii")
    if "TORCHELASTIC_RUN_ID" not in os.environ:
        return code
    # What a restart would not mend, or must not undo, is no failure to torchrun.
    orderly = {75, _INTERRUPTED} | ({2} if _LAUNCH_FOLDER in os.environ else set())
    return 0 if code in orderly else code


class _SignalsPassedOn:
    """While the block runs, signals that ask for an end reach every process that `announce_process` has made known."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.received: list[int] = []
        self._told: set[tuple[int, int]] = set()  # which signal, to which process
        self._block = end_signals_call(self._note)

    def __enter__(self) -> _SignalsPassedOn:
        self._block.__enter__()
        return self

    def __exit__(self, *error: object) -> None:
        self._block.__exit__(None, None, None)

    def _note(self, number: int, frame: FrameType | None) -> None:
        self.received.append(number)
        (self.folder / "stop").touch()

    def pass_on(self) -> None:
        """To those that have not had them; a process may be younger than the signal."""
        for order, number in enumerate(list(self.received)):
            for path in self.folder.glob("process_*"):
                process = int(path.name.removeprefix("process_"))
                if (order, process) not in self._told:
                    self._told.add((order, process))
                    try:
                        os.kill(process, number)
                    except ProcessLookupError:
                        path.unlink(missing_ok=True)
