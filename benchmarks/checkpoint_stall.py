"""How long a training waits for a checkpoint: written beside it, against written within it (seconds a save)."""

from __future__ import annotations

import tempfile
import time
from pathlib import Path
from typing import Any

from benchmarks.runner import Result, interleave

_SECONDS_OF_TRAINING = 3.0
_WEIGHTS = 30_000_000  # a default 3D network; SGD with momentum keeps as many numbers again


def run(repeat: int) -> Result:
    import torch

    from framework.checkpoint import save_checkpoint
    from framework.checkpoint_writer import CheckpointWriter

    weights = [torch.randn(_WEIGHTS // 60) for _ in range(60)]
    state: dict[str, Any] = {
        "network_weights": {str(index): weight for index, weight in enumerate(weights)},
        "optimizer_state": {"state": {index: weight.clone() for index, weight in enumerate(weights)}},
        "current_epoch": 1,
    }
    image, kernel = torch.randn(1, 16, 32, 32, 32), torch.randn(16, 16, 3, 3, 3)

    def steps_in(seconds: float) -> int:
        done, started = 0, time.perf_counter()
        while time.perf_counter() - started < seconds:
            torch.nn.functional.conv3d(image, kernel, padding=1)
            done += 1
        return done

    writer = CheckpointWriter()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "checkpoint.pth"
        lost_beside: list[float] = []

        def beside() -> float:
            usual = steps_in(_SECONDS_OF_TRAINING)
            started = time.perf_counter()
            writer.save(path, state)
            stall = time.perf_counter() - started
            # What the writing thread takes from the training counts as well.
            reached = steps_in(_SECONDS_OF_TRAINING)
            writer.wait()
            lost_beside.append(stall + _SECONDS_OF_TRAINING * max(0.0, 1 - reached / usual))
            return stall

        def within() -> float:
            started = time.perf_counter()
            save_checkpoint(path, state)
            return time.perf_counter() - started

        measured = interleave(repeat, beside, within)
    writer.close()
    size = 8 * _WEIGHTS / 1e6
    return Result(
        "s",
        *measured,
        labels=("beside the training", "within the training"),
        notes=[
            f"a checkpoint of {size:.0f} MB",
            f"with what the writing thread takes from the steps after it: {min(lost_beside):.2f} s",
        ],
    )
