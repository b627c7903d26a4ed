"""State dicts of nnU-Net's networks: the same tensors, some of them under several names.

nnU-Net registers each convolution and norm of a block twice (``...conv.weight`` and
``...all_modules.0.weight``) and the whole encoder a second time inside the decoder
(``decoder.encoder....``). Foldwise's modules have one name for each tensor, the first of these.
"""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor, nn

from framework.networks.blocks import ConvBlock
from framework.networks.unet import UNet

_ALIAS = ".all_modules."
_SECOND_ENCODER = "decoder.encoder."


def from_nnunet_state(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The state dict with one name for each tensor. Without aliases it comes back unchanged.

    A name is dropped only where the name that it repeats is present too, so the weights of a network
    that happens to use such names for something else stay complete.
    """
    return {name: tensor for name, tensor in state.items() if not _is_alias(name, state)}


def to_nnunet_state(state: Mapping[str, Tensor], network: nn.Module) -> dict[str, Tensor]:
    """The state dict with all of nnU-Net's names, so that its modules load it strictly.

    Args:
        state: `network.state_dict()`, or one with the same names.
        network: tells which names belong to convolution blocks. Networks other than our U-Nets have no
            aliases, and their state dict comes back unchanged.

    The tensors are shared, not copied; `torch.save` writes each of them once.
    """
    if not isinstance(network, UNet):
        return dict(state)
    # "encoder.stages.0.0.convs.0.norm." -> "encoder.stages.0.0.convs.0.all_modules.1."
    aliases = {
        f"{path}.{part}.": f"{path}{_ALIAS}{position}."
        for path, module in network.named_modules()
        if isinstance(module, ConvBlock)
        for position, (part, _) in enumerate(module.steps())
    }
    complete: dict[str, Tensor] = {}
    for name, tensor in state.items():
        prefix, leaf = name.rsplit(".", 1)
        names = [name]
        if f"{prefix}." in aliases:
            names.append(aliases[f"{prefix}."] + leaf)
        if name.startswith("encoder."):
            names += [f"decoder.{each}" for each in names]
        complete.update(dict.fromkeys(names, tensor))
    return complete


def _is_alias(name: str, state: Mapping[str, Tensor]) -> bool:
    if name.startswith(_SECOND_ENCODER) and name.removeprefix("decoder.") in state:
        return True
    block, found, _ = name.partition(_ALIAS)
    return bool(found) and f"{block}.conv.weight" in state
