"""A training step beside two other busy processes: our spin setting against OpenMP's default (seconds a step)."""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import time

from benchmarks.runner import Result, interleave

STEPS = 6


def step_seconds() -> float:
    """Median seconds of a training step of the laptop network on 32x48x32 voxels, batch 2."""
    import torch
    from torch import nn

    from framework.allocator import keep_freed_memory
    from framework.networks.unet import PlainConvUNet

    keep_freed_memory()
    torch.manual_seed(0)
    widths = [8, 32, 64, 128]
    network = PlainConvUNet(
        1, 4, widths, nn.Conv3d, 3, [1, 2, 2, 2], [1, 2, 2, 2], 3, [2, 2, 1], conv_bias=True,
        norm_op=nn.InstanceNorm3d, norm_op_kwargs={"affine": True}, nonlin=nn.LeakyReLU,
    ).to(memory_format=torch.channels_last_3d)  # fmt: skip
    data = torch.randn(2, 1, 32, 48, 32).contiguous(memory_format=torch.channels_last_3d)
    seconds = []
    for _ in range(STEPS):
        started = time.perf_counter()
        network(data).square().mean().backward()
        seconds.append(time.perf_counter() - started)
    return statistics.median(seconds[1:])


def measure(spin_count: str | None) -> float:
    environment = {key: value for key, value in os.environ.items() if key != "GOMP_SPINCOUNT"}
    if spin_count is not None:
        environment["GOMP_SPINCOUNT"] = spin_count
    code = "from benchmarks.busy_machine import step_seconds; print(step_seconds())"
    result = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    return float(result.stdout)


def run(repeat: int) -> Result:
    quiet = interleave(repeat, lambda: measure("10000"), lambda: measure(None))
    busy = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(2)]
    try:
        measured = interleave(repeat, lambda: measure("10000"), lambda: measure(None))
    finally:
        for process in busy:
            process.kill()
    ours, default = (statistics.median(side) for side in quiet)
    note = f"on a quiet machine: {ours:.3f} s with it, {default:.3f} s without"
    return Result("s", *measured, labels=("GOMP_SPINCOUNT=10000", "default"), notes=[note])
