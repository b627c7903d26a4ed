"""Run a test's function in several processes that train together, with gloo on the CPU."""

from __future__ import annotations

import importlib
import multiprocessing
import os
import pickle
import socket
import sys
import time
import traceback
from dataclasses import dataclass
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

# Processes are forked from one that has imported torch, once for all tests, and has never computed anything.
_CONTEXT = multiprocessing.get_context("forkserver")
_CONTEXT.set_forkserver_preload(["tests.framework.rank_scenarios", "torch._dynamo"])  # torch imports that for DDP


@dataclass
class RankResult:
    """How one process ended."""

    exit_code: int | None
    printed: str
    returned: Any = None


@dataclass
class RankProcesses:
    """Processes under way; `wait` for their results."""

    processes: list[BaseProcess]
    folder: Path

    def wait(self, timeout: float = 120.0) -> list[RankResult]:
        ends = time.monotonic() + timeout
        results = []
        try:
            for rank, process in enumerate(self.processes):
                process.join(max(0.1, ends - time.monotonic()))
                returned = self.folder / f"returned_{rank}"
                value = pickle.loads(returned.read_bytes()) if returned.is_file() else None
                printed = (self.folder / f"printed_{rank}").read_text()
                results.append(RankResult(process.exitcode, printed, value))
        finally:
            for process in self.processes:
                process.kill()
        return results


def start_on_ranks(size: int, function: str, folder: Path, *arguments: Any) -> RankProcesses:
    """Start ``module:function(*arguments)`` in `size` processes.

    Args:
        folder: for what they print and return.
        arguments: anything that can be pickled.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    processes: list[BaseProcess] = []
    for rank in range(size):
        environment = {
            "RANK": str(rank),
            "LOCAL_RANK": str(rank),
            "WORLD_SIZE": str(size),
            "LOCAL_WORLD_SIZE": str(size),
            "MASTER_ADDR": "127.0.0.1",
            "MASTER_PORT": str(port),
        }
        process = _CONTEXT.Process(target=_run, args=(environment, function, arguments, folder, rank))
        process.start()
        processes.append(process)
    return RankProcesses(processes, folder)


def run_on_ranks(size: int, function: str, folder: Path, *arguments: Any) -> list[Any]:
    """What ``module:function(*arguments)`` returns in each process; fails if one of them does."""
    results = start_on_ranks(size, function, folder, *arguments).wait()
    for rank, result in enumerate(results):
        assert result.exit_code == 0, f"rank {rank} ended with {result.exit_code}:\n{result.printed}"
    return [result.returned for result in results]


def _run(environment: dict[str, str], function: str, arguments: tuple[Any, ...], folder: Path, rank: int) -> None:
    os.environ.update(environment)
    with open(folder / f"printed_{rank}", "w") as printed:
        os.dup2(printed.fileno(), 1)
        os.dup2(printed.fileno(), 2)
    import torch

    from framework.distributed import leave, ranks

    torch.set_num_threads(1)
    module, _, name = function.partition(":")
    try:
        ranks()
        returned = getattr(importlib.import_module(module), name)(*arguments)
        (folder / f"returned_{rank}").write_bytes(pickle.dumps(returned))
        leave()
    except Exception:
        traceback.print_exc()
        sys.stderr.flush()
        os._exit(1)
