"""Training steps with real batches against steps with one batch that stays on the GPU (seconds a step); needs CUDA.

A step is forward, loss, backward and update of nnU-Net's default network in half precision, not compiled, on patches of
128x128x128, batch 2, full recipe. It is timed over 50 steps between two synchronisations, so that it does not matter
where in a step the loop waits. What it takes with one batch, again and again, is what the GPU needs by itself; whatever
a step with real batches takes longer is time for which the GPU waits. Three ways to real batches are compared:

    workers read, the GPU finishes   4 workers read boxes into shared memory, a thread of the loader pins them; the
                                     thread of `DeviceBatches` copies them and applies all transforms in a stream of
                                     its own. The training's stream waits for its event; `record_stream` keeps the
                                     memory of a batch from being used again before the step is done with it
    cases held on the GPU            `training.store: device`: no workers, nothing is copied
    workers do everything            what a training on a CPU does; only the copy is left

Goal for the first: the GPU waits for less than 3% of the time. To try that it runs, on a CPU and with tiny patches,
where its times mean nothing: python -m benchmarks.device_path
"""

from __future__ import annotations

import dataclasses
import statistics
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.batches import WORKLOADS, our_batches
from benchmarks.runner import Result, interleave, report


@dataclass(frozen=True)
class Size:
    """Patches, the network's channels at each resolution, and how many steps are timed."""

    patch_size: tuple[int, int, int]
    widths: tuple[int, ...]
    steps: int
    workers: int


LARGE = Size((128, 128, 128), (32, 64, 128, 256, 320, 320), 50, 4)
SMALL = Size((32, 32, 32), (4, 8), 5, 1)


def run(repeat: int) -> Result:
    import torch

    if not torch.cuda.is_available():
        print("device_path needs a CUDA device; torch sees none here. Nothing was measured.")
        sys.exit(0)
    return measure(repeat, torch.device("cuda"), LARGE)


def measure(repeat: int, device: Any, size: Size) -> Result:
    from framework.data.device_store import DeviceStore
    from framework.device import execution_for
    from framework.device_batches import batches_on_device
    from framework.training_settings import TrainingSettings

    execution = execution_for(TrainingSettings(num_workers=size.workers), device)
    execution = dataclasses.replace(execution, finish_on_device=True)
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary) / "cases"
        workload = dataclasses.replace(WORKLOADS["ct"], patch_size=size.patch_size)
        workload.make(folder)
        maker = our_batches(folder, workload, validation=False)
        held = DeviceStore(maker.store, device)
        held.prepare()
        sources = {
            "workers read, the GPU finishes": batches_on_device(maker, device, execution),
            "cases held on the GPU": batches_on_device(dataclasses.replace(maker, store=held), device, execution),
            "workers do everything": batches_on_device(
                maker, device, dataclasses.replace(execution, finish_on_device=False)
            ),
        }
        step = _training_step(device, size.widths, workload.labels + 1)
        fixed = next(sources["cases held on the GPU"])
        first, *others = sources
        measured = interleave(
            repeat,
            lambda: _seconds(step, lambda: next(sources[first]), size.steps),
            lambda: _seconds(step, lambda: fixed, size.steps),
        )
        alone = statistics.median(measured[1])
        waits = {first: statistics.median(measured[0])}
        waits |= {name: _seconds(step, lambda name=name: next(sources[name]), size.steps) for name in others}
        for source in sources.values():
            source.close()
    notes = [
        f"{name}: {took:.4f} s a step, of which the GPU waits {max(0.0, 1 - alone / took):.1%}"
        for name, took in waits.items()
    ]
    return Result("s", *measured, labels=(first, "one batch, again and again"), notes=notes)


def _training_step(device: Any, widths: tuple[int, ...], num_heads: int) -> Any:
    import torch
    from torch import nn

    from framework.networks.unet import PlainConvUNet

    torch.backends.cudnn.benchmark = True
    stages = len(widths)
    network = PlainConvUNet(
        1, stages, list(widths), nn.Conv3d, 3, [1] + [2] * (stages - 1), [2] * stages, num_heads, [2] * (stages - 1),
        conv_bias=True, norm_op=nn.InstanceNorm3d, norm_op_kwargs={"affine": True}, nonlin=nn.LeakyReLU,
    ).to(device)  # fmt: skip
    optimizer = torch.optim.SGD(network.parameters(), lr=1e-3)
    half = torch.float16 if device.type == "cuda" else torch.bfloat16

    def step(batch: Any) -> None:
        with torch.autocast(device.type, half):
            logits = network(batch.data)
            loss = nn.functional.cross_entropy(logits, batch.target[:, 0].long())
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()

    return step


def _seconds(step: Any, next_batch: Any, steps: int) -> float:
    """Seconds a step, after some to warm up."""
    for _ in range(max(1, steps // 5)):
        step(next_batch())
    _wait_for_device()
    started = time.perf_counter()
    for _ in range(steps):
        step(next_batch())
    _wait_for_device()
    return (time.perf_counter() - started) / steps


def _wait_for_device() -> None:
    import torch

    if torch.cuda.is_initialized():
        torch.cuda.synchronize()


if __name__ == "__main__":
    import torch

    report("device_path", measure(1, torch.device("cpu"), SMALL))
