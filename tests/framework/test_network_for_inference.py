"""Networks that only predict: the same logits as in training, by shorter ways."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from framework.device import memory_format_for
from framework.inference.network_for_inference import prepared_for_inference
from framework.networks import inference_convolution
from framework.networks.inference_convolution import DirectConv3d, convolve, upsample
from framework.networks.instance_norm import instance_norm_activation_
from tests.framework.test_networks import GOLDEN, MonaiLike, build, some_input

CHANNELS_LAST = {2: torch.channels_last, 3: torch.channels_last_3d}


def slow_convolutions(network: nn.Module, data: Tensor) -> int:
    """How many convolutions take PyTorch's routine for single images."""
    with torch.profiler.profile() as profile, torch.inference_mode():
        network(data)
    return sum(event.name == "aten::slow_conv3d_forward" for event in profile.events())


@pytest.mark.parametrize("views", [1, 2])
@pytest.mark.parametrize("layout", ["plain", "channels_last"])
@pytest.mark.parametrize("name", GOLDEN)
def test_logits_are_those_of_the_plain_modules_in_double_precision(name: str, layout: str, views: int) -> None:
    network, data = build(name), some_input(name)[:views]
    with torch.no_grad():
        expected = copy.deepcopy(network).double()(data.double())
    if layout == "channels_last":
        network = network.to(memory_format=memory_format_for(network))
    before = data.clone()
    with torch.inference_mode():
        found = network(data)
    assert torch.equal(data, before)
    found, expected = (each if isinstance(each, list) else [each] for each in (found, expected))
    for one, other in zip(found, expected, strict=True):
        assert torch.allclose(one.double(), other, atol=2e-5)


@pytest.mark.parametrize("lanes", [0, 16])
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize(
    ("channels", "width", "kernel", "stride", "size"),
    [
        (1, 8, (3, 3, 3), (1, 1, 1), (5, 6, 8)),
        (3, 8, (3, 3, 3), (1, 1, 1), (5, 6, 8)),
        (8, 5, (1, 3, 5), (1, 2, 1), (5, 6, 8)),
        (8, 8, (3, 3, 3), (1, 1, 1), (5, 6, 7)),  # odd: no pairs
        (8, 8, (3, 3, 3), (2, 2, 2), (6, 6, 8)),
        (4, 20, (3, 3, 3), (1, 1, 1), (5, 6, 8)),
        (1, 8, (3, 3, 3), (1, 1, 1), (12, 7, 2)),  # one pair
        (1, 8, (3, 3), (1, 1), (8, 2)),
        (8, 8, (3, 3, 3), (1, 1, 1), (12, 7, 2)),
        (2, 8, (3, 3), (1, 1), (6, 8)),
        (2, 1, (3, 1), (1, 1), (6, 8)),
    ],
)
@pytest.mark.parametrize("views", [1, 3])
def test_convolutions_equal_those_in_double_precision(
    channels: int,
    width: int,
    kernel: tuple[int, ...],
    stride: tuple[int, ...],
    size: tuple[int, ...],
    bias: bool,
    lanes: int,
    views: int,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # With narrow registers nothing is paired; with wide ones every case above that can be, on any machine.
    capability = torch.backends.cpu.get_cpu_capability()
    monkeypatch.setattr(inference_convolution, "_LANES", {capability: lanes})
    torch.manual_seed(3)
    kind: Any = {2: nn.Conv2d, 3: nn.Conv3d}[len(size)]
    layer = kind(channels, width, kernel, stride, [length // 2 for length in kernel], bias=bias)
    layer = layer.to(memory_format=CHANNELS_LAST[len(size)])
    data = torch.randn(views, channels, *size).to(memory_format=CHANNELS_LAST[len(size)])
    with torch.no_grad():
        expected = copy.deepcopy(layer).double()(data.double())
    with torch.inference_mode():
        found = convolve(layer, data)
    assert found.shape == expected.shape
    assert found.is_contiguous(memory_format=CHANNELS_LAST[len(size)])
    assert torch.allclose(found.double(), expected, atol=1e-5)


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("stride", [(2, 2, 2), (1, 2, 2), (2, 1, 3), (2, 2), (1, 2)])
def test_upsampling_equals_the_transposed_convolution(stride: tuple[int, ...], bias: bool) -> None:
    torch.manual_seed(4)
    kind: Any = {2: nn.ConvTranspose2d, 3: nn.ConvTranspose3d}[len(stride)]
    layer = kind(6, 5, stride, stride, bias=bias)
    data = torch.randn(2, 6, *(3, 4, 5)[: len(stride)]).to(memory_format=CHANNELS_LAST[len(stride)])
    with torch.no_grad():
        expected = copy.deepcopy(layer).double()(data.double())
    with torch.inference_mode():
        assert torch.allclose(upsample(layer, data).double(), expected, atol=1e-5)


@pytest.mark.parametrize("channels_last", [True, False])
def test_normalisation_in_blocks_equals_that_of_the_whole(channels_last: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("framework.networks.instance_norm._NUMBERS_IN_A_BLOCK", 200)
    norm, nonlin = nn.InstanceNorm3d(6, affine=True), nn.LeakyReLU(0.01)
    nn.init.normal_(norm.weight)
    nn.init.normal_(norm.bias)
    # A large mean would show if the variance were computed as a difference of large numbers.
    data = torch.randn(2, 6, 7, 5, 4) * 3 + 100
    data = data.to(memory_format=torch.channels_last_3d) if channels_last else data
    with torch.no_grad():
        expected = nonlin(copy.deepcopy(norm).double()(data.double()))
    place = data.data_ptr()
    with torch.inference_mode():
        found = instance_norm_activation_(data, norm, nonlin)
    assert torch.allclose(found.double(), expected, atol=2e-5)
    assert found.data_ptr() == place


def test_single_images_do_not_take_the_slow_routine() -> None:
    network = prepared_for_inference(build("plain3d", deep_supervision=False))
    data = some_input("plain3d")[:1]
    assert slow_convolutions(network, data) == 0
    mine = MonaiLike(3, 2, 3)
    assert slow_convolutions(mine, data) == 1  # what would happen without preparation
    assert slow_convolutions(prepared_for_inference(mine), data) == 0


def test_the_network_that_is_prepared_stays_as_it_is() -> None:
    network = build("plain3d").train()
    state = {name: (tensor.clone(), tensor.stride()) for name, tensor in network.state_dict().items()}
    prepared = prepared_for_inference(network)
    assert network.training
    assert not prepared.training
    assert {type(module) for module in network.modules()}.isdisjoint({DirectConv3d})
    assert all(network.state_dict()[name].stride() == stride for name, (_, stride) in state.items())
    assert list(prepared.state_dict()) == list(state)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.zero_()
    assert all(torch.equal(prepared.state_dict()[name], tensor) for name, (tensor, _) in state.items())


def test_wrappers_of_the_compiler_are_taken_off() -> None:
    network = MonaiLike(3, 2, 3)
    compiled = torch.compile(network, backend="eager")
    assert type(prepared_for_inference(compiled)) is MonaiLike
    network.compile(backend="eager")
    assert prepared_for_inference(network)._compiled_call_impl is None


def test_a_network_that_cannot_be_copied_is_used_as_it_is() -> None:
    class Remembers(MonaiLike):
        def forward(self, x: Tensor) -> Tensor:
            self.last = super().forward(x)
            return self.last

    network = Remembers(3, 2, 3)
    network(some_input("plain3d"))  # what it remembers is part of a graph, which has no copy
    assert prepared_for_inference(network) is network


def test_a_convolution_of_another_class_computes_what_it_says() -> None:
    class Doubled(nn.Conv3d):
        def _conv_forward(self, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
            return super()._conv_forward(x, 2 * weight, bias)

    network = build("plain3d", deep_supervision=False)
    first = network.encoder.stages[0][0].convs[0]
    doubled = Doubled(2, 6, (1, 3, 3), padding=(0, 1, 1))
    doubled.load_state_dict(first.conv.state_dict())
    first.conv = doubled
    with torch.no_grad():
        expected = network(some_input("plain3d"))
    with torch.inference_mode():
        assert torch.allclose(prepared_for_inference(network)(some_input("plain3d")), expected, atol=1e-5)


def test_hooks_see_what_a_convolution_returned() -> None:
    network, seen = build("plain3d", deep_supervision=False), []
    convolution = network.encoder.stages[0][0].convs[0].conv
    convolution.register_forward_hook(lambda module, inputs, output: seen.append(output))
    with torch.inference_mode():
        network(some_input("plain3d"))
    with torch.no_grad():
        network(some_input("plain3d"))
    # The norm that follows may not write into an output that somebody keeps.
    assert torch.allclose(seen[0], seen[1], atol=1e-5)


@pytest.mark.parametrize("context", [torch.no_grad, torch.enable_grad])
def test_outside_of_inference_mode_nothing_changes(context: Any) -> None:
    layer = nn.Conv3d(1, 4, 3, padding=1)
    direct = copy.deepcopy(layer)
    direct.__class__ = DirectConv3d
    data = torch.randn(1, 1, 6, 6, 6)
    with context():
        assert torch.equal(direct(data), layer(data))
        assert direct(data).requires_grad == layer(data).requires_grad
