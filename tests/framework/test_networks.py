"""Networks: nnU-Net's numbers and names, and what users may do with them.

The golden values come from nnU-Net's own networks (dynamic_network_architectures 0.4.4) filled by `fill`:
for every output its mean, its standard deviation and one voxel.
"""

from __future__ import annotations

import copy
import hashlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from framework.allocator import keep_freed_memory
from framework.device import memory_format_for
from framework.errors import PlansError
from framework.networks import (
    PlainConvUNet,
    ResidualEncoderUNet,
    build_network,
    from_nnunet_state,
    to_nnunet_state,
)
from framework.networks.instance_norm import can_join, instance_norm_activation
from framework.networks.outputs import single_output
from framework.plans import Architecture

GOLDEN: dict[str, list[tuple[float, float, float]]] = {}  # filled below


def arguments(name: str) -> dict[str, Any]:
    """Constructor arguments with anisotropic strides and kernels, as they stand in plans."""
    axes = 3 if "3d" in name else 2
    kernels = [[1, 3, 3], [3, 3, 3], [3, 3, 3], [3, 3, 3]] if axes == 3 else [[3, 3]] * 4
    strides = [[1, 1, 1], [1, 2, 2], [2, 2, 2], [2, 1, 2]] if axes == 3 else [[1, 1], [2, 2], [2, 2], [1, 2]]
    found: dict[str, Any] = {
        "n_stages": 4,
        "features_per_stage": [6, 8, 12, 12],
        "conv_op": f"torch.nn.modules.conv.Conv{axes}d",
        "kernel_sizes": kernels,
        "strides": strides,
        "n_conv_per_stage_decoder": [1, 2, 1],
        "conv_bias": True,
        "norm_op": f"torch.nn.modules.instancenorm.InstanceNorm{axes}d",
        "norm_op_kwargs": {"eps": 1e-5, "affine": True},
        "dropout_op": None,
        "dropout_op_kwargs": None,
        "nonlin": "torch.nn.LeakyReLU",
        "nonlin_kwargs": {"inplace": True},
    }
    if name.startswith("plain"):
        found["n_conv_per_stage"] = [2, 1, 2, 2]
    else:
        found["n_blocks_per_stage"] = [1, 2, 2, 1]
    if name == "residual2d":
        found["stem_channels"] = 5
    if name == "plain3d_other_blocks":
        found |= {
            "nonlin_first": True,
            "dropout_op": "torch.nn.Dropout3d",
            "dropout_op_kwargs": {"p": 0.1},
        }
    if name == "plain2d_batch_norm":
        found["norm_op"] = "torch.nn.BatchNorm2d"
    return found


def architecture(name: str, **changes: Any) -> Architecture:
    class_name = "PlainConvUNet" if name.startswith("plain") else "ResidualEncoderUNet"
    return Architecture(
        network_class_name=f"dynamic_network_architectures.architectures.unet.{class_name}",
        arch_kwargs=arguments(name) | changes,
        requires_import=("conv_op", "norm_op", "dropout_op", "nonlin"),
    )


def build(name: str, deep_supervision: bool | None = None) -> nn.Module:
    deep = "3d" in name if deep_supervision is None else deep_supervision
    return fill(build_network(architecture(name), 2, 3, deep)).eval()


def fill(network: nn.Module) -> nn.Module:
    """Weights that depend on the names of the parameters only."""
    for name, parameter in network.named_parameters():
        seed = int(hashlib.sha256(name.encode()).hexdigest()[:8], 16)
        noise = torch.randn(parameter.shape, generator=torch.Generator().manual_seed(seed))
        with torch.no_grad():
            if parameter.ndim > 1:
                parameter.copy_(noise / parameter[0].numel() ** 0.5)
            else:
                parameter.copy_(noise * 0.2 + (1 if name.endswith("norm.weight") else 0))
    return network


def some_input(name: str) -> Tensor:
    shape = (2, 2, 8, 16, 24) if "3d" in name else (2, 2, 16, 24)
    return torch.randn(shape, generator=torch.Generator().manual_seed(5))


def fingerprint(output: Tensor) -> tuple[float, float, float]:
    voxel = output[(1, 2) + (1,) * (output.ndim - 2)]
    return output.mean().item(), output.std().item(), voxel.item()


GOLDEN.update(
    {
        "plain3d": [
            (-0.2878997, 0.8799307, 0.3164232),
            (-0.1096237, 0.5416364, -0.3391043),
            (0.0193684, 0.586518, 1.0618426),
        ],
        "plain2d": [(-0.2859023, 0.876395, 0.0315356)],
        "residual3d": [
            (-0.2888509, 0.8609589, -0.3589147),
            (-0.1074507, 0.5424256, -0.0517378),
            (0.0240136, 0.5759995, 0.3234158),
        ],
        "residual2d": [(-0.2911155, 0.8513343, 0.2323077)],
        "plain3d_other_blocks": [
            (-0.0850315, 1.3663037, -0.0838566),
            (-0.0130026, 0.9703637, 0.1946058),
            (-0.1202228, 1.0719365, -0.4465472),
        ],
        "plain2d_batch_norm": [(-0.2846791, 0.1795848, -0.2257413)],
    }
)


@pytest.mark.parametrize("layout", ["plain", "channels_last"])
@pytest.mark.parametrize("name", GOLDEN)
def test_same_weights_give_the_logits_of_nnunet(name: str, layout: str) -> None:
    network, data = build(name), some_input(name)
    if layout == "channels_last":
        network = network.to(memory_format=memory_format_for(network))
        data = data.to(memory_format=memory_format_for(network))
    with torch.no_grad():
        outputs = network(data)
    outputs = outputs if isinstance(outputs, list) else [outputs]
    for output, golden in zip(outputs, GOLDEN[name], strict=True):
        assert fingerprint(output) == pytest.approx(golden, abs=1e-5)


def test_reference_checkpoint_of_nnunet_loads_strictly(shared_data: Path) -> None:
    folder = next((shared_data / "nnunet_reference" / "results").glob("*/*__3d_cpu"))
    from framework.plans import Plans

    configuration = Plans.from_file(folder / "plans.json").configuration("3d_cpu")
    network = build_network(configuration.architecture, 1, 3, True)
    scalar = np.float64(1).__reduce__()[0]
    allowed = [
        (scalar, "numpy.core.multiarray.scalar"),
        scalar,
        np.dtype,
        type(np.dtype("float64")),
        type(np.dtype("float32")),
    ]
    with torch.serialization.safe_globals(allowed):
        checkpoint = torch.load(folder / "fold_0" / "checkpoint_final.pth", weights_only=True)
    theirs = checkpoint["network_weights"]
    network.load_state_dict(from_nnunet_state(theirs))
    ours = to_nnunet_state(network.state_dict(), network)
    assert set(ours) == set(theirs)
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)


def test_aliases_are_emitted_for_blocks_and_for_the_second_encoder() -> None:
    network = build("plain3d_other_blocks")
    names = set(to_nnunet_state(network.state_dict(), network))
    # Dropout is number 1 and the nonlinearity number 2 in these blocks, so the norm is number 3.
    for prefix in ("encoder", "decoder.encoder"):
        assert f"{prefix}.stages.0.0.convs.1.norm.weight" in names
        assert f"{prefix}.stages.0.0.convs.1.all_modules.3.weight" in names
        assert f"{prefix}.stages.0.0.convs.1.all_modules.0.bias" in names
    assert "decoder.stages.2.convs.0.all_modules.0.weight" in names
    assert "decoder.transpconvs.2.weight" in names
    assert from_nnunet_state(to_nnunet_state(network.state_dict(), network)).keys() == network.state_dict().keys()


def test_names_that_only_look_like_aliases_are_kept() -> None:
    state = {"decoder.encoder.weight": torch.ones(1), "block.all_modules.0.weight": torch.ones(1)}
    assert from_nnunet_state(state) == state
    other = nn.Linear(2, 2)
    assert to_nnunet_state(other.state_dict(), other).keys() == other.state_dict().keys()


def test_deep_supervision_can_be_switched_and_limited_at_run_time() -> None:
    network, data = build("plain3d"), some_input("plain3d")
    with torch.no_grad():
        every = network(data)
        network.decoder.num_outputs = 2
        two = network(data)
        network.decoder.deep_supervision = False
        one = network(data)
    assert [tuple(output.shape[2:]) for output in every] == [(8, 16, 24), (8, 8, 12), (4, 4, 6)]
    assert len(two) == 2
    assert torch.equal(two[1], every[1])
    assert torch.equal(one, every[0])


def test_single_output_restores_deep_supervision() -> None:
    network, data = build("plain2d", deep_supervision=True), some_input("plain2d")
    with torch.no_grad(), single_output(network):
        assert isinstance(network(data), Tensor)
    assert isinstance(network(data), list)


def test_a_stage_can_be_replaced_by_a_module_of_the_user() -> None:
    network = build("plain3d")
    network.encoder.stages[0] = nn.Conv3d(2, network.encoder.widths[0], 7, padding=3)
    assert network(some_input("plain3d"))[0].shape == (2, 3, 8, 16, 24)


def test_weights_start_as_in_nnunet() -> None:
    torch.manual_seed(0)
    network = build_network(architecture("residual3d", features_per_stage=[32, 64, 64, 64]), 1, 3, True)
    convolution = network.encoder.stages[1].blocks[0].conv1.conv
    fan_in = 32 * 27
    assert convolution.weight.std().item() == pytest.approx((2 / (1 + 0.01**2) / fan_in) ** 0.5, rel=0.02)
    assert not convolution.bias.any()
    last_norm = network.encoder.stages[1].blocks[0].conv2.norm
    assert not last_norm.weight.any()
    assert not last_norm.bias.any()
    assert network.encoder.stages[1].blocks[0].conv1.norm.weight.all()


@pytest.mark.parametrize("slope", [None, 0.01])
@pytest.mark.parametrize("axes", [2, 3])
@pytest.mark.parametrize("channels_last", [False, True])
def test_joined_norm_and_activation_equal_the_two_modules(slope: float | None, axes: int, channels_last: bool) -> None:
    torch.manual_seed(1)
    norm = {2: nn.InstanceNorm2d, 3: nn.InstanceNorm3d}[axes](6, affine=True)
    nn.init.normal_(norm.weight)
    nn.init.normal_(norm.bias)
    nonlin = None if slope is None else nn.LeakyReLU(slope, inplace=True)
    # A large mean would show if the variance were computed as a difference of large numbers.
    data = torch.randn(3, 6, *[7, 5, 4][:axes]) * 3 + 100
    if channels_last:
        data = data.to(memory_format=torch.channels_last if axes == 2 else torch.channels_last_3d)
    gradient = torch.randn(data.shape)
    assert can_join(norm, nonlin, data)
    data.requires_grad_()
    output = instance_norm_activation(data, norm, nonlin)
    output.backward(gradient)

    exact_norm, exact_data = copy.deepcopy(norm).double(), data.detach().double().requires_grad_()
    exact_norm.zero_grad()
    exact = exact_norm(exact_data) if slope is None else nn.functional.leaky_relu(exact_norm(exact_data), slope)
    exact.backward(gradient.double())
    assert torch.allclose(output.double(), exact, atol=2e-5)
    assert torch.allclose(data.grad.double(), exact_data.grad, atol=1e-5)
    assert torch.allclose(norm.weight.grad.double(), exact_norm.weight.grad, atol=2e-3)
    assert torch.allclose(norm.bias.grad.double(), exact_norm.bias.grad, atol=1e-4)


def test_gradients_do_not_depend_on_the_memory_layout() -> None:
    gradients = []
    for layout in (torch.contiguous_format, torch.channels_last_3d):
        network = build("residual3d").to(memory_format=layout)
        outputs = network(some_input("residual3d").to(memory_format=layout))
        sum(output.square().mean() for output in outputs).backward()
        gradients.append({name: parameter.grad for name, parameter in network.named_parameters()})
    for name, plain in gradients[0].items():
        assert torch.allclose(plain, gradients[1][name], rtol=1e-3, atol=1e-4), name


def test_hooks_on_a_norm_are_called() -> None:
    network, called = build("plain2d"), []
    network.encoder.stages[0][0].convs[0].norm.register_forward_hook(lambda *_: called.append(True))
    network(some_input("plain2d"))
    assert called


class MonaiLike(nn.Module):
    """A network with MONAI's argument names and without deep supervision."""

    def __init__(self, spatial_dims: int, in_channels: int, out_channels: int, act: type[nn.Module] = nn.ReLU) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Conv3d(in_channels, out_channels, spatial_dims, padding=1), act())

    def forward(self, x: Tensor) -> Tensor:
        return self.layers(x)


@pytest.mark.parametrize("separator", [".", ":"])
def test_any_module_on_the_path_can_be_named(separator: str) -> None:
    mine = Architecture(f"{__name__}{separator}MonaiLike", {"spatial_dims": 3, "act": "torch.nn.LeakyReLU"}, ("act",))
    network = build_network(mine, 2, 4, deep_supervision=True)
    assert isinstance(network.layers[1], nn.LeakyReLU)
    assert network(torch.zeros(1, 2, 4, 4, 4)).shape == (1, 4, 4, 4, 4)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (Architecture("os.system", {}, ()), "no torch.nn.Module"),
        (Architecture("PlainConvUnet", {}, ()), "Did you mean 'PlainConvUNet'"),
        (Architecture("nowhere.at_all.Net", {}, ()), "is not installed"),
        (Architecture("torch.nn.Nothing", {}, ()), "does not exist"),
        (Architecture("torch.nn.ReLU", {}, ()), "number of channels cannot be set"),
        (architecture("plain3d", n_convs_per_stage=[2]), "Did you mean 'n_conv_per_stage'"),
        (architecture("plain3d", strides=[[1, 1, 1]]), "strides has 1 entries"),
        (architecture("plain3d", nonlin="os.system"), "no torch.nn.Module"),
        (architecture("plain3d", conv_op="torch.nn.Linear"), "conv_op"),
        (architecture("plain3d", norm_op_kwargs={"epsilon": 1}), "could not be built"),
    ],
)
def test_wrong_architectures_are_refused_with_a_reason(wrong: Architecture, message: str) -> None:
    with pytest.raises(PlansError, match=message):
        build_network(wrong, 1, 2)


def test_plain_names_stand_for_our_networks() -> None:
    named = architecture("residual2d")
    short = Architecture("ResidualEncoderUNet", named.arch_kwargs, named.requires_import)
    stale = Architecture(
        "dynamic_network_architectures.architectures.residual_unet.ResidualEncoderUNet",
        named.arch_kwargs,
        named.requires_import,
    )
    assert isinstance(build_network(short, 1, 2), ResidualEncoderUNet)
    assert isinstance(build_network(stale, 1, 2), ResidualEncoderUNet)
    assert not isinstance(build_network(stale, 1, 2), PlainConvUNet)


def test_keeping_freed_memory_says_whether_it_took_effect() -> None:
    assert keep_freed_memory() in (True, False)
