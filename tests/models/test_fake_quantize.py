"""Layers that simulate int8 in training, compared with slow rounding; evaluation is unchanged."""

import copy

import pytest
import torch
from torch import nn

from distillers import models
from distillers.models.fake_quantize import fake_quantize_layers, round_input, round_weight


def slowly_weight(weight):
    rows = []
    for channel in weight:
        scale = float(channel.abs().max()) / 127
        values = [round(float(v) / scale) * scale if scale else 0.0 for v in channel.flatten()]
        rows.append(torch.tensor(values).view_as(channel))
    return torch.stack(rows)


def slowly_input(x):
    low, high = min(0.0, float(x.min())), max(0.0, float(x.max()))
    scale = (high - low) / 255
    zero = round(-low / scale)
    steps = [min(255, max(0, round(float(v) / scale) + zero)) for v in x.flatten()]
    return torch.tensor([(step - zero) * scale for step in steps]).view_as(x)


def test_rounding_is_that_of_the_definition():
    torch.manual_seed(0)
    weight = torch.randn(4, 3, 3, 3) * torch.tensor([1.0, 10.0, 0.1, 0.0])[:, None, None, None]
    torch.testing.assert_close(round_weight(weight), slowly_weight(weight), rtol=1e-4, atol=1e-6)
    for x in (torch.randn(50), torch.rand(50) + 1, -torch.rand(50)):
        torch.testing.assert_close(round_input(x), slowly_input(x), rtol=1e-4, atol=1e-6)
    assert round_input(torch.randn(99).relu()).min() == 0  # padding and ReLU stay exact


def test_gradients_pass_the_rounding():
    weight = torch.randn(3, 5, requires_grad=True)
    (round_weight(weight) * torch.arange(15.0).view(3, 5)).sum().backward()
    assert torch.equal(weight.grad, torch.arange(15.0).view(3, 5))


@pytest.mark.parametrize("name", ["resnet8", "timm:tf_mobilenetv3_small_minimal_100"])
def test_only_training_is_rounded(name):
    """Also of timm's layers with padding as in TensorFlow, which are subclasses."""
    torch.manual_seed(0)
    net = models.create(name, num_classes=4, image_size=32)
    plain, images = copy.deepcopy(net), torch.randn(4, 3, 32, 32)
    count = fake_quantize_layers(net)
    assert count == sum(isinstance(m, nn.Conv2d | nn.Linear) for m in plain.modules())
    assert [*net.state_dict()] == [*plain.state_dict()]
    assert torch.equal(net.eval()(images), plain.eval()(images))
    one, other = net.train()(images), plain.train()(images)
    assert not torch.equal(one, other)
    one.sum().backward()
    assert all(p.grad is not None for p in net.parameters())
    assert all(isinstance(m.weight, nn.Parameter) for m in net.modules() if hasattr(m, "weight"))


def test_a_normalisation_after_a_layer_need_not_be_folded():
    """A factor for each output channel changes the channel's scale alone."""
    weight, factor = torch.randn(4, 6), torch.rand(4, 1) + 0.5
    torch.testing.assert_close(round_weight(weight * factor), round_weight(weight) * factor)
