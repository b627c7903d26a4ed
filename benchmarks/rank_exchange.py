"""What it costs two processes to agree before each step, against the step itself (seconds; gloo, one core each)."""

from __future__ import annotations

import multiprocessing
import os
import socket
import statistics
import time
from typing import Any

from benchmarks.runner import Result

_EXCHANGES = 2000
_STEPS = 10


def run(repeat: int) -> Result:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    context = multiprocessing.get_context("spawn")
    results = context.Queue()
    processes = [context.Process(target=_train, args=(rank, port, repeat, results)) for rank in range(2)]
    for process in processes:
        process.start()
    exchanges, steps = results.get()
    for process in processes:
        process.join()
    share = statistics.median(exchanges) / statistics.median(steps)
    return Result(
        "s",
        exchanges,
        steps,
        labels=("agreeing", "a step"),
        notes=[f"{100 * share:.2f} % of a step of {statistics.median(steps):.3f} s (a U-Net of the laptop plans)"],
    )


def _train(rank: int, port: int, repeat: int, results: Any) -> None:
    os.environ |= {"RANK": str(rank), "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    import torch

    from benchmarks.reliability_overhead import Stopwatch, UNetTrainer
    from framework.distributed import leave, ranks
    from framework.training_settings import TrainingSettings

    torch.set_num_threads(1)
    exchanges, steps = [], []
    for _ in range(repeat):
        ranks().wait_for_all()
        started = time.perf_counter()
        for _ in range(_EXCHANGES):
            ranks().agree(False, False, False, False, False)
        exchanges.append((time.perf_counter() - started) / _EXCHANGES)
        watch = Stopwatch()
        numbers: dict[str, Any] = {"num_epochs": 2, "iterations_per_epoch": _STEPS, "num_workers": 0}
        settings = TrainingSettings(validation_iterations_per_epoch=0, **numbers)
        trainer = UNetTrainer(settings, device="cpu", hooks=[watch])
        trainer.report = lambda message: None
        trainer.run_training()
        steps.append(statistics.mean(watch.steps))
    if rank == 0:
        results.put((exchanges, steps))
    leave()
