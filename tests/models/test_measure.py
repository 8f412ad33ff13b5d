"""Parameters, multiplications and time."""

import pytest
import torch
from torch import nn

from distillers import models
from distillers.models.profile import count_macs, count_parameters, latency_ms


def test_parameters_are_counted_and_buffers_are_not():
    net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Linear(5, 6))
    net[2].requires_grad_(False)
    assert count_parameters(net) == (3 * 4 * 9 + 4) + 8 + (5 * 6 + 6)


def test_macs_are_the_sums_by_hand():
    net = nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1, bias=False),
        nn.Conv2d(8, 8, 3, padding=1, groups=8, bias=False),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(8, 10),
    )
    assert count_macs(net, 16) == 16 * 16 * (3 * 8 * 9 + 8 * 9) + 8 * 10


@pytest.mark.parametrize(
    ("name", "size", "millions"),
    [
        ("resnet20", 32, 41.0),  # the known figure
        ("wrn_40_2", 32, 329.0),
        ("ResNet18", 224, 1814.0),  # torchvision's own figure
        ("torchvision:mobilenet_v2", 224, 301.0),  # the same
    ],
)
def test_macs_are_the_known_ones(name, size, millions):
    with torch.device("meta"):
        net = models.create(name, 1000 if size == 224 else 100, size)
    assert count_macs(net, size) / 1e6 == pytest.approx(millions, rel=0.01)


def test_measuring_leaves_the_network_as_it_was():
    net = models.create("resnet8").train()
    net.layer2.eval()
    before = {key: value.clone() for key, value in net.state_dict().items()}
    count_macs(net, 32)
    assert latency_ms(net, 16, batch_size=2, repeats=3) > 0
    assert net.training
    assert not net.layer2.training
    assert net.layer3.training
    assert all(torch.equal(value, before[key]) for key, value in net.state_dict().items())


def test_channels_can_be_others_than_three():
    net = nn.Sequential(nn.Conv2d(1, 2, 1, bias=False), nn.Flatten())
    assert count_macs(net, 4, channels=1) == 2 * 16
    assert latency_ms(net, 4, repeats=1, channels=1) > 0
