"""Training steps with real batches against steps with one batch that stays on the GPU (seconds a step); needs CUDA."""

from __future__ import annotations

import dataclasses
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from benchmarks.batches import WORKLOADS, our_batches
from benchmarks.runner import Result, interleave

STEPS = 50


def run(repeat: int) -> Result:
    import torch

    if not torch.cuda.is_available():
        print("device_path needs a CUDA device; torch sees none here. Nothing was measured.")
        sys.exit(0)
    from framework.data.device_store import DeviceStore
    from framework.device import execution_for
    from framework.device_batches import batches_on_device
    from framework.training_settings import TrainingSettings

    device = torch.device("cuda")
    execution = execution_for(TrainingSettings(), device)
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary) / "cases"
        workload = WORKLOADS["ct"]
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
        step = _training_step(workload.labels + 1)
        fixed = next(sources["cases held on the GPU"])
        first, *others = sources
        measured = interleave(
            repeat, lambda: _seconds(step, lambda: next(sources[first])), lambda: _seconds(step, lambda: fixed)
        )
        alone = statistics.median(measured[1])
        waits = {first: statistics.median(measured[0])}
        waits |= {name: _seconds(step, lambda name=name: next(sources[name])) for name in others}
        for source in sources.values():
            source.close()
    notes = [
        f"{name}: {took:.4f} s a step, of which the GPU waits {1 - alone / took:.1%}" for name, took in waits.items()
    ]
    return Result("s", *measured, labels=(first, "one batch, again and again"), notes=notes)


def _training_step(num_heads: int) -> Any:
    """Forward, loss, backward and update of nnU-Net's default network in half precision."""
    import torch
    from torch import nn

    from framework.networks.unet import PlainConvUNet

    torch.backends.cudnn.benchmark = True
    widths = [32, 64, 128, 256, 320, 320]
    network = PlainConvUNet(
        1, 6, widths, nn.Conv3d, 3, [1, 2, 2, 2, 2, [1, 2, 2]], [2] * 6, num_heads, [2] * 5, conv_bias=True,
        norm_op=nn.InstanceNorm3d, norm_op_kwargs={"affine": True}, nonlin=nn.LeakyReLU,
    ).cuda()  # fmt: skip
    optimizer = torch.optim.SGD(network.parameters(), lr=1e-3)

    def step(batch: Any) -> None:
        with torch.autocast("cuda", torch.float16):
            logits = network(batch.data)
            loss = nn.functional.cross_entropy(logits, batch.target[:, 0].long())
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()

    return step


def _seconds(step: Any, next_batch: Any) -> float:
    """Seconds a step, after some to warm up."""
    import torch

    for _ in range(STEPS // 5):
        step(next_batch())
    torch.cuda.synchronize()
    started = time.perf_counter()
    for _ in range(STEPS):
        step(next_batch())
    torch.cuda.synchronize()
    return (time.perf_counter() - started) / STEPS
