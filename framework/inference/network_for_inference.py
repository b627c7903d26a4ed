"""The fastest form of a network that only predicts."""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import nn

from framework.device import memory_format_for
from framework.inference.out_of_memory import ran_out_of_memory
from framework.networks.inference_convolution import DirectConv2d, DirectConv3d

_DIRECT: dict[type[nn.Module], type[nn.Module]] = {nn.Conv2d: DirectConv2d, nn.Conv3d: DirectConv3d}


def prepared_for_inference(
    network: nn.Module, device: torch.device | str = "cpu", *, compile: bool = False
) -> nn.Module:
    """A copy of the network that predicts on this device, in evaluation mode; its results differ by rounding only.

    A network that cannot be copied is returned as it is, on the device.

    Channels-last on a CPU, and every convolution of any network by the routine that is fastest for one view and
    for several. What else is done for speed, the blocks of our U-Nets do themselves under `torch.inference_mode`.

    Args:
        network: of any class; left as it is. A wrapper of `torch.compile` or of distributed training is taken off.
            Later updates of its weights do not reach the copy.
        compile: compile the copy. It takes a minute before the first tile, so it pays for many large scans only.
    """
    device = torch.device(device)
    network = _unwrapped(network)
    try:
        prepared: Any = copy.deepcopy(network).to(device).eval()
    except (RuntimeError, TypeError, NotImplementedError) as error:
        # Such as one that keeps a tensor of its last forward pass, for attention maps.
        if ran_out_of_memory(error):
            raise
        return network.to(device)
    if device.type == "cpu":
        prepared = prepared.to(memory_format=memory_format_for(prepared))
        for module in prepared.modules():
            # A kernel of one voxel is a matrix product either way.
            if type(module) in _DIRECT and any(size > 1 for size in module.kernel_size):
                module.__class__ = _DIRECT[type(module)]
    elif device.type == "cuda":
        torch.backends.cudnn.benchmark = True  # all tiles have one size
    if compile:
        prepared.compile()
    assert isinstance(prepared, nn.Module)
    return prepared


def _unwrapped(network: nn.Module) -> nn.Module:
    while True:
        inner = getattr(network, "_orig_mod", None)
        if inner is None and isinstance(network, (nn.DataParallel, nn.parallel.DistributedDataParallel)):
            inner = network.module
        if not isinstance(inner, nn.Module):
            return network
        network = inner
