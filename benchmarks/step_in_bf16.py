"""A training step of the laptop plans in bf16 against float32, on the processor at hand (seconds a step)."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable

import torch

from benchmarks.reliability_overhead import UNetTrainer
from benchmarks.runner import Result, interleave
from framework.training_settings import TrainingSettings

_STEPS = 10


def run(repeat: int) -> Result:
    abilities = getattr(torch.cpu, "get_capabilities", dict)()
    found = [name for name in ("avx512_bf16", "amx_bf16") if abilities.get(name)]
    return Result(
        "s",
        *interleave(repeat, step_in("bf16"), step_in("fp32")),
        labels=("bf16", "float32"),
        notes=[f"{torch.get_num_threads()} threads; the processor has {' and '.join(found) or 'no bf16 instructions'}"],
    )


def step_in(precision: str) -> Callable[[], float]:
    """Median seconds of some steps of one and the same training."""
    settings = TrainingSettings(precision=precision, num_workers=0, validation_iterations_per_epoch=0)
    trainer = UNetTrainer(settings, device="cpu")
    trainer.setup()
    batch = trainer.build_batches()[0](0)

    def measure() -> float:
        seconds = []
        for _ in range(_STEPS):
            started = time.perf_counter()
            trainer.train_step(batch)
            seconds.append(time.perf_counter() - started)
        return statistics.median(seconds)

    measure()  # the first steps set up memory and routines
    return measure
