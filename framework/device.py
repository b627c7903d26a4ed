"""Where a training runs, and what ``"auto"`` means there."""

from __future__ import annotations

import os
import platform
from collections.abc import Iterator
from dataclasses import dataclass, fields, is_dataclass
from typing import Any

import torch

from framework.allocator import keep_freed_memory
from framework.distributed import ranks
from framework.errors import FoldwiseError
from framework.training_settings import TrainingSettings


def choose_device(name: str | torch.device) -> torch.device:
    """``auto`` is the GPU if there is one, else the CPU; other names are checked against the machine.

    Of several processes on one machine each gets a GPU of its own.
    """
    if isinstance(name, torch.device):
        return name
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    kind = name.split(":")[0]
    if kind not in ("cpu", "cuda", "mps"):
        raise FoldwiseError(f"-device {name}: not known. Use cpu, cuda (or cuda:1), or mps.")
    if kind == "cuda" and not torch.cuda.is_available():
        raise FoldwiseError(
            f"-device {name}: torch sees no CUDA device here. Use -device cpu, or install a CUDA build of torch."
        )
    if kind == "mps" and not torch.backends.mps.is_available():
        raise FoldwiseError(f"-device {name}: torch sees no Apple GPU here. Use -device cpu.")
    if name == "cuda" and (together := ranks()).size > 1:
        if together.local_size > torch.cuda.device_count():
            raise FoldwiseError(
                f"{together.local_size} processes were started on this machine, which has {torch.cuda.device_count()} "
                "GPU(s). Start one process for each GPU: -num_gpus, or torchrun --nproc-per-node."
            )
        return torch.device("cuda", together.local_rank)
    return torch.device(name)


@dataclass(frozen=True)
class Execution:
    """How the network is run on one device; the settings of the plans with every ``"auto"`` decided."""

    precision: str
    compile: bool
    channels_last: bool
    tf32: bool
    num_workers: int
    deterministic: bool = False
    finish_on_device: bool = False
    """Workers only read and cut; the device does the rest, one batch ahead of the training."""

    def __str__(self) -> str:
        words = [self.precision]
        words += [name for name in ("compile", "channels_last", "tf32", "deterministic") if getattr(self, name)]
        return ", ".join([*words, f"{self.num_workers} data worker" + ("s" if self.num_workers != 1 else "")])


def execution_for(settings: TrainingSettings, device: torch.device) -> Execution:
    """Decide every ``"auto"``: fp16, compilation and TF32 on CUDA (nnU-Net's choices); channels-last on a CPU,
    where it measured 1.2 to 1.4 times as fast."""
    cuda = device.type == "cuda"
    if settings.num_workers == "auto":
        cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
        cores //= ranks().local_size
        # With a GPU the cores are free for data. On a CPU they are what trains, and a worker that takes one of
        # them away for a moment makes all threads of the training wait.
        workers = min(8, max(1, cores - 1)) if cuda else 0
    else:
        workers = settings.num_workers

    def decided(value: Any, automatic: Any) -> Any:
        return automatic if value == "auto" else value

    return Execution(
        precision=decided(settings.precision, "fp16" if cuda else "fp32"),
        compile=decided(settings.compile, cuda and platform.system() != "Windows"),
        channels_last=decided(settings.channels_last, device.type == "cpu"),
        tf32=decided(settings.tf32, cuda) and cuda,
        num_workers=workers,
        deterministic=settings.deterministic,
        finish_on_device=cuda,
    )


def prepare_libraries(device: torch.device, execution: Execution) -> None:
    """Set what torch and the C library have one setting of in a process."""
    if device.type == "cpu":
        keep_freed_memory()
    if device.type == "cuda":
        torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = execution.tf32
        # Trying out which algorithm is fastest may end otherwise in the next process.
        torch.backends.cudnn.benchmark = not execution.deterministic
    if execution.deterministic:
        # Read by cuBLAS when it is first used; without it its sums are those of whichever stream was free.
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
        # An operation of a user's network that has no deterministic form is told by torch, and does not end the run.
        torch.use_deterministic_algorithms(True, warn_only=True)


def to_device(value: Any, device: torch.device) -> Any:
    """Move every tensor in nested dicts, lists, tuples, and objects with a ``to`` method; leave the rest alone."""
    if isinstance(value, torch.Tensor):
        return value.to(device, non_blocking=True)
    if isinstance(value, dict):
        return {key: to_device(entry, device) for key, entry in value.items()}
    if isinstance(value, tuple) and hasattr(value, "_fields"):
        return type(value)(*(to_device(entry, device) for entry in value))
    if isinstance(value, (list, tuple)):
        return type(value)(to_device(entry, device) for entry in value)
    if hasattr(value, "to"):
        return value.to(device, non_blocking=True)
    return value


def tensors_in(value: Any) -> Iterator[torch.Tensor]:
    """Every tensor in nested dicts, lists, tuples and dataclasses."""
    if isinstance(value, torch.Tensor):
        yield value
    elif isinstance(value, dict):
        value = list(value.values())
    elif is_dataclass(value) and not isinstance(value, type):
        value = [getattr(value, field.name) for field in fields(value)]
    if isinstance(value, (list, tuple)):
        for entry in value:
            yield from tensors_in(entry)


def free_memory(device: torch.device) -> int | None:
    """Bytes that are free on a GPU; None where the device does not tell, or is a CPU."""
    return torch.cuda.mem_get_info(device)[0] if device.type == "cuda" else None


def memory_format_for(network: torch.nn.Module) -> torch.memory_format:
    """Channels-last for the number of spatial axes of the network's convolutions, or the plain format.

    For the network and for its input: `network.to(memory_format=...)`.
    """
    for module in network.modules():
        if isinstance(module, (torch.nn.Conv3d, torch.nn.Conv2d)):
            return torch.channels_last_3d if isinstance(module, torch.nn.Conv3d) else torch.channels_last
    return torch.contiguous_format
