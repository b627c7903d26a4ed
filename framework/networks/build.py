"""From the `architecture` block of a plans file to a network."""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import torch
from torch import nn

from framework.errors import FoldwiseError, PlansError, did_you_mean
from framework.extensions import find_class
from framework.named_code import names_a_file, why_not_run
from framework.networks.unet import PlainConvUNet, ResidualEncoderUNet
from framework.validation import shown

OWN_NETWORKS: dict[str, type[nn.Module]] = {
    network.__name__: network for network in (PlainConvUNet, ResidualEncoderUNet)
}
"""Networks of ours, under the names that nnU-Net's plans use. A dotted path in front of them is ignored
where it leads into nnU-Net's own package."""

_NNUNET_PACKAGE = "dynamic_network_architectures"
_INPUT_NAMES = ("input_channels", "in_channels")
_OUTPUT_NAMES = ("num_classes", "out_channels", "output_channels")


class ArchitectureLike(Protocol):
    """What `build_network` reads."""

    @property
    def network_class_name(self) -> str: ...
    @property
    def arch_kwargs(self) -> Mapping[str, Any]: ...
    @property
    def requires_import(self) -> Sequence[str]: ...


def build_network(
    architecture: ArchitectureLike,
    num_input_channels: int,
    num_output_channels: int,
    deep_supervision: bool = False,
) -> nn.Module:
    """The network that a configuration describes, with fresh weights.

    Args:
        architecture: class name, constructor arguments, and which of these name a class to import. The
            class is one of `OWN_NETWORKS`, or any `nn.Module` of an installed package, as "package.module.Class"
            or "package.module:Class", or of code that the user named, also as "file.py:Class" (see
            `framework.named_code`). Its constructor takes the number of channels as `input_channels` and
            `num_classes`, or as `in_channels` and `out_channels`.
        num_input_channels: C.
        num_output_channels: K, heads of the network.
        deep_supervision: ask for outputs at several resolutions, where the constructor has such an argument.

    Raises:
        PlansError: the class does not exist, is no network, or does not take these arguments.
    """
    name = architecture.network_class_name
    network_class = find_network_class(name)
    arguments = dict(architecture.arch_kwargs)
    for key in architecture.requires_import:
        if arguments.get(key) is not None:
            arguments[key] = _import_module_class(arguments[key], f"architecture.arch_kwargs.{key}")
    accepted, accepts_any = _accepted_arguments(network_class)
    for candidates, number in ((_INPUT_NAMES, num_input_channels), (_OUTPUT_NAMES, num_output_channels)):
        known = [candidate for candidate in candidates if candidate in accepted]
        if not known and not accepts_any:
            raise PlansError(
                f"architecture: the network '{name}' has no argument {' or '.join(candidates)}, so its "
                f"number of channels cannot be set. Its arguments: {', '.join(accepted)}. "
                "Wrap it in a class that has one."
            )
        arguments[(known or candidates)[0]] = number
    if "deep_supervision" in accepted:
        arguments["deep_supervision"] = deep_supervision
    else:
        arguments.pop("deep_supervision", None)
    unknown = [key for key in arguments if key not in accepted and not accepts_any]
    if unknown:
        hints = "".join(f" '{key}' is not one of them.{did_you_mean(key, accepted)}" for key in unknown)
        raise PlansError(f"architecture: the network '{name}' takes {', '.join(accepted)}.{hints}")
    if network_class in OWN_NETWORKS.values():
        if arguments.get("n_stages") == 1:
            raise PlansError(
                "architecture: a U-Net needs two stages at least, the plans have n_stages 1. Images with fewer than "
                "8 voxels along every axis leave nothing to pool."
            )
        _refuse_beyond_limits(arguments)
    try:
        if network_class in OWN_NETWORKS.values():
            _refuse_huge(network_class, arguments)
        network = network_class(**arguments)
    except PlansError:
        raise
    # What constructors, of ours and of others, object to numbers and types with.
    except (
        TypeError,
        ValueError,
        AssertionError,
        RuntimeError,
        AttributeError,
        LookupError,
        ArithmeticError,
        MemoryError,
    ) as error:
        raise PlansError(
            f"architecture: the network '{name}' could not be built: {error!s:.500}. Correct arch_kwargs in the "
            f"plans; its arguments are {', '.join(accepted)}."
        ) from error
    initialise = getattr(network, "initialize", None)
    if callable(initialise):  # nnU-Net's convention for networks that come with their own initialisation
        network.apply(initialise)
    return network


def find_network_class(name: str) -> type[nn.Module]:
    """One of our networks by nnU-Net's name, or any other `nn.Module` class that plans may name.

    Raises:
        PlansError: there is no such class, it is no `nn.Module`, or its code is not run (see `framework.named_code`).
    """
    package, short_name = name.replace(":", ".").split(".")[0], name.replace(":", ".").split(".")[-1]
    if package in (_NNUNET_PACKAGE, short_name):
        if short_name in OWN_NETWORKS:
            return OWN_NETWORKS[short_name]
        known = ", ".join(OWN_NETWORKS)
        raise PlansError(
            f"architecture: Foldwise has no network '{name}'.{did_you_mean(short_name, OWN_NETWORKS)} "
            f"Known by name: {known}. Any other torch.nn.Module is named in full, as package.module.Class."
        )
    return _import_module_class(name, "architecture.network_class_name")


def _import_module_class(path: Any, where: str) -> type[nn.Module]:
    """The `nn.Module` class at a dotted path. Nothing else can be named: plans must not call any function."""
    if isinstance(path, type) and issubclass(path, nn.Module):
        return path
    if isinstance(path, str) and names_a_file(path):
        try:
            return find_class(path, base=nn.Module, kind="network", table={}, named_by=where)
        except FoldwiseError as error:
            raise PlansError(str(error)) from error
    if not isinstance(path, str) or not all(part.isidentifier() for part in path.replace(":", ".").split(".")):
        raise PlansError(f"{where}: {path!r:.200} does not name a class. Write it as package.module.Class.")
    reason = why_not_run(path) if "." in path or ":" in path else None
    if reason is not None:
        raise PlansError(f"{where}: {reason}")
    module_name, _, class_name = path.replace(":", ".").rpartition(".")
    found = None
    if module_name:
        try:
            found = getattr(importlib.import_module(module_name), class_name, None)
        except ImportError as error:
            raise PlansError(
                f"{where}: '{path}' cannot be imported: {error}. Install its package, or correct the name."
            ) from error
    if found is None:
        raise PlansError(f"{where}: '{path}' does not exist. Write the full path of a class, as in torch.nn.LeakyReLU.")
    if not (isinstance(found, type) and issubclass(found, nn.Module)):
        raise PlansError(f"{where}: '{path}' is no torch.nn.Module class, so it cannot be part of a network.")
    return found


_LIMITS = {
    "n_stages": 30,
    "features_per_stage": 1 << 16,
    "stem_channels": 1 << 16,
    "kernel_sizes": 1000,
    "strides": 1000,
    "n_conv_per_stage": 100,
    "n_blocks_per_stage": 100,
    "n_conv_per_stage_decoder": 100,
}
"""Largest number in these arguments of our networks; far above anything that was ever trained."""
_LARGEST_WEIGHTS = 8 << 30
"""Bytes of one network; the largest plans of nnU-Net have half a GiB."""


def _refuse_beyond_limits(arguments: Mapping[str, Any]) -> None:
    for key, most in _LIMITS.items():
        numbers = arguments.get(key)
        for _ in range(2):  # one number, one for each stage, or one for each axis of each stage
            if isinstance(numbers, (list, tuple)):
                numbers = [n for each in numbers for n in (each if isinstance(each, (list, tuple)) else [each])]
        for number in numbers if isinstance(numbers, list) else [numbers]:
            right = type(number) is int and 1 <= number <= most
            if not right and not (number is None and key not in ("n_stages", "features_per_stage")):
                raise PlansError(
                    f"architecture: {key} is {shown(arguments.get(key))}, expected whole numbers from 1 to {most}. "
                    "Correct arch_kwargs in the plans."
                )


def _refuse_huge(network_class: type[nn.Module], arguments: Mapping[str, Any]) -> None:
    with torch.device("meta"):  # shapes only
        network = network_class(**arguments)
    size = sum(weight.numel() * weight.element_size() for weight in network.parameters())
    if size > _LARGEST_WEIGHTS:
        raise PlansError(
            f"architecture: the network would have {size >> 20} MiB of weights, at most {_LARGEST_WEIGHTS >> 20} are "
            "built. Correct arch_kwargs in the plans."
        )


def _accepted_arguments(network_class: type[nn.Module]) -> tuple[list[str], bool]:
    """Names of the constructor's arguments, and whether it takes any others as well."""
    parameters = inspect.signature(network_class).parameters.values()
    names = [each.name for each in parameters if each.kind in (each.POSITIONAL_OR_KEYWORD, each.KEYWORD_ONLY)]
    return names, any(each.kind is each.VAR_KEYWORD for each in parameters)
